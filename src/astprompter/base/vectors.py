"""Words and vectors of texts that need no model."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_DIMENSIONS = 4096
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+|[^\w\s]")


class HashedGrams:
    """Vectors that need no model: an :class:`~astprompter.base.protocols.Encoder`."""

    name = "hashed character n-grams"

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See :func:`hashed_vectors`."""
        return hashed_vectors(texts).astype(np.float32)


def hashed_vectors(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Unit vectors [texts, 4096] of hashed character 3- to 5-grams, square roots of their counts.

    Surface likeness, not meaning; in return it needs no model, so that figures compare across defenders, machines and
    years. Blank texts share one vector of their own.
    """
    table = np.zeros((len(texts), _DIMENSIONS))
    for row, text in zip(table, texts, strict=True):
        padded = f" {_SPACE.sub(' ', text.lower()).strip()} "
        counts = Counter(
            zlib.crc32(padded[i : i + n].encode("utf-8", "surrogatepass")) % _DIMENSIONS
            for n in (3, 4, 5)
            for i in range(len(padded) - n + 1)
        )
        for place, count in (counts or Counter({0: 1})).items():
            row[place] = math.sqrt(count)
    unit: npt.NDArray[np.float64] = table / np.linalg.norm(table, axis=1, keepdims=True)
    return unit


def words_of(text: str) -> list[str]:
    """Words and marks of a text, lower case."""
    return _WORD.findall(text.lower())
