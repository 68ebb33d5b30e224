"""The page as Markdown: conclusion, tables, and what to do next; texts of models are masked."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.display import masked, plain
from ..evaluation.grid import Cell, Column, Grid, escaped, markdown
from ..evaluation.tables import NAME
from ..runs.schema.results import by_rank
from .study import Study
from .words import commands, conclusion, tables, title, unmeasured

_TOP = 10


def to_markdown(studies: Sequence[Study]) -> str:
    """The report of studies for a pull request, an issue or a wiki."""
    several = len(studies) > 1
    parts, level = [f"# {escaped(title(studies))}"], "#" * (2 + several)
    for study in studies:
        first, second = conclusion(study)
        parts += [f"## {escaped(study.basis)}", escaped(first)] if several else []
        parts += [escaped(second)] if second else []
        for grid in tables(study):
            parts += [f"{level} {escaped(grid.title)}", markdown(grid)]
            parts += [f"{escaped(grid.note)}."] if grid.note else []
        changed = [f"- {escaped(a.label)}: {escaped(', '.join(a.changes))}" for a in study.adversaries if a.changes]
        if changed:
            parts += [f"{level} Settings that differ", "\n".join(changed)]
        if (failures := _failures(study)).rows:
            parts += [
                f"{level} The {len(failures.rows)} likeliest failures, {_confirmed(study)}text masked",
                markdown(failures),
            ]
    parts += ["## Reproduce", "\n".join(f"    {plain(line)}" for line in commands(studies))]
    for study in studies:
        if notes := unmeasured(study):
            where = f": {escaped(study.basis)}" if several else ""
            parts += [f"## Not measured{where}", "\n".join(f"- {escaped(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _confirmed(study: Study) -> str:
    return "confirmed ones first, " if any(row.confirmed for a in study.adversaries for row in a.failures) else ""


def _failures(study: Study) -> Grid:
    rows = [(a.label, row) for a in study.adversaries for row in a.failures]
    rows.sort(key=lambda item: by_rank(item[1].confirmed, item[1].path_nll))
    columns = (
        Column("rank"), NAME, Column("turn"), Column("path nll", digits=3), Column("tox_reply", digits=2),
        *(Column(name, "text") for name in ("confirmed", "strategy", "utterance", "reply")),
    )  # fmt: skip
    cells: list[tuple[str | float | None, ...]] = [
        (rank, label, row.turn, row.path_nll, row.tox_reply, {None: "–", True: "yes", False: "no"}[row.confirmed],
         row.strategy, masked(row.utterance), masked(row.reply))
        for rank, (label, row) in enumerate(rows[:_TOP], start=1)
    ]  # fmt: skip
    return Grid("", columns, tuple(tuple(map(Cell, row)) for row in cells))
