"""Read run directories: everything the page shows comes from their files (``docs/files.md``)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import UserError
from ..base.names import OURS
from ..base.strict_json import read_object
from ..runs.directory import CONFIG, LOG, REPAIR, SUMMARY, TREES, Note
from ..runs.results import Row, result_rows
from ..runs.schema.common import R, read_rows
from ..runs.schema.learnt import TreeRow
from ..runs.schema.repair import RepairFile
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.run import ConfigFile, LogRow
from ..runs.schema.study import Case, Experiment
from ..runs.schema.summary import EvaluationConfig, MeasuredPrefixes, Summary

EXPERIMENT = "experiment.json"


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
        command: Of an experiment, the command line that made it, after ``astprompter``.
        measured: Of an experiment, the folder of its evaluations, by seed and adversary.
        exported: Folder whose failures ``astprompter export`` takes; the run's own when not given.
    """

    path: Path
    name: str
    config: ConfigFile | None
    log: list[LogRow]
    trees: list[TreeRow]
    summary: Summary | None
    failures: list[FailureRow]
    trajectories: list[TrajectoryRow]
    command: list[str] = field(default_factory=list)
    measured: Path | None = None
    exported: Path | None = None

    def folder_of(self, row: FailureRow) -> Path:
        """Folder of the evaluation that found a failure."""
        return self.measured / row.prefix_id.partition("/")[0] / row.adversary if self.measured else self.path


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
    for path in paths:
        if not path.is_dir():
            raise UserError(f"run directory '{path}' does not exist")
        if (path / EXPERIMENT).is_file() and "cases" in read_object(path / EXPERIMENT):  # else it is another tool's
            runs += _cases(path, note)
            continue
        if any((path / name).is_file() for name in (LOG, SUMMARY)):
            folders.setdefault(path, path.resolve().name)
            continue
        inner = _of_repair(path) or sorted({file.parent for name in (SUMMARY, LOG) for file in path.rglob(name)})
        if not inner:
            raise UserError(f"'{path}' is not a run directory: it has neither {LOG} nor {SUMMARY}")
        for folder in inner:
            folders.setdefault(folder, str(folder.relative_to(path)))
    names = Counter(folders.values())
    for folder, name in folders.items():
        summary = Summary.read(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
        if summary and not summary.adversaries:
            raise UserError(f"'{folder / SUMMARY}' lists no adversaries; run 'astprompter evaluate' again")
        failures = result_rows(folder, FailureRow, note=note, needed=False)
        rows = failures, result_rows(folder, TrajectoryRow, note=note, needed=False)
        runs.append(
            RunFiles(folder, name if names[name] == 1 else str(folder), *_training(folder, note), summary, *rows)
        )
    return runs


def _of_repair(path: Path) -> list[Path]:
    """Of a repair: how its last defender was measured, how the first one was, and what was trained."""
    if not (path / REPAIR).is_file():
        return []
    measured = [path / one.folder for one in RepairFile.read(path / REPAIR).defenders]
    trained = sorted({file.parent for file in path.rglob(LOG)})
    return list(dict.fromkeys([measured[-1], measured[0], *trained]))


def _training(folder: Path, note: Note | None) -> tuple[ConfigFile | None, list[LogRow], list[TreeRow]]:
    config = ConfigFile.read(folder / CONFIG) if (folder / CONFIG).is_file() else None
    return config, _rows(folder / LOG, LogRow, note), _rows(folder / TREES, TreeRow, note)


def _cases(folder: Path, note: Note | None) -> Iterator[RunFiles]:
    """Every pair of models of an experiment as a run: its pooled figures, and the texts and logs they came from."""
    found = Experiment.read(folder / EXPERIMENT)
    study = Path(os.path.normpath(folder / ".."))  # runs and evaluations lie beside the experiment's folder
    for name, case in found.cases.items():
        config, log, trees = _training(
            next(iter(sorted(study.glob(f"runs/{name}/seed-*/{OURS}"))), folder / "none"), note
        )
        measured = study / "evaluations" / name
        settings = dict(config.settings) if config else {}
        settings["rollout"] = {**(settings.get("rollout") or {}), "horizon": case.horizon}
        settings["evaluation"] = {**(settings.get("evaluation") or {}), "level": case.level}
        decided = EvaluationConfig(
            settings=settings, versions={}, defender=f"{case.defender} ({case.models.defender})", scorer=case.scorer,
            likelihood=case.likelihood,
            prefixes=MeasuredPrefixes(source=case.test, count=max(row.prefixes for row in case.adversaries.values())),
        )  # fmt: skip
        summary = Summary(adversaries=dict(case.adversaries), comparisons=case.comparisons, config=decided)
        exported = next(iter(sorted(measured.glob(f"seed-*/{OURS}"))), folder)
        rows = (
            _pooled(measured, case, FailureRow, note),
            _pooled(measured, case, TrajectoryRow, note),
        )
        yield RunFiles(folder, name, config, log, trees, summary, *rows, found.command, measured, exported)


def _pooled(folder: Path, case: Case, kind: type[Row], note: Note | None) -> list[Row]:
    """Rows of what the case pools, under the experiment's names; prefixes of different seeds stay apart."""
    return [
        row.model_copy(update={"adversary": name, "prefix_id": f"seed-{seed}/{row.prefix_id}"})
        for name, found in case.adversaries.items()
        for seed in found.seeds
        for row in result_rows(folder / f"seed-{seed}" / name, kind, note=note, needed=False)
    ]


def _rows(path: Path, kind: type[R], note: Note | None) -> list[R]:
    return read_rows(path, kind, note=note) if path.is_file() else []
