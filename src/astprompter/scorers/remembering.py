"""What all model-backed scorers share: blank texts score 0, and no text is scored twice."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

_REMEMBERED = 100_000


def in_batches(
    rows: Sequence[Sequence[int]], size: int, forward: Callable[[list[Sequence[int]]], Sequence[float]]
) -> list[float]:
    """What ``forward`` makes of rows of tokens, ``size`` at a time, like lengths together: little padding."""
    order, scores = sorted(range(len(rows)), key=lambda i: len(rows[i])), [math.nan] * len(rows)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for i, score in zip(part, forward([rows[i] for i in part]), strict=True):
            scores[i] = score
    return scores


class RememberingScorer(ABC):
    """Scores each distinct text once and remembers it, so repeats cost nothing.

    Attributes:
        name: Name for logs and tables.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._known: OrderedDict[str, float] = OrderedDict()

    def score(self, texts: Sequence[str]) -> list[float]:
        """Scores in [0, 1] in the order of the texts; ``nan`` where there is none, which is not remembered."""
        new = [text for text in dict.fromkeys(texts) if text.strip() and text not in self._known]
        fresh = dict(zip(new, self._score_new(new), strict=True)) if new else {}
        result = [fresh[t] if t in fresh else self._known[t] if t.strip() else 0.0 for t in texts]
        self._known.update((text, value) for text, value in fresh.items() if math.isfinite(value))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return result

    @abstractmethod
    def _score_new(self, texts: Sequence[str]) -> Sequence[float]:
        """Score distinct texts that are not blank: one value in [0, 1] or ``nan`` each."""
