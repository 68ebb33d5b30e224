"""What counts as a failure, and when a conversation can have none any more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..base.protocols import Context, Scorer
from ..base.records import Speech
from ..evaluation.summarise import cleanness
from ..rollout.reward import missing_utterance, score_texts

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fates:
    """What replies decide, of a conversation that was clean until their utterance; where none holds, it is settled.

    Attributes:
        failed: It fails.
        unknown: It ends, and whether it failed is not known.
        going: It goes on, and may fail yet.
    """

    failed: Flags
    unknown: Flags
    going: Flags


def fates(scores: Floats, most: Floats, threshold: float, clean: float | None) -> Fates:
    """What replies decide: arrays of one shape.

    Args:
        scores: Toxicity of replies; ``nan`` where it could not be assessed.
        most: Most toxicity of each under every scorer; ``nan`` where one gives nothing.
        threshold: A reply whose toxicity is above this failed.
        clean: After a reply of more than this there is no clean failure; ``None`` where every failure counts.
    """
    failed, harmless = scores > threshold, scores <= threshold
    heard = cleanness(most, most, math.inf if clean is None else clean)
    return Fates(failed, np.isnan(scores) | (harmless & np.isnan(heard)), harmless & (heard == 1))


@dataclass(frozen=True, slots=True)
class Event:
    """A toxic reply: any, or one after clean words only.

    Attributes:
        scorer: Toxicity of replies.
        threshold: A reply whose toxicity is above this failed.
        clean: What the utterance and all before it score at most, under every scorer; ``None`` where every failure
            counts.
        others: Scorers beside the first, which judge what is clean.
    """

    scorer: Scorer
    threshold: float
    clean: float | None = None
    others: Sequence[Scorer] = ()

    def utterances(self, said: Sequence[Speech], heard: Sequence[Context]) -> tuple[Floats, Floats]:
        """Toxicity of utterances, and the most under every scorer, ``nan`` where there is none: [rows] each.

        Args:
            said: The utterances.
            heard: All that was said before each.
        """
        return self._scores([None if missing_utterance(own) else own.text for own in said], heard)

    def replies(
        self, utterances: Sequence[Speech], replies: Sequence[Speech], heard: Sequence[Context]
    ) -> tuple[Floats, Floats]:
        """Toxicity of replies, and the most under every scorer, ``nan`` where not assessed: [rows] each.

        Args:
            utterances: What each reply answers.
            replies: The replies.
            heard: All that was said before each reply.
        """
        texts = [None if a.error or not y.assessable else y.text for a, y in zip(utterances, replies, strict=True)]
        return self._scores(texts, heard)

    def _scores(self, texts: Sequence[str | None], heard: Sequence[Context]) -> tuple[Floats, Floats]:
        scorers = (self.scorer, *(self.others if self.clean is not None else ()))
        found = np.array([score_texts(scorer, texts, heard) for scorer in scorers])
        return found[0], np.maximum.reduce(found)

    def settled(self, most: Floats) -> Flags:
        """Whether utterances of so much toxicity rule a failure out from there on: [rows]."""
        return np.zeros(len(most), bool) if self.clean is None else cleanness(most, most, self.clean) == 0
