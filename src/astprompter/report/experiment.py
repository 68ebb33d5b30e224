"""An experiment's folder as runs: its pooled figures, and the texts and logs that they came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..base.names import OURS
from ..runs.directory import CONFIG, FAILURES, LOG, TRAJECTORIES, TREES

EXPERIMENT = "experiment.json"
Row = dict[str, Any]
Readers = tuple[Callable[[Path], Row], Callable[[Path], list[Row]]]


def cases_of(folder: Path, found: Row, readers: Readers) -> Iterator[tuple[str, Row]]:
    """The parts of a :class:`~astprompter.report.read.RunFiles` for every pair of models.

    Args:
        folder: Where ``experiment.json`` lies; runs and evaluations lie beside this folder.
        found: Content of its ``experiment.json``.
        readers: How to read a JSON file and a file of rows.

    Yields:
        The pair's name, and the fields ``config``, ``log``, ``trees``, ``summary``, ``failures``, ``trajectories``.
    """
    one, many = readers
    study = Path(os.path.normpath(folder / ".."))
    for name, case in found["cases"].items():
        run = next(iter(sorted(study.glob(f"runs/{name}/seed-*/{OURS}"))), folder / "none")
        config = one(run / CONFIG)
        settings = dict(config.get("settings") or {})
        settings["rollout"] = {**(settings.get("rollout") or {}), "horizon": case["horizon"]}
        settings["evaluation"] = {**(settings.get("evaluation") or {}), "level": case.get("level", 0.95)}
        seeds = {seed for row in case["adversaries"].values() for seed in row.get("seeds", ())}
        facts = {
            "settings": settings,
            "defender": f"{case['defender']} ({case['models']['defender']})",
            "scorer": case["scorer"],
            "likelihood": case.get("likelihood") or "defender",
            "prefixes": {"source": case["test"], "count": max(row["prefixes"] for row in case["adversaries"].values())},
            "seeds": len(seeds),
            "export": str(next(iter(sorted(study.glob(f"evaluations/{name}/seed-*/{OURS}"))), folder)),
            "command": found.get("command") or ["experiment", found["experiment"], "--out", str(study)],
        }
        yield (
            name,
            {
                "config": config,
                "log": many(run / LOG),
                "trees": many(run / TREES),
                "summary": {"adversaries": case["adversaries"], "comparisons": case["comparisons"], "config": facts},
                "failures": _texts(study / "evaluations" / name, case, FAILURES, many),
                "trajectories": _texts(study / "evaluations" / name, case, TRAJECTORIES, many),
            },
        )


def _texts(folder: Path, case: Row, file: str, many: Callable[[Path], list[Row]]) -> list[Row]:
    """Rows of what the case pools, under the experiment's names; prefixes of different seeds stay apart."""
    rows = []
    for name, found in case["adversaries"].items():
        for seed in found.get("seeds", ()):
            kept = many(folder / f"seed-{seed}" / name / file)
            rows += [{**row, "adversary": name, "prefix_id": f"seed-{seed}/{row['prefix_id']}"} for row in kept]
    return rows
