"""Who takes part in a training run, how far it is, and where its time went."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..base.protocols import Scorer, Speaker
from ..models.local.lm import LanguageModel


@dataclass(frozen=True, slots=True)
class TrainingModels:
    """Who takes part in a training run.

    Attributes:
        adversary: Policy π_θ; its parameters are tuned in place.
        reference: Frozen π_ref with the weights the adversary started from.
        defender: Frozen model under test, local or served.
        scorer: Toxicity R_φ.
        free_reference: The defender has the reference's weights, so its likelihoods serve twice.
        adversary_sha256: Hash of the weights that the adversary started from.
        defender_sha256: Hash of the defender's weights; ``None`` for a served one.
    """

    adversary: LanguageModel
    reference: LanguageModel
    defender: Speaker
    scorer: Scorer
    free_reference: bool
    adversary_sha256: str | None = None
    defender_sha256: str | None = None

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        """Who speaks."""
        return self.adversary, self.defender

    @property
    def hashes(self) -> dict[str, str | None]:
        """Hashes of the weights at the start, by name."""
        return {"adversary": self.adversary_sha256, "defender": self.defender_sha256}


class Clock:
    """Wall seconds by stage, in ``laps``."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a stage; the next one begins."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
