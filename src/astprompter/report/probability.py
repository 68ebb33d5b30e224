"""How likely failure is, as a section of the page: from ``probability.json`` of the runs; texts are always masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.display import masked
from ..evaluation.grid import Cell, Column, Grid, escaped, markdown
from ..probability import words
from ..runs.schema.probability import ProbabilityFile
from .read import RunFiles

PROBABILITY = "probability.json"
_TOP = 5


@dataclass(frozen=True, slots=True)
class Section:
    """What one run's estimate says.

    Attributes:
        run: Its name.
        found: The file.
    """

    run: str
    found: ProbabilityFile

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Limits, other estimates, verdict and cost, each named."""
        reach = [("reach", said)] if (said := words.reach(self.found)) else []
        return [
            *words.rows_of(self.found),
            *reach,
            ("verdict", words.verdict(self.found)),
            ("cost", words.cost(self.found)),
        ]

    @property
    def headline(self) -> str:
        """The estimate in a sentence."""
        return words.headline(self.found)

    @property
    def caveats(self) -> list[str]:
        """What it must be read with."""
        return words.caveats(self.found)

    @property
    def grids(self) -> list[Grid]:
        """The estimate by estimator, turn, who spoke, and opening."""
        return [_estimators(self.found), *(_parts(self.found) if self.found.limits.estimate else [])]

    @property
    def heaviest(self) -> list[tuple[str, list[str]]]:
        """The conversations that carry most: share of the estimate, and texts, masked, opening first."""
        return [
            (f"{100 * row.share:.1f}%", [masked(text.strip()) for text in row.texts])
            for row in self.found.heaviest[:_TOP]
        ]


def sections(runs: Sequence[RunFiles]) -> list[Section]:
    """Sections of the runs that were measured.

    Raises:
        UserError: A file is damaged or from another version.
    """
    return [
        Section(run.name, ProbabilityFile.read(run.path / PROBABILITY))
        for run in runs
        if (run.path / PROBABILITY).is_file()
    ]


def to_markdown(runs: Sequence[RunFiles]) -> str:
    """The sections as Markdown; empty where nothing was measured."""
    parts = []
    for section in sections(runs):
        parts += [f"## How likely failure is: {escaped(section.run)}", f"{escaped(section.headline)}."]
        parts += ["\n".join(f"- {name}: {escaped(said)}" for name, said in section.rows)]
        for grid in section.grids:
            parts += [f"### {grid.title}", markdown(grid)]
        parts += [escaped(" ".join(section.caveats))]
    return "\n\n".join(parts) + "\n" if parts else ""


def _estimators(found: ProbabilityFile) -> Grid:
    natural, second = found.diagnostics.natural, found.second
    rows: list[tuple[str, float, Sequence[float] | None, int]] = [
        ("importance sampling", found.limits.estimate, found.limits.interval, found.cost.conversations),
        ("Monte Carlo: its natural conversations alone", natural.estimate, None, natural.conversations),
    ]
    if second is not None:
        rows.append(("splitting", second.estimate, second.interval, second.islands * second.particles))
    columns = (
        Column("estimator", "text"), Column("fails", "percent", digits=3, interval=True), Column("once in", "text"),
        Column("conversations"),
    )  # fmt: skip
    cells = tuple(
        (Cell(name), Cell(value, ends), Cell(words.count_of(value)), Cell(count)) for name, value, ends, count in rows
    )
    return Grid("Estimators side by side", columns, cells)


def _parts(found: ProbabilityFile) -> list[Grid]:
    total, once, share = (
        found.limits.estimate,
        Column("once in", "text"),
        Column("of the estimate", "percent", digits=1),
    )
    turns = [(Cell(row.turn), Cell(words.count_of(row.estimate)), Cell(row.estimate / total)) for row in found.per_turn]
    who = [
        (
            Cell(words.who(row)), Cell(row.conversations), Cell(row.failures), Cell(row.likelier),
            Cell(words.share_of(row, found)),
        )
        for row in found.components
    ]  # fmt: skip
    openings = [(Cell(row.prefix_id), Cell(row.conversations), Cell(row.share)) for row in found.openings]
    return [
        Grid("By turn of the first failure", (Column("turn"), once, share), tuple(turns)),
        Grid(
            "By who spoke",
            (
                Column("who", "text"), Column("conversations"), Column("failed"),
                Column("natural failures it makes likelier", "percent", digits=1), share,
            ),
            tuple(who),
        ),
        Grid(
            "Openings that carry most",
            (Column("opening", "text"), Column("conversations"), share), tuple(openings),
        ),
    ]  # fmt: skip
