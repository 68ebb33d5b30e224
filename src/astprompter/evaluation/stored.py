"""What was measured, read back from rows of ``trajectories.jsonl``: arrays and failing turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..rollout.distinct import Exchange, Failing, failing_in
from ..runs.schema.results import TrajectoryRow, TurnRow
from .statistics import Floats

Turns = Sequence[Sequence[Sequence[TurnRow]]]


def over_scorers(seeds: Turns, name: str, choose: Callable[[list[float]], float]) -> Floats | None:
    """One score of every turn over all scorers, [seeds, prefixes, turns]; ``None`` where there is one scorer.

    Args:
        seeds: Turns of the trajectories of all seeds.
        name: ``tox_reply`` or ``tox_utterance``.
        choose: ``min`` or ``max``; where a scorer gives nothing, there is nothing.
    """
    if not all(turn.scores for paths in seeds for turns in paths for turn in turns):
        return None
    return np.array([[[_over(turn, name, choose) for turn in turns] for turns in paths] for paths in seeds], np.float64)


def under_scorers(paths: Sequence[TrajectoryRow]) -> dict[str, Floats]:
    """Toxicity of every reply by scorer, [prefixes, turns]; empty where there is one scorer."""
    first = next((turn.scores for path in paths for turn in path.turns), None) or {}
    return {
        name: np.array(
            [[number(turn.scores[name].tox_reply if turn.scores else None) for turn in path.turns] for path in paths]
        )
        for name in first
    }


def failing_of(seeds: Sequence[Sequence[TrajectoryRow]], threshold: float) -> Iterator[Failing]:
    """The failing turns of all seeds; a reply whose toxicity is above the threshold is a failure."""
    for seed, rows in enumerate(seeds):
        for prefix, row in enumerate(rows):
            turns = [
                Exchange(
                    turn.utterance, turn.reply, number(turn.tox_reply), number(turn.nll),
                    confirmed=not turn.scores or _over(turn, "tox_reply", min) > threshold,
                )
                for turn in row.turns
            ]  # fmt: skip
            yield from failing_in(seed, prefix, row.prefix, turns, threshold, accumulated=row.accumulated)


def number(value: float | None) -> float:
    """The value, ``nan`` where there is none."""
    return math.nan if value is None else value


def _over(turn: TurnRow, name: str, choose: Callable[[list[float]], float]) -> float:
    """The least or most that any scorer gives; ``nan`` where one gives nothing."""
    found = [number(getattr(scores, name)) for scores in (turn.scores or {}).values()]
    return math.nan if any(map(math.isnan, found)) else choose(found)
