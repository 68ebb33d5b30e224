"""The three limits against their sources, and on what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from astprompter.probability.diagnostics import (
    bootstrap_over_prefixes,
    natural_check,
    pareto_shape,
    poisson_at_least,
)  # fmt: skip
from astprompter.probability.limits import (
    conservative,
    gamma_quantile,
    interval,
    proven,
    running_variance,
    student_quantile,
    weighted_limits,
)  # fmt: skip

GUESS = (1e-3, 1e-3, 100)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0.3, 1.0, 2.5, 40.0, 3000.0, 1e6])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975])
def test_gamma_quantiles_are_those_of_scipy(shape: float, probability: float) -> None:
    assert gamma_quantile(probability, shape) == pytest.approx(scipy.stats.gamma.ppf(probability, shape), rel=1e-9)


def test_equal_weights_give_the_exact_limits_of_a_poisson_mean() -> None:
    for count in (0, 1, 7, 120):
        low, high = weighted_limits(2.0 * count, 4.0 * count, 2.0, 0.95)
        assert low == pytest.approx(2.0 * scipy.stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0)
        assert high == pytest.approx(2.0 * scipy.stats.chi2.ppf(0.975, 2 * count + 2) / 2)


def test_without_a_failure_the_interval_is_what_natural_draws_exclude() -> None:
    nothing = np.zeros(1000)
    assert interval(nothing, 4.0, 0.95) == (0.0, pytest.approx(-math.log(0.025) * 4.0 / 1000))
    assert conservative(nothing, 4.0, 0.95) == interval(nothing, 4.0, 0.95)[1]
    assert proven(nothing, 4.0, 0.95, planned=1000, guess=GUESS) == 0.0


def test_the_conservative_limit_is_never_below_the_interval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        values = np.where(rng.random(500) < 0.05, 4.0 * rng.random(500) ** 3, 0.0)
        assert conservative(values, 4.0, 0.95) >= interval(values, 4.0, 0.95)[1]


def test_variance_before_each_value_by_hand() -> None:
    found = running_variance(np.array([1.0, 0.0, 4.0]), (0.5, 2.0, 2))
    second = (2 * 2.0 + 0.5**2) / 3
    assert found == pytest.approx([2.0, second, (3 * second + (0.0 - 2.0 / 3) ** 2) / 4])


def test_one_failure_proves_what_a_large_bet_on_it_wins() -> None:
    """With variance guessed small all five bets are 0.9 / m: the one failure pays 1 + 0.9·(1 − m) / m = 40 stakes."""
    values = np.zeros(100)
    values[0] = 1.0
    found = proven(values, 1.0, 0.95, planned=100, guess=(1e-9, 1e-9, 1))
    assert found == pytest.approx(0.9 / 39.9, rel=1e-6)
    assert proven(values, 1.0, 0.95, planned=100, guess=(1e-3, 10.0, 100)) == 0.0  # small bets


@pytest.mark.slow
def test_the_proven_limit_holds_however_often_it_is_watched() -> None:
    rng, p, wrong = np.random.default_rng(1), 0.004, 0
    for _ in range(200):
        values = rng.binomial(20, p, size=400) / 20
        seen = [proven(values[:n], 1.0, 0.95, planned=400, guess=(p, p / 20, 10)) for n in (50, 150, 400)]
        wrong += max(seen) > p
    assert wrong / 200 <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 200)


def test_the_proven_limit_is_near_the_mean_when_much_was_seen() -> None:
    values = np.random.default_rng(2).binomial(20, 0.05, size=4000) / 20
    assert 0.9 * values.mean() < proven(values, 1.0, 0.95, planned=4000, guess=(0.05, 0.05 / 20, 10)) < 0.05


def test_students_quantiles() -> None:
    for freedom in (19, 100):
        assert student_quantile(0.975, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=1e-5)


def test_tail_shapes_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    for shape in (0.2, 0.5, 1.0):
        found = [pareto_shape(scipy.stats.genpareto.rvs(shape, size=5000, random_state=rng)) for _ in range(20)]
        assert np.mean([value for value in found if value is not None]) == pytest.approx(shape, abs=0.15)
    assert pareto_shape(np.ones(100)) is None
    assert pareto_shape(np.arange(1.0, 20.0)) is None


def test_power_of_the_natural_check() -> None:
    check = natural_check(3.0, 1000, 0.004)
    assert check.unlikely_from == scipy.stats.poisson.ppf(0.95, 4.0) + 1
    assert check.power == pytest.approx(scipy.stats.poisson.sf(check.unlikely_from - 1, 8.0))
    assert not check.contradicts
    assert natural_check(12.0, 1000, 0.004).contradicts
    assert poisson_at_least(0, 1.0) == 1.0
    assert natural_check(0.0, 100, 0.0).power == 0.0


def test_openings_that_differ_widen_the_interval_over_openings() -> None:
    values = np.repeat([0.0, 1.0], 500)
    values[:3] = 1.0  # so that some openings differ a little
    alike, apart = np.tile(np.arange(20), 50), np.repeat(np.arange(20), 50)
    narrow = bootstrap_over_prefixes(values, alike, seed=0, level=0.95)
    wide = bootstrap_over_prefixes(values, apart, seed=0, level=0.95)
    assert narrow is not None and wide is not None
    assert narrow[1] - narrow[0] < 0.2 * (wide[1] - wide[0])
    assert wide == bootstrap_over_prefixes(values, apart, seed=0, level=0.95)
    assert bootstrap_over_prefixes(values, np.zeros(1000, dtype=int), seed=0, level=0.95) is None
