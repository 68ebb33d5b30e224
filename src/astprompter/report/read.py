"""Read run directories: everything the page shows comes from their files (``docs/files.md``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, words_of
from ..runlog import CONFIG, FAILURES, LOG, SUMMARY, TRAJECTORIES, TREES, read_rows
from .experiment import EXPERIMENT, cases_of

Row = dict[str, Any]
_NEEDED = {
    TRAJECTORIES: ("adversary", "prefix_id", "prefix", "turns"),
    FAILURES: ("rank", "adversary", "prefix_id", "turn", "path_nll", "tox_reply", "utterance", "reply"),
    LOG: ("type", "updates"),
    TREES: ("iteration", "prefix", "nodes"),
}


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What one run directory holds; what it lacks is empty.

    Attributes:
        path: The folder, as the user named it.
        name: Short name for tables and figures, unique among the runs of a page.
        config: ``config.json``.
        log: Rows of ``log.jsonl``.
        trees: Rows of ``trees.jsonl``.
        summary: ``summary.json``.
        failures: Rows of ``failures.jsonl``.
        trajectories: Rows of ``trajectories.jsonl``.
    """

    path: Path
    name: str
    config: Row
    log: list[Row]
    trees: list[Row]
    summary: Row
    failures: list[Row]
    trajectories: list[Row]


def read_runs(paths: Sequence[Path]) -> list[RunFiles]:
    """Read run directories; an experiment gives its pooled figures, another folder of runs stands for all of them.

    Raises:
        UserError: A folder is no run directory, or one of its files is damaged; names file and line.
    """
    runs: list[RunFiles] = []
    folders: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"run directory '{path}' does not exist")
        if "cases" in (experiment := _json(path / EXPERIMENT)):
            runs += [RunFiles(path, name, **parts) for name, parts in cases_of(path, experiment, (_json, _log))]
            continue
        inner = [path] if _is_run(path) else sorted({p.parent for name in (SUMMARY, LOG) for p in path.rglob(name)})
        if not inner:
            raise UserError(f"'{path}' is not a run directory: it has neither {LOG} nor {SUMMARY}")
        for folder in inner:
            folders.setdefault(folder, path.resolve().name if folder == path else str(folder.relative_to(path)))
    names = list(folders.values())
    return runs + [_read(folder, name if names.count(name) == 1 else str(folder)) for folder, name in folders.items()]


def _is_run(path: Path) -> bool:
    return (path / LOG).is_file() or (path / SUMMARY).is_file()


def _read(folder: Path, name: str) -> RunFiles:
    summary = _json(folder / SUMMARY)
    if summary and not (isinstance(summary.get("adversaries"), dict) and summary["adversaries"]):
        raise UserError(f"'{folder / SUMMARY}' lists no adversaries; run 'astprompter evaluate' again")
    return RunFiles(
        folder, name, _json(folder / CONFIG), _log(folder / LOG), _log(folder / TREES),
        summary, _rows(folder / FAILURES), _rows(folder / TRAJECTORIES),
    )  # fmt: skip


def _json(path: Path) -> Row:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {words_of(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' was not written by astprompter: it holds no JSON object")
    return content


def _rows(path: Path, *, growing: bool = False) -> list[Row]:
    if not path.is_file():
        return []
    try:
        rows = read_rows(path, growing=growing)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from None
    for number, row in enumerate(rows, start=1):
        lacking = _lacking(row, _NEEDED[path.name])
        if lacking:
            raise UserError(f"'{path}', line {number}: no '{lacking}'; it was not written by this version")
    return rows


def _log(path: Path) -> list[Row]:
    """Rows of a log that may still be written."""
    return _rows(path, growing=True)


def _lacking(row: object, names: Iterable[str]) -> str | None:
    return next((name for name in names if not isinstance(row, dict) or name not in row), None)
