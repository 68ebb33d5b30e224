"""What an iteration learns from: rollout trees, their preference pairs, and supervised ones swapped in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base.progress import Progress
from ..base.randomness import generator, keys_of, shuffled_epochs
from ..base.records import ElicitingText, PreferencePair, Prefix, RolloutTree
from ..config import Settings
from ..models.local.memory import batch_of_trees
from ..rollout.pairs import Rewards, pairs_of_tree, supervised_pairs, swap_per_pair, with_margins
from ..rollout.run import roll_out
from ..runs.schema.state import Counters
from .novelty import Archive, novel_rewards
from .packing import trees_together
from .state import Clock, TrainingModels


def shuffled(pairs: Sequence[PreferencePair], rng: np.random.Generator, settings: Settings) -> list[PreferencePair]:
    """The pairs in a random order; those of a tree together where ``training.batching`` says so."""
    together = settings.training.batching == "trees"
    return [pairs[i] for i in (trees_together(pairs, rng) if together else rng.permutation(len(pairs)).tolist())]


@dataclass(frozen=True, slots=True)
class Collected:
    """What one iteration collected.

    Attributes:
        trees: The trees grown.
        pairs: Preference pairs in the order of the updates, supervised ones swapped in.
        eliciting: Eliciting texts drawn.
        reward: What ranked the turns of the trees.
    """

    trees: list[RolloutTree]
    pairs: list[PreferencePair]
    eliciting: int
    reward: Rewards


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects with the current policy; what it draws depends on the counters alone.

    Attributes:
        settings: All settings.
        models: Models and scorer.
        prefixes: Training prefixes.
        eliciting: Texts for weak supervision; may be empty when q is 0.
        progress: Where progress is shown.
        archive: Failures found so far.
    """

    settings: Settings
    models: TrainingModels
    prefixes: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    progress: Progress
    archive: Archive

    def collect(self, done: Counters, clock: Clock) -> Collected:
        """Rollout trees of the iteration after ``done``, and its shuffled pairs with the supervised ones swapped in."""
        settings, models = self.settings, self.models
        wanted, full = settings.training.pairs_per_iteration, 2**settings.rollout.horizon - 1
        rng = generator(settings.seed, "iteration", done.iteration)
        q, unit = settings.supervision.q, settings.supervision.unit
        count, drawn = math.ceil(wanted / full), 0
        if unit == "episode":
            count, drawn = self._episodes(rng, wanted, full)
        elif unit == "wanted":
            drawn = int(rng.binomial(wanted, q))
        trees = self._grow(done.trees, count)
        clock.lap("collect")
        values = novel_rewards(trees, self.archive, settings.novelty)
        pairs = [
            pair
            for tree in trees
            for pair in pairs_of_tree(
                tree, min_margin=settings.training.min_margin, ties=settings.loss.kind == "margin",
                free_reference=models.free_reference, reward=values,
            )
        ]  # fmt: skip
        pairs = [pairs[i] for i in rng.permutation(len(pairs))][: wanted if unit != "wanted" else wanted - drawn]
        mask = (rng.random(len(pairs)) < q).tolist() if unit == "pair" else []
        drawn = sum(mask) if unit == "pair" else drawn
        supervised = self._supervised(done.eliciting, drawn, rng)
        clock.lap("supervise")
        pairs = swap_per_pair(pairs, iter(supervised), mask) if unit == "pair" else pairs + supervised
        return Collected(trees, shuffled(pairs, rng, settings)[:wanted], drawn, values)

    def _episodes(self, rng: np.random.Generator, wanted: int, full: int) -> tuple[int, int]:
        """Trees to grow and supervised pairs to make when q swaps whole episodes."""
        trees, swaps = 0, 0
        while trees * full + swaps < wanted:
            swap = rng.random() < self.settings.supervision.q
            trees, swaps = trees + (not swap), swaps + swap
        return trees, swaps

    def _grow(self, first: int, count: int) -> list[RolloutTree]:
        settings, models = self.settings, self.models
        order = shuffled_epochs(len(self.prefixes), first, count, settings.seed, "prefixes")
        return roll_out(
            models.adversary, models.defender, models.scorer, [self.prefixes[i] for i in order],
            keys_of(settings.seed, "tree", first, count), settings,
            branching=2, replies=settings.training.replies, task="collecting", progress=self.progress,
        )  # fmt: skip

    def _supervised(self, first: int, count: int, rng: np.random.Generator) -> list[PreferencePair]:
        if count == 0:
            return []
        order = shuffled_epochs(len(self.eliciting), first, count, self.settings.seed, "eliciting")
        keys = keys_of(self.settings.seed, "eliciting", first, count)
        trees_per_batch = batch_of_trees(self.settings.rollout, (self.models.adversary,), branching=2)
        pairs = supervised_pairs(
            self.models.adversary, [self.eliciting[i] for i in order], keys, rng, trees_per_batch=trees_per_batch
        )
        if self.settings.loss.kind != "margin":
            return pairs
        models = self.models
        return with_margins(
            pairs, models.adversary, models.defender, models.scorer, self.settings.reward,
            keys_of(self.settings.seed, "eliciting replies", first, len(pairs)),
            replies=self.settings.training.replies, pairs_per_batch=trees_per_batch,
        )  # fmt: skip
