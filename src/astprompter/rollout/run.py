"""Rollouts as a run's settings say: how much fits in memory, each process its share, with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..base.processes import spread, world
from ..base.progress import Progress
from ..base.protocols import Scorer, Speaker
from ..base.records import Keys, Prefix, RolloutTree
from ..config import Settings
from ..models.local.memory import batch_of_trees
from .grow import batches_of, grow_trees


class Keeper(Protocol):
    """Where grown trees outlive their process.

    Attributes:
        known: Trees that an earlier process left, by their prefixes; they are not grown again.
        size: Trees per batch in that process; with the same batches, what is grown is the same to the last digit.
    """

    known: Mapping[Prefix, RolloutTree]
    size: int | None

    def keep(self, prefixes: Sequence[Prefix], trees: Sequence[RolloutTree], size: int) -> None:
        """Take the trees of a batch that is done."""


def roll_out(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    keys: Keys,
    settings: Settings,
    *,
    branching: int,
    replies: int = 1,
    task: str,
    progress: Progress,
    keeper: Keeper | None = None,
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
        replies: Replies that a reward is the mean of.
        task: What the progress bar says.
        progress: Where it is shown.
        keeper: Knows trees of before, and takes every batch that is done.

    Returns:
        One tree per prefix, in order; among several processes each grows its share and gets all.
    """
    rollout = settings.rollout
    size = max(1, batch_of_trees(rollout, (adversary, defender), branching=branching) // replies)
    known: Mapping[Prefix, RolloutTree] = {}
    if keeper is not None:
        size, known = rollout.trees_per_batch or keeper.size or size, keeper.known
        if defender.local is None:  # its server may die: little is then lost
            size = min(size, 4 * settings.remote.concurrency)
    turns = sum(branching**depth for depth in range(1, rollout.horizon + 1))
    with progress.task(task, turns * len(prefixes), "turns") as advance:

        def grow(mine: list[int]) -> list[RolloutTree]:
            found = {i: known[prefixes[i]] for i in mine if prefixes[i] in known}
            advance(turns * len(found) * world())
            for batch in batches_of([prefixes[i] for i in mine], size):
                part = [mine[place] for place in batch if mine[place] not in found]
                if not part:
                    continue
                openings = [prefixes[i] for i in part]
                trees = grow_trees(
                    adversary, defender, scorer, openings, keys[part],
                    horizon=rollout.horizon, branching=branching, weights=settings.reward, replies=replies,
                    trees_per_batch=size,
                    on_turns=lambda done: advance(done * world()),
                )  # fmt: skip
                if keeper is not None:
                    keeper.keep(openings, trees, size)
                found |= zip(part, trees, strict=True)
            return [found[i] for i in mine]

        return spread(RolloutTree, len(prefixes), grow)
