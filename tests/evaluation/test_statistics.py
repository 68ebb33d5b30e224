from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astprompter.config import EvaluationSettings
from astprompter.evaluation import statistics
from astprompter.evaluation.statistics import Options, replies_by_utterance
from astprompter.runs.schema.figures import FailureWithinHorizon, Figures, Metric, MetricComparison

NAN = float("nan")


def table(*rows: list[float]) -> Any:
    return np.array(rows, dtype=np.float64)


def chosen(*, seed: int = 0, resamples: int = 2000, level: float = 0.95, threshold: float = 0.5) -> Options:
    return Options(seed, resamples, level, threshold)


def describe(values: Any, **options: Any) -> Metric:
    """Of one seed."""
    return statistics.describe(values[None], [0], chosen(**options))


def overall(values: Any, **options: Any) -> Figures:
    return statistics.overall(values, chosen(**options))


def failure_within_horizon(values: Any, **options: Any) -> FailureWithinHorizon:
    return statistics.failure_within_horizon(values[None], [0], chosen(**options))


def paired_difference(a: Any, b: Any, **options: Any) -> MetricComparison:
    return statistics.paired_difference(a[None], b[None], [0], chosen(**options))


def test_by_hand() -> None:
    summary = describe(table([0.2, 0.8], [0.6, NAN], [0.4, 0.9]), seed=0)
    assert summary.mean == pytest.approx((0.2 + 0.8 + 0.6 + 0.4 + 0.9) / 5)
    assert summary.std == pytest.approx(np.std([0.2, 0.8, 0.6, 0.4, 0.9], ddof=1))
    assert summary.share == pytest.approx(3 / 5)
    assert (summary.valid, summary.errors) == (5, 1)
    first, second = summary.per_turn
    assert first.mean == pytest.approx(0.4)
    assert second.mean == pytest.approx(0.85)
    assert second.share == 1.0
    assert second.errors == 1


@pytest.mark.slow
def test_interval_agrees_with_scipy_where_clusters_are_single_values() -> None:
    import scipy.stats

    values = np.random.default_rng(0).exponential(size=200)
    ours = describe(values[:, None], seed=1, resamples=20_000).ci
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(list(theirs), abs=0.01)


@pytest.mark.slow
def test_interval_agrees_with_scipy_on_clusters() -> None:
    import scipy.stats

    values = np.random.default_rng(3).normal(size=(80, 3)) + np.random.default_rng(4).normal(size=(80, 1))
    ours = describe(values, seed=1, resamples=20_000).ci
    theirs = scipy.stats.bootstrap(
        (values.mean(axis=1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx(list(theirs), abs=0.015)


@pytest.mark.slow
def test_intervals_cover_on_clustered_data_where_turn_level_ones_do_not() -> None:
    rng, hits, naive_hits, trials = np.random.default_rng(5), 0, 0, 300
    for trial in range(trials):
        values = rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 3))
        low, high = describe(values, seed=trial, resamples=400).ci or (0.0, 0.0)
        hits += low <= 0 <= high
        half = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
        naive_hits += abs(values.mean()) <= half
    assert 0.90 <= hits / trials <= 0.98
    assert naive_hits / trials < 0.85


def test_any_failure_within_the_horizon() -> None:
    values = table([0.1, 0.9, NAN], [0.1, 0.2, 0.3], [0.1, NAN, 0.2], [NAN, NAN, NAN], [0.6, 0.6, 0.6])
    result = failure_within_horizon(values, seed=0)
    assert (result.failed, result.assessed, result.unassessed) == (2, 3, 2)
    assert result.bounds == pytest.approx([2 / 5, 4 / 5])
    # At risk: four in turn 1 (one fails), three in turn 2 but one has no score (one of two fails), one in turn 3.
    assert result.share == pytest.approx(1 - (1 - 1 / 4) * (1 - 1 / 2) * (1 - 0 / 1))


def test_where_all_or_nothing_failed_the_interval_is_the_exact_binomial_one() -> None:
    import scipy.stats

    for prefixes, level in ((4, 0.95), (60, 0.95), (60, 0.9)):
        exact = [scipy.stats.binomtest(k, prefixes).proportion_ci(level) for k in (0, prefixes)]
        for share, (low, high) in zip((0.0, 1.0), exact, strict=True):
            values = np.full((prefixes, 3), share)
            found = describe(values, level=level)
            assert (found.share, found.share_ci) == (share, pytest.approx([low, high]))
            assert found.per_turn[1].share_ci == pytest.approx([low, high])  # a prefix counts once, not for each turn
            within = failure_within_horizon(values, level=level)
            assert (within.share, within.ci, within.bounds_ci) == (share, *[pytest.approx([low, high])] * 2)
    missing = failure_within_horizon(table([0.1, 0.2], [0.1, NAN], [0.2, 0.3], [NAN, NAN]), seed=0)
    low, high = scipy.stats.binomtest(0, 2).proportion_ci(0.95)  # the two that were assessed to the end
    assert (missing.share, missing.ci) == (0.0, pytest.approx([low, high]))
    for turns in (2, 3, 4):  # nobody is at risk after turn 1, so nothing is known of the later ones
        unknown = failure_within_horizon(np.array([[0.1, *[NAN] * (turns - 1)]] * 5), seed=0)
        assert (unknown.share, unknown.ci, unknown.bounds) == (None, None, [0.0, 1.0])
    some = overall(table([0.9, NAN], [NAN, NAN], [0.8, 0.7]), seed=0)
    assert some.share_ci == pytest.approx(list(scipy.stats.binomtest(2, 2).proportion_ci(0.95)))
    assert overall(table([0.9, 0.1], [0.9, 0.1]), seed=0).share_ci == [0.5, 0.5]  # every prefix alike is no such case


def test_the_threshold_is_strict() -> None:
    assert failure_within_horizon(table([0.5], [0.5000001]), seed=0).failed == 1


def test_replies_by_the_toxicity_of_the_utterance() -> None:
    nan = np.nan
    replies = np.array([[0.9, 0.9, 0.1], [0.2, nan, 0.8]])
    utterances = np.array([[0.9, 0.5, 0.6], [0.1, nan, 0.2]])
    rows = replies_by_utterance(replies[None], utterances[None], chosen())
    assert (rows.toxic.turns, rows.toxic.share) == (2, 0.5)
    assert (rows.clean.turns, rows.clean.share) == (3, pytest.approx(2 / 3))
    assert rows.clean.share_ci is not None
    assert rows.threshold == 0.5


def test_paired_differences_are_tighter_than_unpaired_ones() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(size=(100, 1)) + 0.1 * rng.normal(size=(100, 3))
    shifted = base + 0.2
    difference = paired_difference(shifted, base, seed=0)
    assert difference.mean.difference == pytest.approx(0.2)
    low, high = difference.mean.ci or (0.0, 0.0)
    assert high - low < 1e-9
    wide = describe(base, seed=0).ci or (0.0, 0.0)
    assert wide[1] - wide[0] > 0.2


def test_ratio_of_shares() -> None:
    a, b = table([0.9, 0.9], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]), table([0.9, 0.1], [0.1, 0.1], [0.1, 0.1], [0.9, 0.1])
    result = paired_difference(a, b, seed=0).share
    assert result is not None
    assert result.difference == pytest.approx(6 / 8 - 2 / 8)
    assert result.ratio == pytest.approx(3.0)
    none = paired_difference(a, b * 0, seed=0).share
    assert none is not None
    assert none.ratio is None
    rare = np.zeros((200, 1))
    rare[0] = 1.0  # in a third of the resamples b never fails, so the ratio has no upper end
    often = np.repeat([[1.0], [0.0]], [40, 160], axis=0)
    wide = paired_difference(often, rare, seed=0).share
    assert wide is not None
    assert (wide.ratio, wide.ratio_ci) == (pytest.approx(40.0), None)
    assert wide.ci is not None


def test_equal_adversaries_differ_by_nothing() -> None:
    values = np.random.default_rng(0).random((30, 3))
    result = paired_difference(values, values, seed=0)
    assert (result.mean.difference, result.mean.ci) == (0.0, [0.0, 0.0])


def test_different_prefix_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 with 1 prefixes"):
        paired_difference(table([1.0], [2.0]), table([1.0]), seed=0)


def test_degenerate_cases_are_null_in_json_not_nan() -> None:
    empty = describe(np.zeros((0, 2)), seed=0).plain()
    assert (empty["mean"], empty["ci"], empty["share"], empty["std"]) == (None, None, None, None)
    one = describe(table([0.2, 0.4]), seed=0)
    assert (one.mean, one.ci) == (pytest.approx(0.3), None)
    errors = describe(table([NAN], [NAN]), seed=0).plain()
    assert (errors["mean"], errors["ci"], errors["errors"]) == (None, None, 2)
    constant = describe(table([0.4], [0.4], [0.4]), seed=0)
    assert constant.ci == pytest.approx([0.4, 0.4])
    assert failure_within_horizon(np.zeros((0, 2)), seed=0).plain()["share"] is None


def test_seed_decides_the_interval_and_global_state_does_not() -> None:
    values = np.random.default_rng(0).random((40, 3))
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first = describe(values, seed=1).plain()
    np.random.random()
    assert describe(values, seed=1).plain() == first
    assert describe(values, seed=2).plain() != first
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
    if summary.mean is not None and summary.ci is not None:
        assert np.nanmin(data) - 1e-9 <= summary.ci[0] <= summary.ci[1] <= np.nanmax(data) + 1e-9
    result = failure_within_horizon(data, seed=0, resamples=50)
    assert result.assessed + result.unassessed == rows


def test_names_and_values_in_json() -> None:
    none = {"0.3": None, "0.5": None, "0.7": None}
    figures: dict[str, Any] = {
        "mean": None, "std": None, "ci": None, "share": None, "share_ci": None, "share_at": none, "threshold": 0.5
    }  # fmt: skip
    seed: dict[str, Any] = {"seed": 0, "mean": None, "std": None, "share": None}
    spread = {"mean": None, "share": None}
    empty = {**figures, "valid": 0, "errors": 2}
    turn = {**figures, "valid": 0, "errors": 1}
    assert describe(table([NAN, NAN])).plain() == {
        **empty, "per_turn": [turn, turn], "by_seed": [seed], "seed_std": spread
    }  # fmt: skip
    always = {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0}
    one = {**figures, "mean": 0.75, "share": 1.0, "share_at": always, "valid": 1, "errors": 0}
    assert describe(table([0.75])).plain() == {
        **one, "per_turn": [one], "by_seed": [{**seed, "mean": 0.75, "share": 1.0}], "seed_std": spread
    }  # fmt: skip
    assert failure_within_horizon(table([0.75], [0.25], [NAN])).plain() == {
        "share": 0.5, "ci": [0.0, 1.0], "share_at": {"0.3": 0.5, "0.5": 0.5, "0.7": 0.5}, "bounds": [1 / 3, 2 / 3],
        "bounds_ci": [0.0, 1.0], "threshold": 0.5, "failed": 1, "assessed": 2, "unassessed": 1,
        "by_seed": [{"seed": 0, "share": 0.5}], "seed_std": None,
    }  # fmt: skip
    assert paired_difference(table([0.75]), table([0.25])).plain() == {
        "mean": {"difference": 0.5, "ci": None}, "threshold": 0.5,
        "share": {"difference": 1.0, "ci": None, "ratio": None, "ratio_ci": None},
        "by_seed": [{"seed": 0, "mean": 0.5, "share": 1.0}],
    }  # fmt: skip


def test_a_likelihood_has_no_share() -> None:
    values = table([0.9], [0.1])[None]
    found = statistics.describe(values, [0], chosen(), shares=False)
    for part in (found, *found.per_turn):
        assert (part.share, part.share_ci, part.threshold) == (None, None, None)
    assert (found.by_seed[0].share, found.seed_std.share) == (None, None)
    assert found.ci == describe(values[0]).ci
    paired = statistics.paired_difference(values, values[:, ::-1], [0], chosen(), shares=False)
    assert (paired.share, paired.threshold, paired.by_seed[0].share) == (None, None, None)


def test_seed_resamples_and_level_reach_every_figure() -> None:
    values = np.random.default_rng(8).random((30, 3))
    other = np.random.default_rng(9).random((30, 3))
    options: dict[str, Any] = {"seed": 3, "resamples": 23, "level": 0.8}

    def figures(**options: Any) -> list[Any]:
        found = describe(values, **options)
        failed = failure_within_horizon(values, **{"threshold": 0.9, **options})
        paired = paired_difference(values, other, **options)
        assert paired.share is not None
        return [
            (found.mean, found.ci), *((turn.mean, turn.ci) for turn in found.per_turn), (failed.share, failed.ci),
            (paired.mean.difference, paired.mean.ci), (paired.share.difference, paired.share.ci),
            (paired.share.ratio, paired.share.ratio_ci),
        ]  # fmt: skip

    given = figures(**options)
    one = overall(values, **options)
    assert given[0] == (one.mean, one.ci)
    turns = [overall(values[:, [turn]], **options) for turn in range(3)]
    assert given[1:4] == [(turn.mean, turn.ci) for turn in turns]
    for key, changes in {"seed": (4, 5, 6), "resamples": (24, 31, 40), "level": (0.6, 0.9, 0.99)}.items():
        others = [figures(**{**options, key: change}) for change in changes]
        for place, before in enumerate(given):
            assert all(other[place][0] == before[0] for other in others)
            assert any(other[place][1] != before[1] for other in others)


def test_the_threshold_reaches_every_share() -> None:
    values, other = np.random.default_rng(8).random((2, 30, 3))
    for threshold in (0.3, 0.5, 0.9):
        found = describe(values, threshold=threshold)
        assert (found.share, found.threshold) == (pytest.approx((values > threshold).mean()), threshold)
        assert found.by_seed[0].share == found.share
        assert [turn.share for turn in found.per_turn] == pytest.approx(list((values > threshold).mean(axis=0)))
        failed = failure_within_horizon(values, threshold=threshold)
        assert (failed.failed, failed.threshold) == ((values > threshold).any(axis=1).sum(), threshold)
        paired = paired_difference(values, other, threshold=threshold)
        assert paired.share is not None
        difference = (values > threshold).mean() - (other > threshold).mean()
        assert (paired.share.difference, paired.threshold) == (pytest.approx(difference), threshold)
        after = replies_by_utterance(values[None], other[None], chosen(threshold=threshold))
        assert after.toxic.share == pytest.approx((values > threshold)[other > threshold].mean())


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
    assert found.ci == pytest.approx(list(np.quantile(means, [0.05, 0.95])))
    assert found.share_ci == pytest.approx(list(np.quantile(shares, [0.05, 0.95])))
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


def test_options_are_those_of_the_settings() -> None:
    assert Options.of(EvaluationSettings(), seed=3) == Options(3, 2000, 0.95, 0.5)  # type: ignore[call-arg]
    settings = EvaluationSettings(resamples=123, level=0.8, threshold=0.4)  # type: ignore[call-arg]
    assert Options.of(settings, seed=0) == Options(0, 123, 0.8, 0.4)


def test_the_least_that_can_be_told() -> None:
    two = overall(table([0.2], [0.6]), seed=0)
    assert two.std == pytest.approx(0.4 / np.sqrt(2))
    assert two.ci == pytest.approx([0.2, 0.6])
    one = overall(table([0.2]), seed=0)
    assert (one.mean, one.std, one.ci, one.valid, one.errors) == (0.2, None, None, 1, 0)
    assert overall(table([0.2, 0.6]), seed=0).std == pytest.approx(0.4 / np.sqrt(2))
    never = paired_difference(table([0.1], [0.2]), table([0.3], [0.4]), seed=0).share
    assert never is not None
    assert (never.difference, never.ratio, never.ratio_ci) == (0.0, None, None)
    assert overall(table([0.5], [0.5]), seed=0).share == 0.0  # above is above
    with pytest.raises(ValueError, match=r"^paired comparison of 1 with 2 prefixes$"):
        paired_difference(table([0.1]), table([0.3], [0.4]), seed=0)
