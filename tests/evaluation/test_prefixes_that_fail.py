"""The share of prefixes that fail where replies are missing: by hand, and by simulation against a known truth.

``make simulate`` prints the table that stands in docs/reliability.md, of 400 trials in the place of 120.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from astprompter.evaluation.statistics import Options, failure_within_horizon
from astprompter.runs.schema.figures import FailureWithinHorizon

NAN = float("nan")
OPTIONS = Options(seed=0, resamples=300, level=0.95, threshold=0.5)


def figures(rows: Any, *, blocked: bool = False, options: Options = OPTIONS) -> FailureWithinHorizon:
    """Of one seed."""
    return failure_within_horizon(np.array(rows, dtype=np.float64)[None], [0], options, blocked=blocked)


def test_five_of_a_hundred_fail_and_every_third_reply_has_no_score() -> None:
    """Those that failed are all that is known to the end: their share of the assessed conversations is 100 %."""
    rows = np.full((100, 3), 0.1)
    rows[:5, 0] = 0.9
    rows[:, 2] = NAN  # every third one is always the third turn, of which nothing is known
    found = figures(rows)
    assert (found.failed, found.assessed, found.unassessed) == (5, 5, 95)
    assert (found.share, found.ci, found.bounds) == (None, None, [0.05, 1.0])
    rows = np.where(np.isnan(rows), 0.1, rows)
    for row in range(5, 100):
        if row % 3:
            rows[row, row % 3] = NAN  # the second or the third, so that of each turn some are known
    found = figures(rows)
    assert (found.failed, found.assessed, found.unassessed) == (5, 5 + 32, 63)
    assert found.bounds == pytest.approx([0.05, 0.68])
    assert found.share == pytest.approx(0.05)  # nobody who could be seen failed later
    assert found.ci is not None
    assert found.ci[1] < 0.12


def test_the_estimate_by_hand() -> None:
    rows = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.1], [0.1, NAN], [NAN, 0.9], [NAN, 0.1]]
    found = figures(rows)
    # Turn 1: 1 of 4 fails; turn 2: of those left with a score, 1 of 2. Only the bounds know that the fifth failed.
    assert found.share == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert found.bounds == pytest.approx([3 / 6, 5 / 6])
    late = figures([[NAN, 0.9], [0.1, 0.1], [0.1, 0.1]])
    assert (late.share, late.bounds) == (pytest.approx(1 / 3), pytest.approx([1 / 3, 1 / 3]))  # put back: not 0
    assert figures([[0.9, 0.1], [0.9, NAN]]).share == 1.0  # all failed, so nobody was left for turn 2
    assert (figures(rows, blocked=True).share, figures(rows, blocked=True).bounds) == (None, found.bounds)


def test_conversations_of_a_prefix_are_drawn_together() -> None:
    """Two seeds that say the same are no more prefixes: the interval stays as wide."""
    rows = np.random.default_rng(0).random((1, 40, 3))
    rows[0, ::5, 1] = NAN
    one, two = (failure_within_horizon(np.repeat(rows, n, axis=0), list(range(n)), OPTIONS) for n in (1, 2))
    assert (one.share, one.ci, one.bounds, one.bounds_ci) == (two.share, two.ci, two.bounds, two.bounds_ci)
    assert two.failed == 2 * one.failed
    assert [own.share for own in two.by_seed] == [one.share] * 2
    assert two.seed_std == 0.0


CASES = ("nothing is missing", "at random, conversations end", "at random, scores only", "a filter takes what is toxic")


def simulated(case: str, rng: np.random.Generator) -> tuple[Any, bool]:
    """Scores of 200 prefixes, each with a failure probability of its own (mean 0.1), and whether each one fails."""
    chance = rng.beta(0.5, 4.5, size=(200, 1))
    toxic = rng.random((200, 3)) < chance
    if case == CASES[0]:
        missing = np.zeros_like(toxic)
    elif case == CASES[3]:
        missing = rng.random(toxic.shape) < np.where(toxic, 0.7, 0.05)
    else:
        missing = rng.random(toxic.shape) < 0.25
    if case in (CASES[1], CASES[3]):
        missing = np.maximum.accumulate(missing, axis=1)
    return np.where(missing, NAN, np.where(toxic, 0.9, 0.1)), toxic.any(axis=1)


@pytest.mark.slow
def test_simulation() -> None:
    """The estimate is right where replies are missing at random, and the bounds hold always."""
    trials = int(os.environ.get("TRIALS", "120"))
    grid = (np.arange(200_000) + 0.5) / 200_000
    from scipy import stats

    truth = float((1 - (1 - stats.beta(0.5, 4.5).ppf(grid)) ** 3).mean())
    print(f"\ntruth {truth:.3f}; 200 prefixes, 3 turns, {trials} trials")
    print(f"{'missing':<30} {'assessed only':>13} {'estimate':>9} {'covers':>7} {'bounds':>15} {'hold':>6}")
    for case in CASES:
        rng, rows = np.random.default_rng(7), []
        for _ in range(trials):
            scores, failed = simulated(case, rng)
            found = figures(scores)
            assert found.bounds is not None
            assert found.share is not None
            assert found.ci is not None
            rows.append(
                (
                    found.failed / found.assessed,
                    found.share,
                    found.ci[0] <= truth <= found.ci[1],
                    *found.bounds,
                    found.bounds[0] <= failed.mean() <= found.bounds[1],
                )
            )
        naive, share, covers, low, high, hold = np.array(rows, dtype=np.float64).mean(axis=0)
        print(f"{case:<30} {naive:>13.3f} {share:>9.3f} {covers:>7.1%} {low:>7.3f} {high:>7.3f} {hold:>6.0%}")
        assert hold == 1.0
        if case == CASES[3]:  # why there is no estimate where replies were blocked
            assert share < truth - 0.05
        else:
            assert share == pytest.approx(truth, abs=0.006)
            assert 0.91 <= covers <= 0.99
        if case in CASES[1:3]:
            assert naive > truth + 0.05
