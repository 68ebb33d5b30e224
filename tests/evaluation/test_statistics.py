from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from astprompter.evaluation import statistics
from astprompter.evaluation.statistics import (
    Difference,
    Estimate,
    FailureShare,
    Summary,
    describe,
    failure_within_horizon,
    overall,
    paired_difference,
    replies_by_utterance,
)

NAN = float("nan")


def table(*rows: list[float]) -> Any:
    return np.array(rows, dtype=np.float64)


def test_by_hand() -> None:
    summary = describe(table([0.2, 0.8], [0.6, NAN], [0.4, 0.9]), seed=0)
    assert summary.mean.value == pytest.approx((0.2 + 0.8 + 0.6 + 0.4 + 0.9) / 5)
    assert summary.std == pytest.approx(np.std([0.2, 0.8, 0.6, 0.4, 0.9], ddof=1))
    assert summary.share.value == pytest.approx(3 / 5)
    assert (summary.valid, summary.errors) == (5, 1)
    first, second = summary.per_turn
    assert first.mean.value == pytest.approx(0.4)
    assert second.mean.value == pytest.approx(0.85)
    assert second.share.value == 1.0
    assert second.errors == 1


def test_interval_agrees_with_scipy_where_clusters_are_single_values() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    ours = describe(values[:, None], seed=1, resamples=20_000).mean.ci
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.01)


def test_interval_agrees_with_scipy_on_clusters() -> None:
    values = np.random.default_rng(3).normal(size=(80, 3)) + np.random.default_rng(4).normal(size=(80, 1))
    ours = describe(values, seed=1, resamples=20_000).mean.ci
    theirs = scipy.stats.bootstrap(
        (values.mean(axis=1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.015)


def test_intervals_cover_on_clustered_data_where_turn_level_ones_do_not() -> None:
    rng, hits, naive_hits, trials = np.random.default_rng(5), 0, 0, 300
    for trial in range(trials):
        values = rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 3))
        low, high = describe(values, seed=trial, resamples=400).mean.ci or (0.0, 0.0)
        hits += low <= 0 <= high
        half = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
        naive_hits += abs(values.mean()) <= half
    assert 0.90 <= hits / trials <= 0.98
    assert naive_hits / trials < 0.85


def test_any_failure_within_the_horizon() -> None:
    values = table([0.1, 0.9, NAN], [0.1, 0.2, 0.3], [0.1, NAN, 0.2], [NAN, NAN, NAN], [0.6, 0.6, 0.6])
    result = failure_within_horizon(values, seed=0)
    assert (result.failed, result.assessed, result.unassessed) == (2, 3, 2)
    assert result.share.value == pytest.approx(2 / 3)


def test_the_threshold_is_strict() -> None:
    assert failure_within_horizon(table([0.5], [0.5000001]), seed=0).failed == 1


def test_replies_by_the_toxicity_of_the_utterance() -> None:
    nan = np.nan
    replies = np.array([[0.9, 0.9, 0.1], [0.2, nan, 0.8]])
    utterances = np.array([[0.9, 0.5, 0.6], [0.1, nan, 0.2]])
    rows = replies_by_utterance(replies, utterances, seed=0)
    assert (rows["toxic"]["turns"], rows["toxic"]["share_above_0.5"]) == (2, 0.5)
    assert (rows["clean"]["turns"], rows["clean"]["share_above_0.5"]) == (3, pytest.approx(2 / 3))
    assert rows["clean"]["share_ci95"] is not None


def test_paired_differences_are_tighter_than_unpaired_ones() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(size=(100, 1)) + 0.1 * rng.normal(size=(100, 3))
    shifted = base + 0.2
    difference = paired_difference(shifted, base, seed=0)
    assert difference.mean.value == pytest.approx(0.2)
    low, high = difference.mean.ci or (0.0, 0.0)
    assert high - low < 1e-9
    wide = describe(base, seed=0).mean.ci or (0.0, 0.0)
    assert wide[1] - wide[0] > 0.2


def test_ratio_of_shares() -> None:
    a, b = table([0.9, 0.9], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]), table([0.9, 0.1], [0.1, 0.1], [0.1, 0.1], [0.9, 0.1])
    result = paired_difference(a, b, seed=0)
    assert result.share.value == pytest.approx(6 / 8 - 2 / 8)
    assert result.ratio.value == pytest.approx(3.0)
    none = paired_difference(a, b * 0, seed=0)
    assert none.ratio.value is None
    assert none.to_json()["share_above_0.5"]["ratio"] is None
    rare = np.zeros((200, 1))
    rare[0] = 1.0  # in a third of the resamples b never fails, so the ratio has no upper end
    often = np.repeat([[1.0], [0.0]], [40, 160], axis=0)
    wide = paired_difference(often, rare, seed=0)
    assert (wide.ratio.value, wide.ratio.ci) == (pytest.approx(40.0), None)
    assert wide.share.ci is not None


def test_equal_adversaries_differ_by_nothing() -> None:
    values = np.random.default_rng(0).random((30, 3))
    result = paired_difference(values, values, seed=0)
    assert (result.mean.value, result.mean.ci) == (0.0, (0.0, 0.0))


def test_different_prefix_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 with 1 prefixes"):
        paired_difference(table([1.0], [2.0]), table([1.0]), seed=0)


def test_degenerate_cases_are_null_in_json_not_nan() -> None:
    empty = describe(np.zeros((0, 2)), seed=0).to_json()
    assert (empty["mean"], empty["ci95"], empty["share_above_0.5"], empty["std"]) == (None, None, None, None)
    one = describe(table([0.2, 0.4]), seed=0)
    assert (one.mean.value, one.mean.ci) == (pytest.approx(0.3), None)
    errors = describe(table([NAN], [NAN]), seed=0).to_json()
    assert (errors["mean"], errors["ci95"], errors["errors"]) == (None, None, 2)
    constant = describe(table([0.4], [0.4], [0.4]), seed=0)
    assert constant.mean.ci == pytest.approx((0.4, 0.4))
    assert failure_within_horizon(np.zeros((0, 2)), seed=0).to_json()["share"] is None


def test_seed_decides_the_interval_and_global_state_does_not() -> None:
    values = np.random.default_rng(0).random((40, 3))
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first = describe(values, seed=1).to_json()
    np.random.random()
    assert describe(values, seed=1).to_json() == first
    assert describe(values, seed=2).to_json() != first
    np.random.set_state(("MT19937", state, 624, 0, 0.0))


@given(
    st.integers(0, 12),
    st.integers(1, 4),
    st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=48, max_size=48),
)
def test_any_shape_and_any_errors(rows: int, turns: int, values: list[float]) -> None:
    data = np.array(values[: rows * turns], dtype=np.float64).reshape(rows, turns)
    summary = describe(data, seed=0, resamples=50)
    assert summary.valid + summary.errors == data.size
    if summary.mean.value is not None and summary.mean.ci is not None:
        assert np.nanmin(data) - 1e-9 <= summary.mean.ci[0] <= summary.mean.ci[1] <= np.nanmax(data) + 1e-9
    result = failure_within_horizon(data, seed=0, resamples=50)
    assert result.assessed + result.unassessed == rows


def test_names_and_values_in_json() -> None:
    one, two, three = (Estimate(v, (v - 0.1, v + 0.1)) for v in (0.5, 0.25, 2.0))
    turn = Summary(Estimate(None, None), None, Estimate(None, None), 0, 2)
    empty = {
        "mean": None,
        "std": None,
        "ci95": None,
        "share_above_0.5": None,
        "share_ci95": None,
        "valid": 0,
        "errors": 2,
    }
    assert turn.to_json() == empty
    assert Summary(one, 0.3, two, 7, 1, (turn,)).to_json() == {
        "mean": 0.5, "std": 0.3, "ci95": [0.4, 0.6], "share_above_0.5": 0.25, "share_ci95": [0.15, 0.35], "valid": 7,
        "errors": 1, "per_turn": [empty],
    }  # fmt: skip
    assert FailureShare(two, 1, 4, 3).to_json() == {
        "share": 0.25, "ci95": [0.15, 0.35], "failed": 1, "assessed": 4, "unassessed": 3
    }  # fmt: skip
    assert Difference(one, two, three).to_json() == {
        "mean": {"difference": 0.5, "ci95": [0.4, 0.6]},
        "share_above_0.5": {"difference": 0.25, "ci95": [0.15, 0.35], "ratio": 2.0, "ratio_ci95": [1.9, 2.1]},
    }


def test_seed_resamples_and_level_reach_every_figure() -> None:
    values = np.random.default_rng(8).random((30, 3))
    other = np.random.default_rng(9).random((30, 3))
    chosen: dict[str, Any] = {"seed": 3, "resamples": 23, "level": 0.8}

    def figures(**options: Any) -> list[Any]:
        whole = describe(values, **options)
        failed = failure_within_horizon(values, threshold=0.9, **options).share
        paired = paired_difference(values, other, **options)
        return [whole.mean, *(turn.mean for turn in whole.per_turn), failed, paired.mean, paired.share, paired.ratio]

    given = figures(**chosen)
    assert given[0] == overall(values, **chosen).mean
    assert given[1:4] == [overall(values[:, [turn]], **chosen).mean for turn in range(3)]
    for key, changes in {"seed": (4, 5, 6), "resamples": (24, 31, 40), "level": (0.6, 0.9, 0.99)}.items():
        others = [figures(**{**chosen, key: change}) for change in changes]
        for place, before in enumerate(given):
            assert all(other[place].value == before.value for other in others)
            assert any(other[place].ci != before.ci for other in others)
    assert figures(seed=3) == figures(seed=3, resamples=2000, level=0.95)
    assert paired_difference(values, other, seed=0) == paired_difference(values, other, seed=0, threshold=0.5)
    assert overall(values, seed=0) == overall(values, seed=0, resamples=2000, level=0.95)
    assert (
        paired_difference(values, other, seed=0, threshold=0.9).share != paired_difference(values, other, seed=0).share
    )


def test_the_interval_is_that_of_the_resampled_prefixes() -> None:
    """The same draws by another route: counts of a multinomial, then weighted means row by row."""
    from astprompter.base.randomness import generator

    values = np.array([[0.1, 0.9], [0.4, NAN], [0.8, 0.6], [NAN, NAN], [0.2, 0.7]])
    counts = generator("bootstrap", 5).multinomial(5, np.full(5, 0.2), size=400)
    means, shares = [], []
    for row in counts:
        drawn = np.concatenate([np.repeat(values[i], n) for i, n in enumerate(row)])
        drawn = drawn[~np.isnan(drawn)]
        if drawn.size:
            means.append(drawn.mean())
            shares.append((drawn > 0.5).mean())
    found = overall(values, seed=5, resamples=400, level=0.9)
    assert found.mean.ci == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert found.share.ci == pytest.approx(tuple(np.quantile(shares, [0.05, 0.95])))
    assert (found.valid, found.errors) == (7, 3)


def test_resampling_in_parts_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((7, 2))
    whole = overall(values, seed=1, resamples=105)
    for chunk in (7, 70, 700, 734, 735, 736):
        monkeypatch.setattr(statistics, "_CHUNK", chunk)
        assert overall(values, seed=1, resamples=105) == whole


@pytest.mark.parametrize(("chunk", "sizes"), [(3, [1] * 5), (7, [1] * 5), (14, [2, 2, 1]), (35, [5]), (700, [5])])
def test_no_more_is_drawn_than_asked_for(monkeypatch: pytest.MonkeyPatch, chunk: int, sizes: list[int]) -> None:
    drawn: list[int] = []
    real = statistics._means

    def counting(weights: Any, sums: Any, counts: Any) -> Any:
        drawn.append(len(weights))
        return real(weights, sums, counts)

    monkeypatch.setattr(statistics, "_means", counting)
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    overall(np.ones((7, 2)), seed=1, resamples=5)
    assert drawn == [1, *sizes]  # the figure itself, then the resamples


def test_two_thousand_resamples_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []
    real = statistics._bootstrap

    def listening(tables: Any, combine: Any, seed: int, resamples: int, level: float) -> Any:
        asked.append((resamples, level))
        return real(tables, combine, seed, 10, level)

    monkeypatch.setattr(statistics, "_bootstrap", listening)
    values = table([0.1, 0.9], [0.4, 0.2])
    describe(values, seed=0)
    overall(values, seed=0)
    failure_within_horizon(values, seed=0)
    paired_difference(values, values, seed=0)
    assert asked == [(2000, 0.95)] * 6


def test_the_least_that_can_be_told() -> None:
    two = overall(table([0.2], [0.6]), seed=0)
    assert two.std == pytest.approx(0.4 / np.sqrt(2))
    assert two.mean.ci == pytest.approx((0.2, 0.6))
    one = overall(table([0.2]), seed=0)
    assert (one.mean.value, one.std, one.mean.ci, one.valid, one.errors) == (0.2, None, None, 1, 0)
    assert overall(table([0.2, 0.6]), seed=0).std == pytest.approx(0.4 / np.sqrt(2))
    never = paired_difference(table([0.1], [0.2]), table([0.3], [0.4]), seed=0)
    assert (never.share.value, never.ratio) == (0.0, Estimate(None, None))
    assert overall(table([0.5], [0.5]), seed=0).share.value == 0.0  # above is above
    with pytest.raises(ValueError, match=r"^paired comparison of 1 with 2 prefixes$"):
        paired_difference(table([0.1]), table([0.3], [0.4]), seed=0)
