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
from ..rollout.pairs import pairs_of_tree, supervised_pairs, swap_per_pair
from ..rollout.run import roll_out
from ..runs.schema.run import Progression
from .packing import trees_together
from .state import Clock, TrainingModels


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects with the current policy; what it draws depends on the counters of ``state`` alone.

    Attributes:
        settings: All settings.
        models: Models and scorer.
        prefixes: Training prefixes.
        eliciting: Texts for weak supervision; may be empty when q is 0.
        state: Counters of the run; collecting moves those of trees and eliciting texts on.
        progress: Where progress is shown.
    """

    settings: Settings
    models: TrainingModels
    prefixes: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    state: Progression
    progress: Progress

    def collect(self, clock: Clock) -> tuple[list[RolloutTree], list[PreferencePair]]:
        """Rollout trees of this iteration, and its shuffled pairs with the supervised ones swapped in."""
        settings, horizon = self.settings, self.settings.rollout.horizon
        wanted, full = settings.training.pairs_per_iteration, 2**horizon - 1
        rng = generator(settings.seed, "iteration", self.state.iteration)
        per_episode = settings.supervision.unit == "episode"
        count, swaps = self._episodes(rng, wanted, full) if per_episode else (math.ceil(wanted / full), 0)
        trees = self._grow(count)
        clock.lap("collect")
        pairs = [
            pair
            for tree in trees
            for pair in pairs_of_tree(
                tree, min_margin=settings.training.min_margin, free_reference=self.models.free_reference
            )
        ]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))][:wanted]
        mask = [] if per_episode else (rng.random(len(pairs)) < settings.supervision.q).tolist()
        supervised = self._supervised(swaps if per_episode else sum(mask), rng)
        clock.lap("supervise")
        pairs = pairs + supervised if per_episode else swap_per_pair(pairs, iter(supervised), mask)
        together = settings.training.batching == "trees"
        order = trees_together(pairs, rng) if together else rng.permutation(len(pairs)).tolist()
        return trees, [pairs[i] for i in order][:wanted]

    def _episodes(self, rng: np.random.Generator, wanted: int, full: int) -> tuple[int, int]:
        """Trees to grow and supervised pairs to make when q swaps whole episodes."""
        trees, swaps = 0, 0
        while trees * full + swaps < wanted:
            swap = rng.random() < self.settings.supervision.q
            trees, swaps = trees + (not swap), swaps + swap
        return trees, swaps

    def _grow(self, count: int) -> list[RolloutTree]:
        settings, models, first = self.settings, self.models, self.state.trees
        order = shuffled_epochs(len(self.prefixes), first, count, settings.seed, "prefixes")
        self.state.trees += count
        return roll_out(
            models.adversary, models.defender, models.scorer, [self.prefixes[i] for i in order],
            keys_of(settings.seed, "tree", first, count), settings,
            branching=2, task="collecting", progress=self.progress,
        )  # fmt: skip

    def _supervised(self, count: int, rng: np.random.Generator) -> list[PreferencePair]:
        if count == 0:
            return []
        first = self.state.eliciting
        order = shuffled_epochs(len(self.eliciting), first, count, self.settings.seed, "eliciting")
        self.state.eliciting += count
        keys = keys_of(self.settings.seed, "eliciting", first, count)
        trees_per_batch = batch_of_trees(self.settings.rollout, (self.models.adversary,), branching=2)
        return supervised_pairs(
            self.models.adversary, [self.eliciting[i] for i in order], keys, rng, trees_per_batch=trees_per_batch
        )
