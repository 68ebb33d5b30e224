"""Three limits of a failure probability that must never be mixed up (docs/probability.md): numbers in, numbers out.

1. :func:`interval`: two-sided, with the largest weight that was *seen*; it trusts that nothing likely was missed.
2. :func:`conservative`: upper limit with the largest weight that is *possible*: what natural draws alone can exclude.
3. :func:`proven`: lower limit without assumptions, which may be watched while a run goes on.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
_HALVINGS = 200
"""Enough for every digit."""
_BETS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times the size of the bet that would be best if the variance was known; the capital is spread over all."""
_MOST = 0.9
"""Of the capital, what one bet may lose."""


def gamma_probability(shape: float, value: float) -> float:
    """The regularised lower incomplete gamma function P(shape, value); P(k, μ): a Poisson count is k or more."""
    return float(torch.special.gammainc(*torch.tensor([shape, value], dtype=torch.float64)))


def gamma_quantile(probability: float, shape: float) -> float:
    """The x with P(shape, x) = probability, P of :func:`gamma_probability`; 0 for shape 0."""
    if shape <= 0.0:
        return 0.0
    low, high = 0.0, shape + 50.0 * math.sqrt(shape) + 50.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if gamma_probability(shape, middle) < probability else (low, middle)
    return high


def weighted_limits(total: float, variance: float, largest: float, level: float) -> tuple[float, float]:
    """Gamma limits of a sum of weighted Poisson counts (Fay and Feuer 1997, Statistics in Medicine 16, 791-801).

    With y = Σ w_i x_i and v = Σ w_i² x_i: low = v/y · G(α/2; y²/v), and high = v'/y' · G(1 − α/2; y'²/v') with
    y' = y + w, v' = v + w², where G is the quantile of a gamma distribution of that shape, scale 1. With equal weights
    these are the exact limits of a Poisson mean (Garwood 1936).

    Args:
        total: y.
        variance: v.
        largest: w, the largest weight.
        level: 1 − α.
    """
    tail = 0.5 * (1.0 - level)
    low = variance / total * gamma_quantile(tail, total**2 / variance) if total > 0.0 else 0.0
    y, v = total + largest, variance + largest**2
    return low, v / y * gamma_quantile(1.0 - tail, y**2 / v)


def interval(values: Floats, bound: float, level: float) -> tuple[float, float]:
    """Two-sided interval of a mean of few large values among many zeros, by the largest value seen.

    Args:
        values: Z of every conversation [n], in [0, bound].
        bound: Largest possible value, which counts where no value is above 0.
        level: Confidence level.
    """
    n, largest = len(values), float(values.max(initial=0.0))
    low, high = weighted_limits(
        float(values.sum()) / n, float((values**2).sum()) / n**2, (largest or bound) / n, level
    )  # fmt: skip
    return low, min(1.0, high)


def conservative(values: Floats, bound: float, level: float) -> float:
    """The upper end of :func:`interval` by the largest *possible* value; one-sided level (1 + level) / 2.

    It allows for failures that only natural draws can meet: with none seen it is −log(α/2)·bound/n.
    """
    n = len(values)
    return min(1.0, weighted_limits(float(values.sum()) / n, float((values**2).sum()) / n**2, bound / n, level)[1])


def proven(values: Floats, bound: float, level: float, *, planned: int, guess: tuple[float, float, int]) -> float:
    """A lower limit by betting, valid at every time (Waudby-Smith and Ramdas 2024, JRSS B 86, 1-27).

    Against every candidate mean m one bets that values are larger: the capital Π_i (1 + λ_i(m)·(x_i − m)) is a
    martingale if m is the mean, so that it ever exceeds 1/α has probability at most α (Ville). λ_i(m) = min(λ̂_i, 0.9/m)
    depends on the values before i alone, and the capital is spread over five λ̂; it falls with m, so that one m parts
    what is refuted from what is not.

    Args:
        values: Independent values [blocks] in [0, bound], in the order in which they were drawn: means of whole
            balanced blocks of conversations, each with prefixes of its own drawing.
        bound: Largest possible value.
        level: The limit holds with probability (1 + level) / 2.
        planned: Values that are to be drawn; decides how large bets are, and must not depend on the values.
        guess: Mean and variance to begin with, and how many values they are worth (at least 1); from draws of before.

    Returns:
        The largest mean that is refuted; 0 where none is.
    """
    goal = -math.log(0.5 * (1.0 - level))
    best = np.sqrt(2.0 * goal / (planned * running_variance(values, guess)))
    bets = np.array(_BETS)[:, None] * best

    def refuted(mean: float) -> bool:
        logs = np.log1p(np.minimum(bets, _MOST / mean) * (values - mean)).cumsum(axis=1)  # [bets, blocks]
        peak = logs.max(axis=0)
        return bool((peak + np.log(np.exp(logs - peak).mean(axis=0)) >= goal).any())

    low, high = 1e-15 * bound, bound
    if not len(values) or not refuted(low):
        return 0.0
    for _ in range(_HALVINGS // 4):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def running_variance(values: Floats, guess: tuple[float, float, int]) -> Floats:
    """Variance guessed before each value from those of before it: [n]; begun with ``guess`` (mean, variance, worth)."""
    mean, variance, worth = guess
    counts = worth + np.arange(len(values))
    means = (worth * mean + np.append(0.0, values.cumsum()[:-1])) / counts
    squares = np.append(0.0, ((values - means) ** 2).cumsum()[:-1])
    found: Floats = np.maximum((worth * variance + squares) / counts, np.finfo(np.float64).tiny)
    return found


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t above the median, for at least ten degrees of freedom, by integration."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    grid = np.linspace(0.0, 60.0, 600_001)
    density = scale * (1.0 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    steps = 0.5 * (density[1:] + density[:-1]) * (grid[1] - grid[0])
    return float(np.interp(probability - 0.5, np.append(0.0, steps.cumsum()), grid))
