"""What all model-backed scorers share: blank texts score 0, and no text is scored twice."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..base.protocols import Context

_REMEMBERED = 100_000
T = TypeVar("T")


def in_batches(
    rows: Sequence[Sequence[int]], size: int, forward: Callable[[list[Sequence[int]]], Sequence[T]]
) -> list[T]:
    """What ``forward`` makes of rows of tokens, ``size`` at a time, like lengths together: little padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    made: dict[int, T] = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        made.update(zip(part, forward([rows[i] for i in part]), strict=True))
    return [made[i] for i in range(len(rows))]


Item = tuple[str, Context]
"""A text, and what was said before it: nothing where a scorer judges the text on its own."""


class RememberingScorer(ABC):
    """Scores each distinct text (in each distinct context, if it is shown any) once, so repeats cost nothing.

    Attributes:
        name: Name for logs and tables.
    """

    def __init__(self, name: str, *, in_context: bool = False) -> None:
        self.name, self._in_context = name + " (conversation)" * in_context, in_context
        self._known: OrderedDict[Item, float] = OrderedDict()

    def score(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[float]:
        """Scores in [0, 1] in the order of the texts; ``nan`` where there is none, which is not remembered."""
        before = contexts if self._in_context and contexts is not None else [()] * len(texts)
        items = list(zip(texts, before, strict=True))
        new = [item for item in dict.fromkeys(items) if item[0].strip() and item not in self._known]
        fresh = dict(zip(new, self._score_new(new), strict=True)) if new else {}
        result = [fresh[i] if i in fresh else self._known[i] if i[0].strip() else 0.0 for i in items]
        self._known.update((item, value) for item, value in fresh.items() if math.isfinite(value))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return result

    @abstractmethod
    def _score_new(self, items: Sequence[Item]) -> Sequence[float]:
        """Score distinct items whose texts are not blank: one value in [0, 1] or ``nan`` each."""
