"""One table of figures and its renderings: terminal, Markdown, LaTeX, CSV; the page renders the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..base.display import plain
from ..base.formats import interval, number

if TYPE_CHECKING:
    from rich.console import RenderableType

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN = frozenset("\\`*_[]<>|#~&!$@")
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": r"$-$", "λ": r"$\lambda$",
    "τ": r"$\tau$", "α": r"$\alpha$", "β": r"$\beta$", ">": "$>$", "<": "$<$", "|": r"\textbar{}",
}  # fmt: skip
_GAP = 2
"""Cells between columns: one of padding, one of the box."""


@dataclass(frozen=True, slots=True)
class Column:
    """What the cells of a column are.

    Attributes:
        name: Heading.
        kind: ``text``, ``number``, or of a share in [0, 1] ``percent`` or ``points`` (a difference of percentages).
        digits: Digits after the point.
        interval: Whether the cells have intervals.
        sign: Whether a plus is shown: differences.
    """

    name: str
    kind: Literal["text", "number", "percent", "points"] = "number"
    digits: int = 0
    interval: bool = False
    sign: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as it was computed, and its interval.

    Attributes:
        value: The text or number; ``None`` where it is undefined.
        ci: Its interval, in the value's unit.
    """

    value: str | float | None
    ci: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        title: What it shows.
        columns: The first ones hold names, the others figures.
        rows: A cell for each column.
        note: What the columns mean, where the headings do not say it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def header(self) -> tuple[str, ...]:
        """Headings."""
        return tuple(column.name for column in self.columns)

    def texts(self) -> list[list[tuple[str, str]]]:
        """Every cell as it is shown anywhere: its value, and its interval (empty without one)."""
        return [[_shown(*pair) for pair in zip(self.columns, row, strict=True)] for row in self.rows]


def _shown(column: Column, cell: Cell) -> tuple[str, str]:
    value = cell.value
    if isinstance(value, str):
        return value, ""
    scale, unit = (1.0, "") if column.kind == "number" else (100.0, "%" if column.kind == "percent" else "")
    text = number(None if value is None else scale * value, column.digits, sign=column.sign)
    return text + unit * (value is not None), interval(cell.ci, column.digits, scale=scale, sign=column.sign)


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table, without its title."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(escaped, cells))} |"

    rule = "|" + "|".join("---" if column.kind == "text" else "---:" for column in grid.columns) + "|"
    return "\n".join([line(grid.header), rule, *(line([_joined(*cell) for cell in row]) for row in grid.texts())])


def escaped(text: str) -> str:
    """Text that Markdown takes as text: control codes visible, its marks escaped."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in plain(text))


def latex(grid: Grid) -> str:
    """A grid as a LaTeX table for the package ``booktabs``."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_tex, cells)) + r" \\"

    rows = [[_joined(*cell) for cell in row] for row in grid.texts()]
    shown = [[text if c.kind == "text" else text.replace("-", "−") for c, text in zip(grid.columns, row, strict=True)]
             for row in rows]  # fmt: skip
    kinds = "".join("l" if column.kind == "text" else "r" for column in grid.columns)
    body = [line(grid.header), r"\midrule", *map(line, shown)]
    head = [r"\begin{table}", rf"\caption{{{_tex(grid.title)}}}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def comma_separated(grid: Grid) -> str:
    """A grid as CSV: numbers as they were computed; a column with intervals is three (``NAME_low``, ``NAME_high``)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")

    def write(rows: Sequence[Sequence[Sequence[object]]]) -> None:
        for row in rows:
            writer.writerow([guarded(value) for column, cell in zip(grid.columns, row, strict=True)
                             for value in (cell if column.interval else cell[:1])])  # fmt: skip

    write([[(column.name, f"{column.name}_low", f"{column.name}_high") for column in grid.columns]])
    write([[(cell.value, *(cell.ci or (None, None))) for cell in row] for row in grid.rows])
    return file.getvalue()


def guarded(cell: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def terminal(grid: Grid, width: int) -> RenderableType:
    """A grid for a terminal: intervals stand below their values; what is too wide goes on in a further table.

    No figure is ever cut: names are wrapped, and columns that do not fit stand below, beside the names again.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    texts, names = grid.texts(), sum(column.kind == "text" for column in grid.columns) or 1
    widths = [_width([column.name, *(part for row in texts for part in row[place])], column.kind == "text")
              for place, column in enumerate(grid.columns)]  # fmt: skip
    room = max(width - _GAP - max(widths[names:], default=0), 8 * names)
    for place in range(names):
        widths[place] = min(widths[place], room // names)
    tables: list[RenderableType] = [Text(grid.title, style="italic")] if grid.title else []
    for panel in _panels(widths, names, width):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for place in panel:
            column = grid.columns[place]
            text = column.kind == "text"
            table.add_column(Text(column.name), justify="left" if text else "right", width=widths[place],
                             overflow="fold", no_wrap=False)  # fmt: skip
        for row in texts:
            table.add_row(*(_cell(*row[place]) for place in panel))
        tables.append(table)
    return Group(*tables, *([Text(grid.note, style="dim")] if grid.note else []))


def as_text(grid: Grid, width: int = 80) -> str:
    """A grid as plain text of at most a width, as a terminal shows it."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, emoji=False)
    console.print(terminal(grid, width))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def _cell(value: str, bounds: str) -> RenderableType:
    from rich.text import Text

    return Text(plain(value)).append(f"\n{bounds}" if bounds else "", style="dim")


def _width(texts: Sequence[str], wraps: bool) -> int:
    """Cells that texts need; a heading is broken at its spaces."""
    from rich.cells import cell_len

    heading = texts[0] if wraps else max(texts[0].split(), key=cell_len)
    return max(map(cell_len, (heading, *map(plain, texts[1:]))))


def _panels(widths: Sequence[int], names: int, width: int) -> Iterator[list[int]]:
    """Columns that fit beside each other, the names first in each panel."""
    first = list(range(names))
    panel = list(first)
    for place in range(names, len(widths)):
        if len(panel) > names and sum(widths[column] + _GAP for column in [*panel, place]) - _GAP > width:
            yield panel
            panel = list(first)
        panel.append(place)
    yield panel


def _joined(value: str, bounds: str) -> str:
    return f"{value} {bounds}" if bounds else value


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
