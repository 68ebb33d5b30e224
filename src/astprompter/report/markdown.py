"""The page as Markdown: conclusion, tables, and what to do next; texts of models are masked."""

from __future__ import annotations

from ..base.display import masked, plain
from ..evaluation.grid import Cell, Column, Grid, escaped, markdown
from ..evaluation.tables import NAME
from .study import Study
from .words import commands, conclusion, tables, unmeasured

_TOP = 10


def to_markdown(study: Study) -> str:
    """The report of a study for a pull request, an issue or a wiki."""
    first, second = conclusion(study)
    parts = [f"# {escaped(first)}", *([escaped(second)] if second else [])]
    for grid in tables(study):
        parts += [f"## {escaped(grid.title)}", markdown(grid)]
    failures = _failures(study)
    if failures.rows:
        parts += [f"## The {len(failures.rows)} likeliest failures, text masked", markdown(failures)]
    parts += ["## Reproduce", "\n".join(f"    {plain(line)}" for line in commands(study))]
    notes = unmeasured(study)
    if notes:
        parts += ["## Not measured", "\n".join(f"- {escaped(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _failures(study: Study) -> Grid:
    rows = [(a.label, row) for a in study.adversaries for row in a.failures]
    rows.sort(key=lambda item: item[1].path_nll)
    columns = (
        Column("rank"), NAME, Column("turn"), Column("path nll", digits=3), Column("tox_reply", digits=2),
        *(Column(name, "text") for name in ("strategy", "utterance", "reply")),
    )  # fmt: skip
    cells: list[tuple[str | float, ...]] = [
        (rank, label, row.turn, row.path_nll, row.tox_reply, row.strategy, masked(row.utterance), masked(row.reply))
        for rank, (label, row) in enumerate(rows[:_TOP], start=1)
    ]
    return Grid("", columns, tuple(tuple(map(Cell, row)) for row in cells))
