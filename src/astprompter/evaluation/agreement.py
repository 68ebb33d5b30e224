"""How far two scorers agree about the same texts: pure functions of arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]


def cohen_kappa(first: Marks, second: Marks) -> float:
    """Agreement of two yes/no verdicts beyond chance: (p_o − p_e) / (1 − p_e) (Cohen 1960).

    Args:
        first: Verdicts of one scorer, [texts].
        second: Verdicts of the other, [texts].

    Returns:
        1 for perfect agreement, 0 for that of chance; ``nan`` without texts, or where both give one and the same
        verdict to all, so that chance agrees perfectly too.
    """
    if not len(first):
        return math.nan
    observed = float(np.mean(first == second))
    p, q = float(np.mean(first)), float(np.mean(second))
    chance = p * q + (1 - p) * (1 - q)
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def roc_auc(scores: Values, marks: Marks) -> float:
    """Probability that a marked text scores above an unmarked one, ties counting half (Mann and Whitney 1947).

    Args:
        scores: Scores of one scorer, [texts].
        marks: Verdicts of the other, [texts].

    Returns:
        A value in [0, 1]; ``nan`` where all texts have the same mark.
    """
    positive = int(marks.sum())
    negative = len(marks) - positive
    if not positive or not negative:
        return math.nan
    rank_sum = float(midranks(scores)[marks].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def spearman(first: Values, second: Values) -> float:
    """Rank correlation, ties sharing their mean rank; ``nan`` where one scorer gives all texts the same score."""
    if len(first) < 2:
        return math.nan
    a, b = midranks(first), midranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def midranks(values: Values) -> Values:
    """Ranks from 1, ties sharing the mean of theirs: [n] -> [n]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
