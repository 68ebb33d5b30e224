"""Shares corrected by people's labels: by hand, against ppi-python, and by simulation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.evaluation.labels import (
    EDGES,
    Judged,
    allocation,
    corrected,
    difference,
    power_tuning,
    strata_of,
)
from astprompter.evaluation.statistics import Options

OPTIONS = Options(seed=0, resamples=400, level=0.95, threshold=0.5)


def judged(rows: list[tuple[int, int, float, float | None, int]]) -> Judged:
    """From (prefix, stratum, flagged, toxic or ``None``, how many such replies, each of the next prefix)."""
    flat = [
        (prefix + i, stratum, flagged, np.nan if toxic is None else toxic)
        for prefix, stratum, flagged, toxic, count in rows
        for i in range(count)
    ]
    prefix, stratum, flagged, toxic = (np.array(column) for column in zip(*flat, strict=True))
    return Judged(prefix, stratum, flagged.astype(float), toxic.astype(float))


def test_a_score_on_an_edge_belongs_to_the_stratum_that_it_ends() -> None:
    assert strata_of(np.array([0.0, 0.1, 0.11, 0.5, 0.51, 1.0])).tolist() == [0, 0, 1, 1, 2, 3]
    assert EDGES[1] == 0.5  # a stratum holds either what the scorer flags or what it does not


def test_labels_go_where_replies_are_many_and_uncertain_and_everywhere_at_least_ten() -> None:
    assert allocation([500, 30, 4], [0.02, 0.5, 0.95], 60) == [46, 10, 4]
    assert sum(allocation([5, 5], [0.1, 0.9], 100)) == 10  # no more than there are
    small, large = (allocation([400, 200, 60], [0.05, 0.3, 0.8], n) for n in (100, 150))
    assert all(a <= b for a, b in zip(small, large, strict=True))  # a larger sample holds the smaller one


def test_labels_stand_for_the_replies_of_their_stratum() -> None:
    # 900 replies that are not flagged, 4 of 80 labels toxic; 100 flagged, 12 of 20 labels toxic.
    sample = judged([
        (0, 0, 0.0, 1.0, 4), (4, 0, 0.0, 0.0, 76), (80, 0, 0.0, None, 820),
        (900, 5, 1.0, 1.0, 12), (912, 5, 1.0, 0.0, 8), (920, 5, 1.0, None, 80),
    ])  # fmt: skip
    found = corrected(sample, 1000, OPTIONS)
    assert found is not None
    missed, right = 900 * 4 / 80, 100 * 12 / 20
    assert found.share.value == pytest.approx((missed + right) / 1000)
    assert found.precision.value == pytest.approx(12 / 20)
    assert found.recall.value == pytest.approx(right / (missed + right))
    assert found.power == 1.0  # the strata tell what the scorer says
    for estimate in (found.share, found.precision, found.recall):
        assert estimate.ci is not None
        assert estimate.value is not None
        assert estimate.ci[0] < estimate.value < estimate.ci[1]
    assert corrected(sample, 1000, OPTIONS) is not None
    again = corrected(sample, 1000, OPTIONS)
    assert again is not None
    assert again.share == found.share  # the same seed, the same interval


PPI = {"estimate": 0.21607254480635865, "lambda": 0.35597676451067944, "ci": [0.1747983361270311, 0.25734675348568625]}


@pytest.mark.slow
def test_without_strata_and_clusters_it_is_ppi_plus_plus() -> None:
    """Figures of the package ppi-python 0.2.3, in which the unlabelled replies are those that nobody judged.

    >>> ppi_mean_pointestimate(toxic[asked], flagged[asked], flagged[~asked])
    >>> ppi_mean_ci(toxic[asked], flagged[asked], flagged[~asked], alpha=0.05)
    """
    rng = np.random.default_rng(7)
    toxic = (rng.random(2000) < 0.2).astype(float)
    flagged = np.where(rng.random(2000) < 0.2, 1 - toxic, toxic)
    asked = np.arange(2000) < 300
    sample = Judged(np.arange(2000), np.zeros(2000, np.int64), flagged, np.where(asked, toxic, np.nan))
    found = corrected(sample, 2000, Options(seed=0, resamples=2000, level=0.95, threshold=0.5))
    assert found is not None
    assert found.share.value == pytest.approx(PPI["estimate"], abs=1e-12)
    assert power_tuning(sample) == pytest.approx(PPI["lambda"] * 2000 / 1700)  # theirs is a weight of the others only
    assert found.share.ci == pytest.approx(PPI["ci"], abs=0.004)


def test_what_no_label_contradicts_is_not_certain() -> None:
    sample = judged([(0, 0, 0.0, 0.0, 60), (60, 0, 0.0, None, 840), (900, 5, 1.0, 1.0, 40), (940, 5, 1.0, None, 60)])
    found = corrected(sample, 1000, OPTIONS)
    assert found is not None
    assert found.share.value == pytest.approx(0.1)
    assert found.share.ci is not None
    low, high = found.share.ci
    assert 0.075 < low < 0.1 < high < 0.1 + 3 / 60  # by the rule of three at most 5 % are missed
    assert (found.precision.value, found.recall.value) == (1.0, 1.0)
    assert found.precision.ci is not None
    assert found.precision.ci[0] < 0.99


def test_too_few_labels_give_no_corrected_share() -> None:
    few = judged([(0, 0, 0.0, 0.0, 60), (60, 5, 1.0, 1.0, 39), (99, 5, 1.0, None, 300)])
    assert corrected(few, 400, OPTIONS) is None
    empty = judged([(0, 0, 0.0, 0.0, 120), (120, 5, 1.0, None, 30)])  # nobody judged what the scorer flags
    assert corrected(empty, 150, OPTIONS) is None


def test_differences_are_paired_on_prefixes() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300) < 0.3  # the same prefixes fail under both
    one, two = (
        Judged(
            np.arange(300), np.where(hard, 5, 0), hard.astype(float), (hard | (rng.random(300) < extra)).astype(float)
        )
        for extra in (0.15, 0.05)
    )
    a, b = (corrected(sample, 300, OPTIONS, name=name) for sample, name in ((one, "a"), (two, "b")))
    assert a is not None
    assert b is not None
    apart = difference(a, b, OPTIONS)
    assert apart.value == pytest.approx((a.share.value or 0) - (b.share.value or 0))
    assert apart.ci is not None
    assert a.share.ci is not None
    assert apart.ci[1] - apart.ci[0] < a.share.ci[1] - a.share.ci[0]


@pytest.mark.slow
@pytest.mark.parametrize(("toxic", "lenient"), [(-2.2, 5.0), (-3.2, 5.0), (-3.2, 1.8)])
def test_intervals_hold_the_true_share_where_the_scorers_own_do_not(
    toxic: float, lenient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clustered replies, and a scorer that misses many or flags many others (``scripts/simulate_labels.py``)."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    simulation: Any = importlib.import_module("simulate_labels")
    found = simulation.coverage(simulation.World(toxic=toxic, lenient=lenient), 100)
    assert 0.91 <= found["coverage"] <= 0.99
    assert found["raw_coverage"] < 0.1
    assert found["corrected"] == pytest.approx(found["truth"], abs=0.01)
