"""A small SVG writer: shapes carry classes, the page's CSS gives them their colours in light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Point = tuple[float, float]
_MARKERS = ("circle", "square", "triangle", "diamond", "cross", "bar")


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to pixels, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range, about ``count`` of them."""
        raw = (self.high - self.low) / count
        size = 10 ** math.floor(math.log10(raw))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Sequence[float], start: float, end: float, *, zero: bool = False, pad: float = 0.06) -> Scale:
    """A scale that holds all values, with room at the ends (none below zero where ``zero`` is asked for)."""
    low, high = min(values), max(values)
    if zero:
        low = min(0.0, low)
    room = (high - low) * pad if high > low else abs(high) * 0.1 or 1.0
    return Scale(low if zero and low == 0 else low - room, high + room, start, end)


@dataclass(slots=True)
class Drawing:
    """Shapes on a canvas of ``width`` x ``height``; all text is escaped here."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def line(self, a: Point, b: Point, kind: str) -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{_n(a[0])}" y1="{_n(a[1])}" x2="{_n(b[0])}" y2="{_n(b[1])}" class="{kind}"/>')

    def path(self, points: Sequence[Point], kind: str, *, close: bool = False) -> None:
        """Straight lines through points."""
        text = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.parts.append(f'<path d="M{text}{"Z" if close else ""}" class="{kind}"/>')

    def curve(self, a: Point, b: Point, kind: str) -> None:
        """A horizontal link between two points."""
        middle = (a[0] + b[0]) / 2
        self.parts.append(
            f'<path d="M{_n(a[0])} {_n(a[1])}C{_n(middle)} {_n(a[1])} {_n(middle)} {_n(b[1])} {_n(b[0])} {_n(b[1])}" '
            f'class="{kind}"/>'
        )

    def rect(self, corner: Point, size: Point, kind: str, *, radius: float = 0) -> None:
        """A rectangle by its upper left corner."""
        self.parts.append(
            f'<rect x="{_n(corner[0])}" y="{_n(corner[1])}" width="{_n(max(0, size[0]))}" '
            f'height="{_n(max(0, size[1]))}" rx="{_n(radius)}" class="{kind}"/>'
        )

    def circle(self, center: Point, radius: float, kind: str) -> None:
        """A circle."""
        self.parts.append(f'<circle cx="{_n(center[0])}" cy="{_n(center[1])}" r="{_n(radius)}" class="{kind}"/>')

    def text(self, at: Point, text: str, kind: str = "", *, anchor: str = "start") -> None:
        """A line of text."""
        self.parts.append(
            f'<text x="{_n(at[0])}" y="{_n(at[1])}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
        )

    def marker(self, at: Point, slot: int, radius: float = 5) -> None:
        """The mark of an adversary: its shape tells it as its colour does."""
        (x, y), r, kind = at, radius, f"mark s{slot % 8}"
        shape = _MARKERS[slot % len(_MARKERS)]
        if shape == "circle":
            self.circle(at, r, kind)
        elif shape == "square":
            self.rect((x - r * 0.9, y - r * 0.9), (1.8 * r, 1.8 * r), kind)
        elif shape == "triangle":
            self.path([(x, y - 1.1 * r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], kind, close=True)
        elif shape == "diamond":
            self.path([(x, y - 1.2 * r), (x + 1.2 * r, y), (x, y + 1.2 * r), (x - 1.2 * r, y)], kind, close=True)
        elif shape == "cross":
            self.path([(x - r, y - r), (x + r, y + r)], f"stroke s{slot % 8}")
            self.path([(x - r, y + r), (x + r, y - r)], f"stroke s{slot % 8}")
        else:
            self.rect((x - 1.2 * r, y - 0.4 * r), (2.4 * r, 0.8 * r), kind)

    def open(self, kind: str, **data: object) -> None:
        """Begin a group; ``data`` become data attributes."""
        extra = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
        self.parts.append(f'<g class="{kind}"{extra}>')

    def close(self) -> None:
        """End a group."""
        self.parts.append("</g>")

    def render(self, title: str, *, kind: str = "") -> Markup:
        """The finished picture; ``title`` says in words what it shows."""
        # Everything that came from outside went through escape() above; the rest are numbers and our own class names.
        return Markup(  # noqa: S704
            f'<svg viewBox="0 0 {_n(self.width)} {_n(self.height)}" class="{kind}" role="img" '
            f'aria-label="{escape(title)}">{"".join(self.parts)}</svg>'
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the plot area of a drawing lies, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def axes(d: Drawing, frame: Frame, x: Scale, y: Scale, x_name: str, y_name: str, *, form: str = "g") -> None:
    """Grid, ticks and names; the vertical name stands above its axis, where it reads."""
    for value in y.ticks(4):
        d.line((frame.left, y(value)), (frame.right, y(value)), "grid")
        d.text((frame.left - 8, y(value) + 4), _tick(value, form), "tick", anchor="end")
    for value in x.ticks(5):
        d.line((x(value), frame.bottom), (x(value), frame.bottom + 4), "axis")
        d.text((x(value), frame.bottom + 18), _tick(value, "g"), "tick", anchor="middle")
    d.line((frame.left, frame.bottom), (frame.right, frame.bottom), "axis")
    d.text((0, frame.top - 12), y_name, "name")
    d.text((frame.right, frame.bottom + 36), x_name, "name", anchor="end")


def _tick(value: float, form: str) -> str:
    if form == "%":
        return f"{100 * value:.3g}\u00a0%"
    if form == "k":
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}".replace("-", "−")


def _n(value: float) -> str:
    """A coordinate, short."""
    text = f"{value:.1f}"
    return text.removesuffix(".0").replace("-0", "0") if text in ("-0.0", "0.0") else text.removesuffix(".0")
