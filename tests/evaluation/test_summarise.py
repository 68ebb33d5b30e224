"""Figures over several seeds, and comparisons, recomputed by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.evaluation.statistics import Options, describe, paired_difference
from astprompter.evaluation.summarise import Measured, compare, figures_of
from helpers.evaluations import pooled

OPTIONS = Options(seed=0, resamples=200, level=0.95, threshold=0.5)


def test_pooled_figures_by_hand() -> None:
    item = pooled(0)
    row = figures_of(item, OPTIONS)
    table = item.tables["tox_reply"]
    valid = table[~np.isnan(table)]
    assert row.tox_reply.mean == pytest.approx(valid.mean())
    assert row.tox_reply.std == pytest.approx(valid.std(ddof=1))
    assert row.tox_reply.share == pytest.approx((valid > 0.5).mean())
    assert (row.tox_reply.valid, row.tox_reply.errors, row.errors) == (53, 1, 1)
    assert row.tox_reply.per_turn[2].mean == pytest.approx(table[:, :, 2].mean())
    by_seed = [np.nanmean(values) for values in table]
    assert [seed.mean for seed in row.tox_reply.by_seed] == pytest.approx(by_seed)
    assert row.tox_reply.seed_std.mean == pytest.approx(np.std(by_seed, ddof=1))
    assert row.nll.perplexity == pytest.approx(np.exp(np.nanmean(item.tables["nll"])))
    assert row.utterance_perplexity.std == pytest.approx(np.nanstd(np.exp(item.tables["nll"]), ddof=1))
    failed = np.any(table > 0.5, axis=2)
    open_ = np.isnan(table).any(axis=2) & ~failed
    assert row.failure_within_horizon.failed == failed.sum()
    assert row.failure_within_horizon.bounds == pytest.approx([failed.mean(), (failed | open_).mean()])
    clean = item.tables["tox_utterance"] <= 0.5  # false for nan
    after_clean = row.replies_by_utterance.clean
    assert (after_clean.turns, after_clean.share) == (clean.sum(), pytest.approx((table[clean] > 0.5).mean()))
    assert row.diversity == {"distinct_1": 0.5, "vendi": None}


def test_one_seed_pooled_is_that_seed() -> None:
    item = pooled(1, seeds=1)
    ours, theirs = figures_of(item, OPTIONS).tox_reply, describe(item.tables["tox_reply"], [0], OPTIONS)
    assert ours == theirs
    assert ours.ci is not None
    assert ours.seed_std.plain() == {"mean": None, "share": None}
    row = compare(item, pooled(2, seeds=1), ("a", "b"), OPTIONS)
    expected = paired_difference(item.tables["tox_reply"], pooled(2, seeds=1).tables["tox_reply"], [0], OPTIONS)
    assert row.tox_reply == expected


def test_more_seeds_of_the_same_prefixes_are_no_more_prefixes() -> None:
    one = pooled(3, seeds=1, holes=False)
    tables = {metric: np.repeat(table, 4, axis=0) for metric, table in one.tables.items()}
    four = Measured((0, 1, 2, 3), one.prefixes, tables, one.diversity * 4, one.strategies)
    assert figures_of(four, OPTIONS).nll.ci == pytest.approx(figures_of(one, OPTIONS).nll.ci)


def test_comparisons_are_paired() -> None:
    a, b = pooled(4, holes=False), pooled(4, holes=False, shift=0.5)
    row = compare(b, a, ("b", "a"), OPTIONS)
    assert row.nll.mean.difference == pytest.approx(0.5)
    assert row.nll.mean.ci == pytest.approx([0.5, 0.5])
    assert row.perplexity_change == pytest.approx(np.expm1(0.5))
    other = Measured(a.seeds, tuple("abcdefghi"), a.tables, a.diversity, a.strategies)
    with pytest.raises(UserError, match="different prefixes"):
        compare(a, other, ("a", "b"), OPTIONS)


def test_comparisons_are_over_the_seeds_of_both() -> None:
    a, b = pooled(4, seeds=3, holes=False), pooled(5, seeds=2, holes=False)
    row = compare(a, b, ("a", "b"), OPTIONS)
    assert row.seeds == [0, 1]
    difference = a.tables["tox_reply"][:2].mean() - b.tables["tox_reply"].mean()
    assert row.tox_reply.mean.difference == pytest.approx(difference)
    shares = (a.tables["tox_reply"][:2] > 0.5).mean(axis=(1, 2)) - (b.tables["tox_reply"] > 0.5).mean(axis=(1, 2))
    assert [own.share for own in row.tox_reply.by_seed] == pytest.approx(list(shares))
    elsewhere = dataclasses.replace(b, inputs=("other prefixes", ""))
    assert compare(a, elsewhere, ("a", "b"), OPTIONS).seeds == [0, 1]  # what is not known is not held against it
    with pytest.raises(UserError, match="different prefixes or defenders"):
        compare(dataclasses.replace(a, inputs=("prefixes", "")), elsewhere, ("a", "b"), OPTIONS)
