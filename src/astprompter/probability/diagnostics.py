"""What tells whether an estimate may be believed, and what cannot tell it (docs/probability.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..base.randomness import generator
from .estimate import Floats
from .limits import gamma_probability

Verdict = Literal["reliable", "lower limit only", "use Monte Carlo"]
_FEW, _DOMINANT, _HEAVY, _DEVIATIONS = 30.0, 0.2, 0.7, 4.0
_SIGNIFICANT, _ENOUGH_POWER = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class NaturalCheck:
    """The natural conversations alone, beside the mixture.

    Attributes:
        conversations: How many there are.
        failures: Failures among them.
        estimate: Their share.
        unlikely_from: So many failures or more would contradict the mixture's estimate at 5 %.
        power: Chance to see so many if the true probability was twice the estimate.
    """

    conversations: int
    failures: float
    estimate: float
    unlikely_from: int
    power: float

    @property
    def contradicts(self) -> bool:
        """Whether natural draws fail too often for the estimate."""
        return self.failures >= self.unlikely_from


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What is known of the weights.

    Attributes:
        effective_failures: (Σ Z)² / Σ Z², failures of equal weight that would tell as much.
        largest_share: Part of the estimate that the heaviest conversation carries; ``None`` without failures.
        tail_shape: k̂ of a generalised Pareto distribution fitted to the largest weights; ``None`` with too few.
        balance: Mean of q_k / q_mix for every component, and its standard error.
        natural: Natural draws beside the mixture.
    """

    effective_failures: float
    largest_share: float | None
    tail_shape: float | None
    balance: tuple[tuple[float, float], ...]
    natural: NaturalCheck

    def faults(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        if self.effective_failures < _FEW:
            found.append(f"only {self.effective_failures:.1f} effective failures (fewer than {_FEW:g})")
        if (self.largest_share or 0.0) > _DOMINANT:
            found.append(f"one conversation carries {self.largest_share:.0%} of the estimate")
        if (self.tail_shape or 0.0) > _HEAVY:
            found.append(f"the weights have a heavy tail (k = {self.tail_shape:.2f}, above {_HEAVY:g})")
        if any(abs(mean - 1.0) > _DEVIATIONS * error for mean, error in self.balance if error > 0.0):
            found.append("the densities do not balance")
        if self.natural.contradicts:
            found.append("natural conversations fail more often than the estimate allows")
        return found


def diagnose(values: Floats, natural: Floats, ratios: Floats) -> Diagnostics:
    """Diagnostics of a run.

    Args:
        values: Z of every conversation [n].
        natural: Shares of failure of those that natural speech drew alone [n_∅], without weights.
        ratios: q_k / q_mix [n, K].
    """
    total, squares = float(values.sum()), float((values**2).sum())
    errors = ratios.std(axis=0, ddof=1) / math.sqrt(len(ratios))
    return Diagnostics(
        effective_failures=total**2 / squares if squares else 0.0,
        largest_share=float(values.max()) / total if total else None,
        tail_shape=pareto_shape(values[values > 0]),
        balance=tuple((float(mean), float(error)) for mean, error in zip(ratios.mean(axis=0), errors, strict=True)),
        natural=natural_check(float(natural.sum()), len(natural), total / len(values)),
    )


def natural_check(failures: float, conversations: int, estimate: float) -> NaturalCheck:
    """Whether natural draws contradict an estimate, by one-sided Poisson probabilities, and with what power."""
    expected = conversations * estimate
    count = 1
    while poisson_at_least(count, expected) > _SIGNIFICANT:
        count += 1
    share = failures / conversations if conversations else 0.0
    return NaturalCheck(conversations, failures, share, count, poisson_at_least(count, 2.0 * expected))


def poisson_at_least(count: int, mean: float) -> float:
    """P(X ≥ count) of a Poisson count."""
    return gamma_probability(count, mean) if count > 0 else 1.0


def verdict_of(
    diagnostics: Diagnostics, *, counting: str, second: tuple[float, float] | None, interval: tuple[float, float]
) -> tuple[Verdict, list[str]]:
    """What may be said of the estimate, and why.

    Args:
        diagnostics: Of the weights.
        counting: Why the run counted; empty where it did not.
        second: Interval of the second estimator, where it was run.
        interval: Interval of the first.
    """
    if counting:
        return "use Monte Carlo", [counting]
    reasons = diagnostics.faults()
    apart = second is not None and (second[0] > interval[1] or second[1] < interval[0])
    if apart:
        reasons.append("splitting, which does not use the adversary, disagrees")
    sharp = second is not None and 0.0 < second[1] <= 3.0 * interval[1]
    if diagnostics.natural.power < _ENOUGH_POWER and not sharp:
        reasons.append(
            f"had the adversary missed half of the failures, natural conversations would have told with probability "
            f"{diagnostics.natural.power:.0%} only"
        )
    return ("lower limit only" if reasons else "reliable"), reasons


def pareto_shape(weights: Floats) -> float | None:
    """k̂ of the largest fifth of weights: the estimate of Zhang and Stephens (2009, Technometrics 51, 316-325).

    Above 0.7 a mean of such weights is dominated by few of them (Vehtari et al. 2024, JMLR 25).

    Args:
        weights: Positive weights; with fewer than 25, or equal ones, there is no estimate.
    """
    if len(weights) < 25:
        return None
    size = max(5, min(len(weights) // 5, int(3 * math.sqrt(len(weights)))))
    ordered = np.sort(weights)
    excess = ordered[-size:] - ordered[-size - 1]
    if excess[-1] <= 1e-9 * ordered[-1] or excess[size // 4] <= 0.0:
        return None
    grid = np.arange(1, 31 + int(math.sqrt(size)))
    quartile = excess[int(size / 4 + 0.5) - 1] or excess[size // 4]
    thetas = 1.0 / excess[-1] + (1.0 - np.sqrt(len(grid) / (grid - 0.5))) / (3.0 * quartile)
    shapes = np.log1p(-thetas[:, None] * excess).mean(axis=1)
    profile = size * (np.log(-thetas / shapes) - shapes - 1.0)
    likelihood = np.exp(profile - profile.max())
    theta = float((thetas * likelihood).sum() / likelihood.sum())
    return float(np.log1p(-theta * excess).mean())


def bootstrap_over_prefixes(
    values: Floats, prefix: np.ndarray, *, seed: int, level: float
) -> tuple[float, float] | None:  # fmt: skip
    """Percentile interval for openings like these: prefixes are drawn again with all their conversations.

    More conversations do not shrink it below what so few openings can tell. ``None`` where they do not differ, as with
    one opening.

    Args:
        values: Z [n].
        prefix: Which prefix each began with [n].
        seed: Names the stream.
        level: Confidence level.
    """
    _, which = np.unique(prefix, return_inverse=True)
    sums, counts = np.bincount(which, weights=values), np.bincount(which)
    rng = generator("probability", "bootstrap", seed)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=2000)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [0.5 * (1 - level), 0.5 * (1 + level)])
    return (float(low), float(high)) if low < high else None
