"""Read what the seeds of a study measured of one adversary; :mod:`~astprompter.evaluation.summarise` pools it.

Two sources of chance are kept apart. *Prefixes*: intervals come from a bootstrap that draws prefixes, each with its
turns under all seeds, since these belong together. *Seeds* (training and sampling): too few to resample, so every
figure also comes for each seed, with the standard deviation over seeds. An interval therefore says how far the figure
would move with other prefixes, the spread how far with other seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..evaluation.statistics import Floats
from ..evaluation.summarise import Measured, alike, tables_of
from ..evaluation.themes import STRATEGIES
from ..rollout.distinct import Exchange, Failing, failing_in
from ..runs.directory import SUMMARY
from ..runs.results import result_rows
from ..runs.schema.results import FailureRow, TrajectoryRow, TurnRow
from ..runs.schema.summary import Summary

Turns = Sequence[Sequence[Sequence[TurnRow]]]


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
    utterance, reply = (_table(turns, name, max) for name in ("tox_utterance", "tox_reply"))
    return Measured(
        seeds=tuple(folders),
        prefixes=prefixes[0],
        tables=tables_of(turns),
        diversity=tuple(row.diversity for summary in summaries for row in summary.adversaries.values()),
        strategies={name: counts[name] for name in STRATEGIES},
        inputs=inputs[0],
        likelihood=configs[-1].likelihood,
        least=_table(turns, "tox_reply", min),
        most=None if utterance is None or reply is None else (utterance, reply),
        accumulated=any(row.accumulated for rows in trajectories for row in rows),
        failing=tuple(_failing(trajectories, threshold)),
        reply_kinds=Counter(turn.reply_kind for rows in trajectories for row in rows for turn in row.turns),
        prefixes_cut=sum(bool(r.prefix_cut or r.prefix_cut_for_adversary) for rows in trajectories for r in rows),
    )


def _failing(seeds: Sequence[Sequence[TrajectoryRow]], threshold: float) -> Iterator[Failing]:
    for seed, rows in enumerate(seeds):
        for prefix, row in enumerate(rows):
            turns = [
                Exchange(
                    turn.utterance, turn.reply, _number(turn.tox_reply), _number(turn.nll),
                    confirmed=not turn.scores or _over_scorers(turn, "tox_reply", min) > threshold,
                )
                for turn in row.turns
            ]  # fmt: skip
            yield from failing_in(seed, prefix, row.prefix, turns, threshold, accumulated=row.accumulated)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _table(seeds: Turns, name: str, choose: Callable[[list[float]], float]) -> Floats | None:
    """One score of every turn over all scorers, [seeds, prefixes, turns]; ``None`` where there is one scorer."""
    if not all(turn.scores for paths in seeds for turns in paths for turn in turns):
        return None
    return np.array(
        [[[_over_scorers(turn, name, choose) for turn in turns] for turns in paths] for paths in seeds], np.float64
    )


def _over_scorers(turn: TurnRow, name: str, choose: Callable[[list[float]], float]) -> float:
    """The least or most that any scorer gives; ``nan`` where one gives nothing."""
    found = [_number(getattr(scores, name)) for scores in (turn.scores or {}).values()]
    return math.nan if any(map(math.isnan, found)) else choose(found)
