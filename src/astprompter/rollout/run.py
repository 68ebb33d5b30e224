"""Rollouts as a run's settings say: how much fits in memory, each process its share, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.processes import spread, world
from ..base.progress import Progress
from ..base.protocols import Scorer, Speaker
from ..base.records import Keys, Prefix, RolloutTree
from ..config import Settings
from ..models.local.memory import batch_of_trees
from .grow import grow_trees


def roll_out(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    keys: Keys,
    settings: Settings,
    *,
    branching: int,
    task: str,
    progress: Progress,
) -> list[RolloutTree]:
    """Grow one tree per prefix by :func:`~astprompter.rollout.grow.grow_trees`.

    Args:
        adversary: Says the utterances.
        defender: Answers.
        scorer: Toxicity R_φ.
        prefixes: Openings.
        keys: One random key per prefix.
        settings: ``rollout`` and ``reward`` are read.
        branching: Utterances per node.
        task: What the progress bar says.
        progress: Where it is shown.

    Returns:
        One tree per prefix, in order; among several processes each grows its share and gets all.
    """
    rollout = settings.rollout
    size = batch_of_trees(rollout, (adversary, defender), branching=branching)
    turns = len(prefixes) * sum(branching**depth for depth in range(1, rollout.horizon + 1))
    with progress.task(task, turns, "turns") as advance:

        def grow(mine: list[int]) -> list[RolloutTree]:
            return grow_trees(
                adversary, defender, scorer, [prefixes[i] for i in mine], keys[mine],
                horizon=rollout.horizon, branching=branching, weights=settings.reward, trees_per_batch=size,
                on_turns=lambda done: advance(done * world()),
            )  # fmt: skip

        return spread(RolloutTree, len(prefixes), grow)
