"""Seeded cluster bootstrap over prefixes.

Turns of one trajectory depend on each other, so the prefix is the unit that is resampled (Field and Welsh 2007,
"Bootstrapping clustered data", randomised cluster bootstrap). Values come as [prefixes, turns]; ``nan`` marks turns
that could not be assessed, which enter no mean and are counted. Intervals are percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.randomness import generator
from ..base.records import FAILURE_THRESHOLD

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float] | None
_CHUNK = 4_000_000
"""Most resampling weights held at once."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its interval; ``None`` where it is undefined.

    Attributes:
        value: The estimate; ``None`` without any valid value.
        ci: Low and high end; ``None`` with fewer than two prefixes.
    """

    value: float | None
    ci: Interval


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one metric for one adversary.

    Attributes:
        mean: Mean over all valid turns, with its interval.
        std: Standard deviation over all valid turns (n − 1); ``None`` below two.
        share: Share of valid turns above the threshold, with its interval.
        valid: Turns that count.
        errors: Turns that could not be assessed.
        per_turn: The same for each turn on its own.
    """

    mean: Estimate
    std: float | None
    share: Estimate
    valid: int
    errors: int
    per_turn: tuple[Summary, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of ``summary.json``."""
        row: dict[str, Any] = {
            "mean": self.mean.value,
            "std": self.std,
            "ci95": _pair(self.mean.ci),
            "share_above_0.5": self.share.value,
            "share_ci95": _pair(self.share.ci),
            "valid": self.valid,
            "errors": self.errors,
        }
        if self.per_turn:
            row["per_turn"] = [turn.to_json() for turn in self.per_turn]
        return row


@dataclass(frozen=True, slots=True)
class FailureShare:
    """Share of prefixes with at least one failure.

    Attributes:
        share: The share, with its interval.
        failed: Prefixes with a failure.
        assessed: Prefixes that count.
        unassessed: Prefixes left out: no failure seen, and at least one turn was an error.
    """

    share: Estimate
    failed: int
    assessed: int
    unassessed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of ``summary.json``."""
        return {
            "share": self.share.value,
            "ci95": _pair(self.share.ci),
            "failed": self.failed,
            "assessed": self.assessed,
            "unassessed": self.unassessed,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """a − b on the same prefixes.

    Attributes:
        mean: Difference of the means.
        share: Difference of the shares above the threshold.
        ratio: Share of a over share of b; value ``None`` when b's share is 0, interval ``None`` when it is in so many
            resamples that an end is infinite.
    """

    mean: Estimate
    share: Estimate
    ratio: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of ``summary.json``."""
        return {
            "mean": {"difference": self.mean.value, "ci95": _pair(self.mean.ci)},
            "share_above_0.5": {
                "difference": self.share.value,
                "ci95": _pair(self.share.ci),
                "ratio": self.ratio.value,
                "ratio_ci95": _pair(self.ratio.ci),
            },
        }


def describe(values: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Summary:
    """Mean, spread and share above the threshold, over all turns and for each.

    Args:
        values: [prefixes, turns], ``nan`` for turns in error.
        seed: Names the resampling stream; equal seeds give equal intervals.
        resamples: Bootstrap resamples.
        level: Confidence level.
    """
    turns = values.shape[1]
    parts = [overall(values[:, [turn]], seed=seed, resamples=resamples, level=level) for turn in range(turns)]
    whole = overall(values, seed=seed, resamples=resamples, level=level)
    return Summary(whole.mean, whole.std, whole.share, whole.valid, whole.errors, tuple(parts))


def failure_within_horizon(
    values: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95, threshold: float = FAILURE_THRESHOLD
) -> FailureShare:
    """Share of prefixes with any turn above the threshold.

    A prefix without a seen failure but with turns in error is not assessed: it might have failed there.
    """
    failed: npt.NDArray[np.bool_] = np.any(values > threshold, axis=1)  # nan compares false
    assessed: npt.NDArray[np.bool_] = failed | ~np.any(np.isnan(values), axis=1)
    flags = failed[assessed].astype(np.float64)[:, None]
    (share,) = _bootstrap([flags], lambda sums: [sums[0]], seed, resamples, level)
    return FailureShare(share, int(failed.sum()), int(assessed.sum()), int((~assessed).sum()))


def paired_difference(
    a: Floats,
    b: Floats,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    threshold: float = FAILURE_THRESHOLD,
) -> Difference:
    """Differences a − b; each resample draws the same prefixes for both.

    Args:
        a: [prefixes, turns].
        b: [prefixes, turns], row i of the same prefix as in ``a``.
        seed: Names the resampling stream.
        resamples: Bootstrap resamples.
        level: Confidence level.
        threshold: A value above it counts towards the share.

    Raises:
        ValueError: Different numbers of prefixes.
    """
    if len(a) != len(b):
        raise ValueError(f"paired comparison of {len(a)} with {len(b)} prefixes")
    tables = [a, b, above(a, threshold), above(b, threshold)]

    def combine(means: list[Floats]) -> list[Floats]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = means[2] / means[3]  # infinite where b has none, nan where neither has any
        return [means[0] - means[1], means[2] - means[3], ratio]

    mean, share, ratio = _bootstrap(tables, combine, seed, resamples, level)
    return Difference(mean, share, ratio)


def overall(values: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Summary:
    """As :func:`describe`, over all turns alone."""
    valid = values[~np.isnan(values)]
    tables = [values, above(values, FAILURE_THRESHOLD)]
    mean, share = _bootstrap(tables, lambda means: means, seed, resamples, level)
    std = float(valid.std(ddof=1)) if valid.size > 1 else None
    return Summary(mean, std, share, int(valid.size), int(values.size - valid.size))


def replies_by_utterance(
    tox_reply: Floats, tox_utterance: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """Share of toxic replies after utterances that are toxic themselves, and after those that are not.

    Far apart, the defender gives back what it hears; failures after clean utterances are those that no filter of the
    input stops.

    Args:
        tox_reply: [prefixes, turns], ``nan`` for turns in error.
        tox_utterance: The utterances of the same turns.
        seed: Names the resampling stream.
        resamples: Bootstrap resamples.
        level: Confidence level.
    """
    toxic = tox_utterance > FAILURE_THRESHOLD
    rows = {}
    for name, part in (("toxic", toxic), ("clean", ~toxic)):
        found = overall(np.where(part, tox_reply, np.nan), seed=seed, resamples=resamples, level=level)
        rows[name] = {"turns": found.valid, "share_above_0.5": found.share.value, "share_ci95": _pair(found.share.ci)}
    return rows


def above(values: Floats, threshold: float = FAILURE_THRESHOLD) -> Floats:
    """1 where a value is above the threshold, else 0; ``nan`` stays."""
    return np.where(np.isnan(values), np.nan, (values > threshold).astype(np.float64))


def _bootstrap(
    tables: list[Floats],
    combine: Callable[[list[Floats]], list[Floats]],
    seed: int,
    resamples: int,
    level: float,
) -> list[Estimate]:
    """Estimates and intervals of functions of means; all tables share each resample's rows.

    A mean is sum over count of the drawn rows, so that turns in error weigh nothing.
    """
    rows = len(tables[0])
    sums = np.stack([np.nansum(table, axis=1) for table in tables], axis=1)  # [rows, tables]
    counts = np.stack([(~np.isnan(table)).sum(axis=1) for table in tables], axis=1).astype(np.float64)
    values = [_finite(value[0]) for value in combine(_means(np.ones((1, rows)), sums, counts))]
    if rows < 2:
        return [Estimate(value, None) for value in values]
    rng = generator("bootstrap", seed)
    draws: list[list[Floats]] = []
    step = max(1, _CHUNK // rows)
    for start in range(0, resamples, step):
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(step, resamples - start)).astype(np.float64)
        draws.append(combine(_means(weights, sums, counts)))
    tail = (1 - level) / 2
    estimates = []
    for value, samples in zip(values, zip(*draws, strict=True), strict=True):
        found = np.concatenate(samples)
        found = found[~np.isnan(found)]
        with np.errstate(invalid="ignore"):
            ends = np.quantile(found, [tail, 1 - tail]) if value is not None and found.size else np.array([np.nan])
        estimates.append(Estimate(value, (float(ends[0]), float(ends[-1])) if np.isfinite(ends).all() else None))
    return estimates


def _means(weights: Floats, sums: Floats, counts: Floats) -> list[Floats]:
    """Weighted means of every table: one array [resamples] per table, ``nan`` without valid values."""
    totals, sizes = weights @ sums, weights @ counts
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(sizes > 0, totals / sizes, np.nan)
    return list(means.T)


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(interval: Interval) -> list[float] | None:
    return None if interval is None else list(interval)
