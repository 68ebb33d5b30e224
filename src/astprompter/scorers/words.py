"""A harmless scorer for trials, tests and examples: a word plays the part of toxicity."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..base.protocols import Context


class WordScorer:
    """Scores 1 where a word occurs as a whole word, upper or lower case, else 0."""

    def __init__(self, word: str) -> None:
        self.name = f"word:{word}"
        self._pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)

    def score(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[float]:
        """1.0 or 0.0 per text."""
        del contexts
        return [float(self._pattern.search(text) is not None) for text in texts]
