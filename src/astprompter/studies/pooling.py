"""Read what the seeds of a study measured of one adversary; :mod:`~astprompter.evaluation.summarise` pools it.

Two sources of chance are kept apart. *Prefixes*: intervals come from a bootstrap that draws prefixes, each with its
turns under all seeds, since these belong together. *Seeds* (training and sampling): too few to resample, so every
figure also comes for each seed, with the standard deviation over seeds. An interval therefore says how far the figure
would move with other prefixes, the spread how far with other seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..base.errors import UserError
from ..evaluation.stored import failing_of, over_scorers
from ..evaluation.summarise import Measured, alike, tables_of
from ..evaluation.themes import STRATEGIES
from ..runs.directory import SUMMARY
from ..runs.results import result_rows
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.summary import Summary


def pool(folders: Mapping[int, Path], threshold: float) -> Measured:
    """Read the measurements of one adversary, one folder per seed.

    Args:
        folders: Seed to folder.
        threshold: A reply whose toxicity is above this is a failure.

    Raises:
        UserError: A file is damaged, or the seeds were measured on different prefixes or defenders.
    """
    trajectories = [result_rows(folder, TrajectoryRow) for folder in folders.values()]
    summaries = [Summary.read(folder / SUMMARY) for folder in folders.values()]
    failures = [row for folder in folders.values() for row in result_rows(folder, FailureRow)]
    prefixes = [tuple(row.prefix_id for row in rows) for rows in trajectories]
    configs = [summary.config for summary in summaries]
    inputs = [((c.prefixes.sha256 if c.prefixes else None) or "", c.defender_sha256 or "") for c in configs]
    if len(set(prefixes)) > 1 or not all(alike(inputs[0], other) for other in inputs):
        place = folders[min(folders)].parent.parent
        raise UserError(f"'{place}': the seeds were measured on different prefixes or defenders; measure them again")
    counts = Counter(row.strategy for row in failures)
    turns = [[row.turns for row in rows] for rows in trajectories]
    utterance, reply = (over_scorers(turns, name, max) for name in ("tox_utterance", "tox_reply"))
    return Measured(
        seeds=tuple(folders),
        prefixes=prefixes[0],
        tables=tables_of(turns),
        diversity=tuple(row.diversity for summary in summaries for row in summary.adversaries.values()),
        strategies={name: counts[name] for name in STRATEGIES},
        inputs=inputs[0],
        likelihood=configs[-1].likelihood,
        least=over_scorers(turns, "tox_reply", min),
        most=None if utterance is None or reply is None else (utterance, reply),
        accumulated=any(row.accumulated for rows in trajectories for row in rows),
        failing=tuple(failing_of(trajectories, threshold)),
        reply_kinds=Counter(turn.reply_kind for rows in trajectories for row in rows for turn in row.turns),
        prefixes_cut=sum(bool(r.prefix_cut or r.prefix_cut_for_adversary) for rows in trajectories for r in rows),
    )
