"""The optimizer, and a pass of minibatch updates: what preference tuning and SFT share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import TrainingSettings
from ..errors import UserError
from ..processes import sum_gradients
from ..progress import Progress
from .metrics import mean
from .state import Progression

_BAD_UPDATES_IN_A_ROW = 10


@dataclass(slots=True)
class Updater:
    """Tunes the parameters of a model that require gradients.

    Attributes:
        settings: Batch, learning rate, schedule and clipping.
        model: Model of the adversary, tuned in place.
        state: Counters of the run; each optimizer step moves that of updates on.
        progress: Where progress is shown.
        optimizer: AdamW, fused: one pass over each parameter instead of one per operation.
    """

    settings: TrainingSettings
    model: torch.nn.Module
    state: Progression
    progress: Progress
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        tuned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
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
            UserError: Too many steps in a row changed nothing.
        """
        training = self.settings
        rows: list[dict[str, float]] = []
        skipped, in_a_row = 0, 0
        with self.progress.task("updating", count, "examples") as advance:
            for start in range(0, count, training.batch_size):
                if self.state.updates >= training.updates:
                    break
                part = slice(start, min(count, start + training.batch_size))
                row = step(part)
                advance(part.stop - part.start)
                if row is None:
                    skipped, in_a_row = skipped + 1, in_a_row + 1
                    if in_a_row == _BAD_UPDATES_IN_A_ROW:
                        raise UserError(
                            f"{in_a_row} updates in a row had a non-finite loss or gradient; the last checkpoint is "
                            "good: lower training.learning_rate, or use adversary.dtype=float32"
                        )
                    continue
                in_a_row = 0
                rows.append(row)
        means = {key: mean([row[key] for row in rows]) for key in (rows[0] if rows else ())}
        return {**means, "learning_rate": self.learning_rate(), "skipped_updates": skipped}

    def apply(self, loss: float) -> float | None:
        """Clip the gradients and take the optimizer step; returns their norm.

        ``None`` when loss or gradients are not finite: then nothing is changed.
        """
        parameters = list(self.model.parameters())
        sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip))
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
