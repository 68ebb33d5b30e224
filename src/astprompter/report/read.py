"""Read run directories: everything the page shows comes from their files (``docs/files.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.strict_json import read_object
from ..runs.directory import CONFIG, FAILURES, LOG, SUMMARY, TRAJECTORIES, TREES, Note, read_rows
from ..runs.schema import ConfigFile, ExperimentFile, SummaryFile
from .experiment import EXPERIMENT, cases_of

Row = dict[str, Any]


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


def read_runs(paths: Sequence[Path], *, note: Note | None = None) -> list[RunFiles]:
    """Read run directories; an experiment gives its pooled figures, another folder of runs stands for all of them.

    Args:
        paths: The folders.
        note: Told of torn last lines, which are left out; without it they are errors.

    Raises:
        UserError: A folder is no run directory, or one of its files is damaged; names file and line.
    """
    runs: list[RunFiles] = []
    folders: dict[Path, str] = {}

    def rows(path: Path) -> list[Row]:
        return read_rows(path, note=note) if path.is_file() else []

    for path in paths:
        if not path.is_dir():
            raise UserError(f"run directory '{path}' does not exist")
        if "cases" in _json(path / EXPERIMENT, dict[str, Any]):  # else it is another tool's
            experiment = _json(path / EXPERIMENT, ExperimentFile)
            runs += [RunFiles(path, name, **parts) for name, parts in cases_of(path, experiment, (_config, rows))]
            continue
        inner = [path] if _is_run(path) else sorted({p.parent for name in (SUMMARY, LOG) for p in path.rglob(name)})
        if not inner:
            raise UserError(f"'{path}' is not a run directory: it has neither {LOG} nor {SUMMARY}")
        for folder in inner:
            folders.setdefault(folder, path.resolve().name if folder == path else str(folder.relative_to(path)))
    names = list(folders.values())
    for folder, name in folders.items():
        summary = _json(folder / SUMMARY, SummaryFile)
        if summary and not summary["adversaries"]:
            raise UserError(f"'{folder / SUMMARY}' lists no adversaries; run 'astprompter evaluate' again")
        runs.append(
            RunFiles(
                folder,
                name if names.count(name) == 1 else str(folder),
                _config(folder / CONFIG),
                rows(folder / LOG),
                rows(folder / TREES),
                summary,
                rows(folder / FAILURES),
                rows(folder / TRAJECTORIES),
            )
        )
    return runs


def _is_run(path: Path) -> bool:
    return (path / LOG).is_file() or (path / SUMMARY).is_file()


def _json(path: Path, shape: Any) -> Row:
    return read_object(path, shape) if path.is_file() else {}


def _config(path: Path) -> Row:
    return _json(path, ConfigFile)
