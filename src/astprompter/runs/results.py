"""The rows of an evaluation; its summary, written last, says how many there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TypeVar

from ..base.errors import UserError
from .directory import FAILURES, SUMMARY, TRAJECTORIES, Note
from .schema.common import read_rows
from .schema.results import FailureRow, TrajectoryRow
from .schema.summary import Summary

Row = TypeVar("Row", TrajectoryRow, FailureRow)


def result_rows(folder: Path, kind: type[Row], *, note: Note | None = None, needed: bool = True) -> list[Row]:
    """Rows of ``trajectories.jsonl`` or ``failures.jsonl``, all that the summary beside it counts.

    Args:
        folder: Where the evaluation was written.
        kind: The model of a row, which says which file.
        note: Told of a torn last line, which is left out; without it such a line is an error.
        needed: Whether the file must be there; where not, there are no rows without it.

    Raises:
        UserError: The file cannot be read, is damaged, or lacks rows, or has some too many.
    """
    path, torn = folder / (TRAJECTORIES if kind is TrajectoryRow else FAILURES), list[str]()
    if not needed and not path.is_file():
        return []
    rows = read_rows(path, kind, note=note and torn.append)
    if note is not None:
        for line in torn:
            note(line)
    if not (folder / SUMMARY).is_file():
        return rows
    there = Counter(row.adversary for row in rows)
    counted = {
        name: row.prefixes if kind is TrajectoryRow else row.failure_within_horizon.failed
        for name, row in Summary.read(folder / SUMMARY).adversaries.items()
    }
    differ = {name: count for name, count in counted.items() if count != there[name]}
    if sum(abs(count - there[name]) for name, count in differ.items()) > len(torn):
        told = ", ".join(f"{there[name]} of '{name}' in place of {count}" for name, count in differ.items())
        raise UserError(f"'{path}' does not hold the rows that {SUMMARY} counts, but {told}; evaluate again")
    return rows
