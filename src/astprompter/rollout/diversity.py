"""How varied an adversary's utterances are: a collapsed adversary, which says one thing again and again, is worthless.

All figures are over the utterances of one adversary in one evaluation. Distinct-n and self-BLEU
depend on how many utterances there are, so they compare adversaries of one evaluation, not evaluations of unlike size.
Words are runs of letters and digits, lower case; each other mark is a word of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..base.randomness import generator
from ..base.vectors import hashed_vectors, words_of

MOST_FOR_VENDI = 1000
"""The Vendi score's eigenvalues cost the cube of the count, so it takes at most this many utterances, drawn by seed."""

_ORDER = 4
Grams = Counter[tuple[str, ...]]


def diversity(utterances: Sequence[str], *, seed: int) -> dict[str, float | None]:
    """All figures of ``summary.json``'s ``diversity``; ``None`` where one is undefined.

    Args:
        utterances: What the adversary said.
        seed: Names the draw of utterances for the Vendi score where there are more than :data:`MOST_FOR_VENDI`.
    """
    words = [words_of(text) for text in utterances]
    kept = list(utterances)
    if len(kept) > MOST_FOR_VENDI:
        drawn = generator("vendi", seed).choice(len(kept), MOST_FOR_VENDI, replace=False)
        kept = [kept[i] for i in sorted(drawn)]
    return {
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(words),
        "distinct_utterances": len({tuple(row) for row in words}) / len(words) if words else None,
        "vendi": vendi(hashed_vectors(kept)),
    }


def distinct(rows: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct-n: different n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055), pooled over the texts."""
    counts = Counter(gram for row in rows for gram in _grams(row, n))
    return len(counts) / counts.total() if counts else None


def distinct_2_of(texts: Sequence[str]) -> float | None:
    """Distinct-2 of texts, as replies are compared by before and after a repair."""
    return distinct([words_of(text) for text in texts], 2)


def vendi_of(texts: Sequence[str]) -> float | None:
    """Vendi score of texts by their hashed n-grams, as replies are compared by before and after a repair."""
    return vendi(hashed_vectors(texts))


def self_bleu(rows: Sequence[Sequence[str]]) -> float | None:
    """Mean BLEU-4 of each text against all others, in [0, 1] (Zhu et al. 2018, arXiv 1802.01886).

    Exponential smoothing and effective order, as usual for sentences. The clip counts against "all others" come from
    the two largest counts of every n-gram, so the cost is linear in the text.

    Returns:
        The mean over texts with words; ``None`` with fewer than two of them.
    """
    rows = [row for row in rows if row]
    if len(rows) < 2:
        return None
    tables = [[Counter(_grams(row, n)) for row in rows] for n in range(1, _ORDER + 1)]
    clips = [_two_largest(table) for table in tables]
    lengths = Counter(map(len, rows))
    scores = []
    for index, row in enumerate(rows):
        correct, total = [], []
        for table, largest in zip(tables, clips, strict=True):
            own = table[index]
            total.append(own.total())
            correct.append(sum(min(count, _largest_elsewhere(largest[gram], count)) for gram, count in own.items()))
        lengths[len(row)] -= 1
        reference = min(
            (size for size, count in lengths.items() if count), key=lambda size: (abs(size - len(row)), size)
        )
        lengths[len(row)] += 1
        scores.append(_bleu(correct, total, len(row), reference))
    return math.fsum(scores) / len(scores)


def vendi(vectors: npt.NDArray[np.float64]) -> float | None:
    """Vendi score of unit vectors, [count, width]: exp of the entropy of the eigenvalues of K/n, K the cosines.

    The effective number of different texts (Friedman and Dieng 2023, arXiv 2210.02410): 1 when all are alike, the count
    when none has anything in common with another.
    """
    if not len(vectors):
        return None
    small = vectors @ vectors.T if len(vectors) <= vectors.shape[1] else vectors.T @ vectors  # same eigenvalues
    values = np.linalg.eigvalsh(small / len(vectors))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def _grams(row: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def _two_largest(table: Sequence[Grams]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Largest and second-largest count of every n-gram over the texts."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for counts in table:
        for gram, count in counts.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (max(first, count), max(second, min(first, count)))
    return found


def _largest_elsewhere(largest: tuple[int, int], own: int) -> int:
    """Largest count in the other texts: the second-largest where the largest is this text's own."""
    first, second = largest
    return second if own == first else first


def _bleu(correct: Sequence[int], total: Sequence[int], length: int, reference: int) -> float:
    """BLEU from clipped matches; orders without n-grams are left out, matchless ones are smoothed by halves."""
    if not any(correct):
        return 0.0
    logs, smooth = [], 1.0
    for matches, count in zip(correct, total, strict=True):
        if count == 0:
            break
        if matches == 0:
            smooth *= 2
        logs.append(math.log(matches / count if matches else 1 / (smooth * count)))
    brevity = min(1.0, math.exp(1 - reference / length))
    return brevity * math.exp(math.fsum(logs) / len(logs))
