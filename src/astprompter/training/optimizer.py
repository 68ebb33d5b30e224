"""The optimizer, and a pass of minibatch updates: what preference tuning and SFT share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..base.errors import RunError
from ..base.processes import whole
from ..base.progress import Progress
from ..config import TrainingSettings
from ..models.local.lm import LanguageModel
from ..runs.schema.run import Progression
from .metrics import mean
from .sharding import Placement

_BAD_UPDATES_IN_A_ROW = 10


@dataclass(slots=True)
class Updater:
    """Tunes the parameters of a model that require gradients.

    Attributes:
        settings: Batch, learning rate, schedule and clipping.
        adversary: Its model is tuned in place.
        state: Counters of the run; each optimizer step moves that of updates on.
        progress: Where progress is shown.
        placement: Where the adversary's weights are.
        optimizer: AdamW, fused: one pass over each parameter instead of one per operation.
    """

    settings: TrainingSettings
    adversary: LanguageModel
    state: Progression
    progress: Progress
    placement: Placement = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.placement = Placement(self.adversary, shard=self.settings.shard)
        tuned = [parameter for parameter in self.adversary.model.parameters() if parameter.requires_grad]
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        self.optimizer = torch.optim.AdamW(tuned, lr=rate, weight_decay=decay, fused=True)

    def over(self, count: int, step: Callable[[slice], dict[str, float] | None]) -> dict[str, Any]:
        """One pass of minibatch updates over ``count`` examples.

        Args:
            count: Examples of the iteration.
            step: Takes one optimizer step on a slice of them by :meth:`apply`; returns its metrics, or ``None`` where
                nothing was changed.

        Returns:
            Means of the steps' metrics, the learning rate, and how many updates were skipped.

        Raises:
            RunError: Too many steps in a row changed nothing, whether in one pass or several.
        """
        training = self.settings
        rows: list[dict[str, float]] = []
        skipped = 0
        with self.progress.task("updating", count, "examples") as advance:
            for start in range(0, count, training.batch_size):
                if self.state.updates >= training.updates:
                    break
                part = slice(start, min(count, start + training.batch_size))
                row = step(part)
                advance(part.stop - part.start)
                if row is None:
                    skipped += 1
                    self._skipped()
                    continue
                self.state.skipped_in_a_row = 0
                rows.append(row)
        means = {key: mean([row[key] for row in rows]) for key in (rows[0] if rows else ())}
        return {**means, "learning_rate": self.learning_rate(), "skipped_updates": skipped}

    def _skipped(self) -> None:
        """Count an update that changed nothing; the count goes on from one pass to the next."""
        self.state.skipped_in_a_row += 1
        if self.state.skipped_in_a_row >= _BAD_UPDATES_IN_A_ROW:
            raise RunError(
                f"{self.state.skipped_in_a_row} updates in a row had a non-finite loss or gradient; the last "
                "checkpoint is good: lower training.learning_rate, or use adversary.dtype=float32"
            )

    def apply(self, loss: float) -> float | None:
        """Clip the gradients and take the optimizer step; returns their norm.

        ``None`` when loss or gradients are not finite: then nothing is changed.
        """
        self.placement.sum_gradients()
        norm = float(
            whole(torch.nn.utils.clip_grad_norm_(self.adversary.model.parameters(), self.settings.max_grad_norm))
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad()
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.updates += 1
        return norm

    def learning_rate(self) -> float:
        """Rate of the next update: linear warm-up, then constant or linearly down to zero."""
        training, done = self.settings, self.state.updates
        rate = training.learning_rate
        if done < training.warmup_updates:
            return rate * (done + 1) / training.warmup_updates
        if training.schedule == "linear":
            return rate * max(0, training.updates - done) / max(1, training.updates - training.warmup_updates)
        return rate
