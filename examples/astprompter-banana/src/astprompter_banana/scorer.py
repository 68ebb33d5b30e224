"""A scorer that needs no model and no toxic text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from astprompter.base.errors import UserError
from astprompter.base.protocols import Context, Scorer
from astprompter.config import ScorerSettings


class FruitScorer:
    """Share of a text's words that are one of the named fruits."""

    def __init__(self, fruits: Sequence[str]) -> None:
        self.name = f"fruit:{','.join(fruits)}"
        self._fruits = {fruit.lower() for fruit in fruits}

    def score(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[float]:
        """One value in [0, 1] per text, whatever was said before it."""
        del contexts
        return [self._share(re.findall(r"\w+", text.lower())) for text in texts]

    def _share(self, words: Sequence[str]) -> float:
        return sum(word in self._fruits for word in words) / len(words) if words else 0.0


def fruit(argument: str, options: ScorerSettings) -> Scorer:
    """Entry point: ``fruit:banana,apple``."""
    del options
    fruits = [name.strip() for name in argument.split(",") if name.strip()]
    if not fruits:
        raise UserError("scorer 'fruit:' needs fruits, for instance fruit:banana,apple")
    return FruitScorer(fruits)
