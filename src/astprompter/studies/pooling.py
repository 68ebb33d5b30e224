"""Read what the seeds of a study measured of one adversary; :mod:`~astprompter.evaluation.summarise` pools it.

Two sources of chance are kept apart. *Prefixes*: intervals come from a bootstrap that draws prefixes, each with its
turns under all seeds, since these belong together. *Seeds* (training and sampling): too few to resample, so every
figure also comes for each seed, with the standard deviation over seeds. An interval therefore says how far the figure
would move with other prefixes, the spread how far with other seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..evaluation.statistics import Floats
from ..evaluation.summarise import Measured, alike, tables_of
from ..evaluation.themes import STRATEGIES
from ..runs.directory import FAILURES, SUMMARY, TRAJECTORIES
from ..runs.schema.common import read_rows
from ..runs.schema.results import FailureRow, TrajectoryRow, TurnRow
from ..runs.schema.summary import Summary


def pool(folders: Mapping[int, Path]) -> Measured:
    """Read the measurements of one adversary, one folder per seed.

    Raises:
        UserError: A file is damaged, or the seeds were measured on different prefixes or defenders.
    """
    trajectories = [read_rows(folder / TRAJECTORIES, TrajectoryRow) for folder in folders.values()]
    summaries = [Summary.read(folder / SUMMARY) for folder in folders.values()]
    failures = [row for folder in folders.values() for row in read_rows(folder / FAILURES, FailureRow)]
    prefixes = [tuple(row.prefix_id for row in rows) for rows in trajectories]
    configs = [summary.config for summary in summaries]
    inputs = [((c.prefixes.sha256 if c.prefixes else None) or "", c.defender_sha256 or "") for c in configs]
    if len(set(prefixes)) > 1 or not all(alike(inputs[0], other) for other in inputs):
        place = folders[min(folders)].parent.parent
        raise UserError(f"'{place}': the seeds were measured on different prefixes or defenders; measure them again")
    counts = Counter(row.strategy for row in failures)
    return Measured(
        seeds=tuple(folders),
        prefixes=prefixes[0],
        tables=tables_of([[row.turns for row in rows] for rows in trajectories]),
        diversity=tuple(row.diversity for summary in summaries for row in summary.adversaries.values()),
        strategies={name: counts[name] for name in STRATEGIES},
        inputs=inputs[0],
        likelihood=configs[-1].likelihood,
        least=_least([[row.turns for row in rows] for rows in trajectories]),
        reply_kinds=Counter(turn.reply_kind for rows in trajectories for row in rows for turn in row.turns),
        prefixes_cut=sum(bool(r.prefix_cut or r.prefix_cut_for_adversary) for rows in trajectories for r in rows),
    )


def _least(seeds: list[list[list[TurnRow]]]) -> Floats | None:
    """Least toxicity of every reply under all scorers, [seeds, prefixes, turns]; ``None`` where there is one scorer."""

    def value(turn: TurnRow) -> float:
        found = [scores.tox_reply for scores in (turn.scores or {}).values()]
        known = [score for score in found if score is not None]
        return min(known) if len(known) == len(found) else math.nan

    if not all(turn.scores for paths in seeds for turns in paths for turn in turns):
        return None
    return np.array([[[value(turn) for turn in turns] for turns in paths] for paths in seeds], np.float64)
