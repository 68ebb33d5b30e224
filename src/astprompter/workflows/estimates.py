"""What is asked of an estimate of failure, and that it replaces no other one unless it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..base.errors import UserError
from ..config import Settings, dotted
from ..probability.measure import Effort, told
from ..probability.results import Measurement
from ..runs.directory import versions
from ..runs.schema.common import read_rows
from ..runs.schema.probability import DrawnRow, ProbabilityFile
from .kept import deciding
from .replacing import differing, held, refused

Natural = Literal["untuned", "defender"]
PROBABILITY, DRAWN = "probability.json", "probability.jsonl"
_ASKED = ("seed", "rollout.horizon")
"""Settings that what is asked repeats under its own names."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks for, beside settings.

    Attributes:
        budget: Conversations in all.
        relative: Stop as soon as the proven limit is within this part of the estimate; no other limit is given then.
        replies: Replies that are drawn to every utterance.
        splitting: Whether the second estimator runs too, for a quarter more.
        sensitivity: Whether all is measured again at temperature 1 and at top-p 1 of who speaks naturally.
        clean: Whether only clean failures count: where the utterance and all before it score at most what
            ``evaluation.clean`` says, under every scorer.
        replace: Whether an estimate in the folder may be replaced that is another one, or of more.
        count: Whether natural conversations alone are counted, and no adversary speaks.
    """

    budget: int = 2000
    relative: float | None = None
    replies: int = 1
    splitting: bool = True
    sensitivity: bool = False
    clean: bool = False
    replace: bool = False
    count: bool = False

    @property
    def effort(self) -> Effort:
        """How much may be spent."""
        return Effort(self.budget, self.relative, self.splitting)

    def measurement(self, settings: Settings, natural: Natural) -> Measurement:
        """What is asked, with what the settings say of it."""
        evaluation = settings.evaluation
        return Measurement(
            settings.rollout.horizon, evaluation.threshold, evaluation.clean if self.clean else None, self.replies,
            evaluation.level, settings.seed, natural, self.relative is not None,
        )  # fmt: skip

    def refuse_other(
        self, folder: Path, settings: Settings, natural: Natural, names: Iterable[str], facts: Mapping[str, Any] | None
    ) -> None:
        """Refuse to replace another estimate, or one of more, or the conversations of one that broke off.

        Args:
            folder: Where they are.
            settings: Of this one.
            natural: Who speaks naturally.
            names: Of the adversaries.
            facts: What else decides this one; ``None`` before models are loaded, when not all is known.

        Raises:
            UserError: There is such, and it may not be replaced.
        """
        if self.replace:
            return
        path, drawn = folder / PROBABILITY, folder / DRAWN
        rows = read_rows(drawn, DrawnRow, note=lambda torn: None) if drawn.is_file() else []
        try:
            earlier = ProbabilityFile.read(path) if path.is_file() else None
        except UserError:  # figures that cannot be read are made again of the conversations
            earlier = None
        if not (rows or earlier):
            return
        config = facts or {"settings": settings.as_dict(), "versions": versions()}
        now = deciding_estimate({**config, **told(names, self.measurement(settings, natural), self.effort)})
        there = deciding_estimate((rows[0].config if rows else None) or (earlier.config if earlier else {}))
        less = differing(there, now)
        if facts and not less and there != now:
            less.append("settings that are not recorded there")
        if earlier is not None:
            less += ["no splitting"] * (earlier.second is not None and not self.splitting)
            less += ["no sensitivity"] * (bool(earlier.sensitivity) and not self.sensitivity)
        if less:
            known = held(drawn, f"({len(rows):,} conversations)") if rows else held(path, "without their conversations")
            raise refused(known, "estimate", less)


def deciding_estimate(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides an estimate, by dotted keys, of what its files say; JSON values."""
    settings = {key: value for key, value in deciding(config.get("settings", {})).items() if key not in _ASKED}
    found: dict[str, Any] = json.loads(
        json.dumps(settings | dotted({key: value for key, value in config.items() if key != "settings"}))
    )
    return found
