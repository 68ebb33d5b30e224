"""What the pictures of a page show, in pixels; ``templates/pictures.html`` draws it.

Each function returns one picture, or ``None`` where the files do not hold what it needs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..base.formats import percent
from ..evaluation.themes import STRATEGIES
from ..runs.schema.run import LogRow
from .read import RunFiles
from .study import Adversary, Study

_MOST_LINES = 6
_BINS = 30
_Ends = Sequence[float] | None
_CURVES = (
    ("Dev reward", "mean R on held-out prefixes; the ring is the policy that was kept", "g",
     [("dev", "dev", "reward.mean", 0)]),
    ("Reward terms", "means over the collected turns, weights and signs included", "g",
     [("reply", "iteration", "reward.tox_reply_term", 0), ("turn", "iteration", "reward.tox_turn_term", 2),
      ("nll", "iteration", "reward.nll_term", 1)]),
    ("Toxic replies", "share, in training and on the dev prefixes", "%",
     [("dev", "dev", "tox_reply.share", 0), ("training", "iteration", "tox_reply.share", 1)]),
    ("nll", "nats per token under the defender", "g",
     [("dev", "dev", "nll.mean", 0), ("training", "iteration", "nll.mean", 1)]),
    ("Distinct failures", "in the dev conversations", "g", [("distinct", "dev", "distinct_failures", 0)]),
    ("Margin", "reward of chosen minus rejected, on-policy pairs", "g", [("margin", "iteration", "margin", 0)]),
    ("Speed", "tokens sampled per second, both speakers", "k",
     [("tokens/s", "iteration", "rates.sampled_tokens_per_s", 2)]),
)  # fmt: skip
"""Title, explanation and form of each curve of the log; its lines by name, type of row, field and colour."""


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


class Spot(NamedTuple):
    """A value and the ends of its intervals, if it has any."""

    x: float
    y: float
    across: _Ends = None
    up: _Ends = None


class Label(NamedTuple):
    """A name beside what it names."""

    x: float
    y: float
    words: str
    slot: int = 0
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class Plot:
    """Points between two axes.

    Attributes:
        x: Scale of the horizontal axis.
        y: Scale of the vertical one.
        series: Slot and points of what is drawn, the last one on top.
        labels: Names.
        turns: Turns on the horizontal axis, where they are.
        title: Name of a curve of the log.
        note: What it shows.
        form: How values at the vertical axis are written, see :func:`tick`.
        ring: The point that stands out.
    """

    x: Scale
    y: Scale
    series: Sequence[tuple[int, Sequence[tuple[Any, ...]]]]
    labels: Sequence[Label] = ()
    turns: int = 0
    title: str = ""
    note: str = ""
    form: str = "g"
    ring: tuple[float, float] | None = None


def tick(value: float, form: str) -> str:
    """A value at an axis: percent (``%``, ``0%``), thousands (``k``), with its sign (``+``), or short (``g``)."""
    if form == "0%":
        return percent(value, digits=0)
    if form == "k":
        return f"{value:,.0f}".replace(",", "\u202f")
    if form == "%":
        return f"{100 * value:.3g}\u00a0%"
    shown = f"{value:.3g}" if form == "3g" else f"{value:.4g}" if form == "g" else f"{value:+.3g}" if value else "0"
    return shown if form == "3g" else shown.replace("-", "−")


def px(value: float) -> str:
    """A coordinate, short."""
    return f"{round(value, 1) + 0:.1f}".removesuffix(".0")


def free_place(at: tuple[float, float], taken: list[tuple[float, float]]) -> tuple[float, float]:
    """A place for a label near ``at`` that no other label has."""
    x, y = at
    while any(abs(y - other) < 13 and abs(x - place) < 150 for place, other in taken):
        y += 13
    taken.append((x, y))
    return x, y


def _ends(scale: Scale, ends: _Ends) -> _Ends:
    return [scale(end) for end in ends] if ends else None


def _all(points: Iterable[tuple[float | None, _Ends]]) -> list[float]:
    """Values that a scale must hold: those that are there, and the ends of their intervals."""
    return [v for value, ends in points if value is not None for v in (value, *(ends or ()))]


def front(adversaries: Sequence[Adversary]) -> Plot | None:
    """Toxicity against likelihood, intervals on both sides."""
    shown = [
        (a, nll, nll.mean, tox, tox.share)
        for a in adversaries
        if (nll := a.figures.nll).mean is not None and (tox := a.figures.tox_reply).share is not None
    ]
    if not shown:
        return None
    x = scale(_all((mean, nll.ci) for _, nll, mean, _, _ in shown), 50, 464, pad=0.2)
    y = scale(_all((share, tox.share_ci) for *_, tox, share in shown), 276, 34, zero=True, pad=0.12)
    series, labels = [], []
    for a, nll, mean, tox, share in reversed(shown):
        series.append((a.slot, [Spot(x(mean), y(share), _ends(x, nll.ci), _ends(y, tox.share_ci))]))
    taken: list[tuple[float, float]] = []
    for height, across, label in sorted((y(share), x(mean), a.label) for a, _, mean, _, share in shown):
        right = across < 50 + 0.62 * 414
        place = free_place((across + (10 if right else -10), height - 9), taken)
        labels.append(Label(*place, label, anchor="start" if right else "end"))
    return Plot(x, y, series, labels)


def build_up(adversaries: Sequence[Adversary], *, share: bool) -> Plot | None:
    """A metric turn by turn, with intervals: the share of toxic replies, or the mean nll."""
    rows: list[tuple[Adversary, list[tuple[float | None, _Ends]]]] = []
    for a in adversaries:
        found = a.figures.tox_reply.per_turn if share else a.figures.nll.per_turn
        rows.append((a, [(turn.share, turn.share_ci) if share else (turn.mean, turn.ci) for turn in found]))
    rows = [row for row in rows if _all(row[1])][:_MOST_LINES]
    if not rows:
        return None
    y = scale(_all(point for _, points in rows for point in points), 276, 34, zero=share, pad=0.1)
    turns = max(len(points) for _, points in rows)
    x = scale([0.7, turns + 0.3], 50, 370, pad=0)
    series, labels = [], []
    for i, (a, points) in enumerate(rows):
        shift = (i - (len(rows) - 1) / 2) * 7
        spots = [
            Spot(x(n) + shift, y(v), None, _ends(y, ends)) for n, (v, ends) in enumerate(points, 1) if v is not None
        ]
        series.append((a.slot, spots))
        labels.append((spots[-1].y + 4, a.slot, a.label))
    taken: list[tuple[float, float]] = []
    named = [Label(*free_place((384, height), taken), label, slot) for height, slot, label in sorted(labels)]
    return Plot(x, y, series[::-1], named, turns)


def distribution(study: Study) -> Plot | None:
    """Histogram of the nll of every utterance, main adversary against untuned."""
    samples = []
    for a in filter(None, (study.main, study.untuned)):
        if values := sorted(t.nll for row in a.trajectories for t in row.turns if t.nll is not None):
            samples.append((a, values))
    if not samples:
        return None
    top = max(values[min(len(values) - 1, int(0.995 * len(values)))] for _, values in samples)
    low = min(values[0] for _, values in samples)
    width = (top - low) / _BINS or 1.0
    bars = [Counter(min(_BINS - 1, int((v - low) / width)) for v in values) for _, values in samples]
    shares = [[bar[i] / bar.total() for i in range(_BINS)] for bar in bars]
    x = scale([low, low + _BINS * width], 50, 464, pad=0.01)
    y = scale([share for row in shares for share in row], 276, 34, zero=True, pad=0.16)
    series, labels = [], []
    for n, ((a, values), row) in enumerate(zip(reversed(samples), reversed(shares), strict=True)):
        steps = [(x(low + (i + side) * width), y(share)) for i, share in enumerate(row) for side in (0, 1)]
        series.append((a.slot, [(x(low), 276.0), *steps, (x(low + _BINS * width), 276.0)]))
        middle = values[len(values) // 2]
        labels.append(Label(x(middle) + 6, 42 + 14 * n, f"{a.label}: median {middle:.2f}"))
    return Plot(x, y, series, labels)


class Forest(NamedTuple):
    """Paired differences.

    Attributes:
        rows: The adversary, and the name of its baseline.
        panels: Title, scale, and differences of all rows with their intervals.
    """

    rows: list[tuple[Adversary, str]]
    panels: list[tuple[str, Scale, list[tuple[float | None, _Ends]]]]


def forest(study: Study) -> Forest | None:
    """Paired differences from the first adversary of each evaluation, in toxicity and in likelihood."""
    for base in (study.main.key if study.main else "", None):
        rows = [(a, row) for a in study.adversaries if (row := a.comparison(base)) is not None]
        if len(rows) > 1:
            break
    else:
        return None
    panels = []
    for name, differences, factor, left, right in (
        ("toxic replies, points", [row.tox_reply.share for _, row in rows], 100, 230, 480),
        ("nll, nats per token", [row.nll.mean for _, row in rows], 1, 510, 745),
    ):
        points: list[tuple[float | None, _Ends]] = [
            (factor * found.difference, found.ci and [factor * end for end in found.ci])
            if found and found.difference is not None else (None, None)
            for found in differences
        ]  # fmt: skip
        panels.append((name, scale([0.0, *_all(points)], left, right, pad=0.08), points))
    return Forest([(a, row.b) for a, row in rows], panels)


class Strategies(NamedTuple):
    """Failures by strategy: of whom, which ones, and the most of one."""

    adversaries: list[Adversary]
    names: list[str]
    highest: int


def strategies(adversaries: Sequence[Adversary]) -> Strategies | None:
    """Failures by strategy, a bar for each adversary."""
    shown = [a for a in adversaries if a.figures.strategies][:4]
    others = {name for a in shown for name in a.figures.strategies} - set(STRATEGIES)
    highest = max((count for a in shown for count in a.figures.strategies.values()), default=0)
    return Strategies(shown, [*STRATEGIES, *sorted(others)], highest or 1) if shown else None


def learning(run: RunFiles) -> list[Plot]:
    """How training went, curve by curve."""
    best = next((row for row in reversed(run.log) if row.type == "dev" and row.best), None)
    found = []
    for title, note, form, wanted in _CURVES:
        lines = []
        for name, kind, field, slot in wanted:
            points = [(row.updates, value) for row in run.log if row.type == kind
                      if (value := _value(row, field)) is not None]  # fmt: skip
            if points:
                lines.append((name, points, slot))
        if not lines:
            continue
        x = scale(
            [0.0, *(at for _, points, _ in lines for at, _ in points)], 46, 236 if len(wanted) > 1 else 286, pad=0.02
        )
        y = scale([value for _, points, _ in lines for _, value in points], 150, 16, zero=form == "%", pad=0.12)
        series = [(slot, [(x(at), y(value)) for at, value in points]) for _, points, slot in lines]
        taken: list[tuple[float, float]] = []
        labels = [Label(*free_place((points[-1][0] + 6, points[-1][1] + 4), taken), name)
                  for (name, _, _), (_, points) in zip(lines, series, strict=True) if len(wanted) > 1]  # fmt: skip
        kept = _value(best, "reward.mean") if title == "Dev reward" else None
        ring = None if best is None or kept is None else (x(best.updates), y(kept))
        found.append(Plot(x, y, series, labels, title=title, note=note, form=form, ring=ring))
    return found


def _value(row: LogRow | None, field: str) -> Any:
    """A field of a field of a row; ``None`` where something on the way is not there."""
    found: Any = row
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
    return found
