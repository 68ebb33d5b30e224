"""One step of the optimizer, and its learning rate: what preference tuning and SFT share."""

from __future__ import annotations

import math

import torch

from ..base.processes import whole
from ..config import TrainingSettings
from ..models.local.lm import LanguageModel
from .sharding import Placement


def learning_rate(training: TrainingSettings, updates: int) -> float:
    """Rate of the step after ``updates`` ones: linear warm-up, then constant or linearly down to zero."""
    if updates < training.warmup_updates:
        return training.learning_rate * (updates + 1) / training.warmup_updates
    if training.schedule == "linear":
        left = max(0, training.updates - updates)
        return training.learning_rate * left / max(1, training.updates - training.warmup_updates)
    return training.learning_rate


class Updater:
    """Tunes the parameters of a model that require gradients.

    Attributes:
        placement: Where the model's weights are.
        optimizer: AdamW, fused: one pass over each parameter instead of one per operation.
    """

    def __init__(self, training: TrainingSettings, adversary: LanguageModel) -> None:
        self._training, self._model = training, adversary.model
        self.placement = Placement(adversary, shard=training.shard)
        tuned = [parameter for parameter in adversary.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            tuned, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )

    def step(self, loss: float, updates: int) -> float | None:
        """Clip the gradients and take the step after ``updates`` ones; returns their norm.

        ``None`` when loss or gradients are not finite: then nothing is changed.
        """
        self.placement.sum_gradients()
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._training.max_grad_norm)))
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self._training, updates)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm if finite else None
