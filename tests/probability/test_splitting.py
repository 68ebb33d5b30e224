"""Splitting over turns has the exact probability as its mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from astprompter.base.records import Prefix
from astprompter.config import SamplingSettings
from astprompter.probability.events import Event
from astprompter.probability.splitting import _Lines, level_of, split
from helpers import tabular
from helpers.tabular import (
    LURE,
    TOXIC,
    TabularDefender,
    TabularScorer,
    TabularSpeaker,
    UncleanScorer,
    probability_of_failure,
)  # fmt: skip

SAMPLING = SamplingSettings(max_new_tokens=2, min_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.1)


@pytest.mark.slow
@pytest.mark.parametrize(("islands", "particles"), [(800, 1), (200, 8)])
@pytest.mark.parametrize("clean", [None, 0.2])
def test_the_mean_of_islands_is_the_exact_probability(islands: int, particles: int, clean: float | None) -> None:
    """Also of clean failures, for which what is settled has level 0."""
    speaker = TabularSpeaker(SAMPLING, [], adversaries=0)
    event = Event(TabularScorer() if clean is None else UncleanScorer(), 0.5, clean)
    found = split(
        speaker, TabularDefender(), event, [Prefix("a", "4 5")], islands=islands, particles=particles,
        horizon=3, seed=0, islands_per_batch=islands,
    )  # fmt: skip
    exact = probability_of_failure(speaker, (4, 5), 3, clean=clean is not None)
    assert abs(found.estimate - exact) < 3.5 * found.islands.std(ddof=1) / np.sqrt(islands)
    assert found.islands == pytest.approx(found.worst)  # everything was assessed


class MisleadingScorer(TabularScorer):
    """Calls an utterance that ends like a failing reply toxic, which it does not bring about."""

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        return [0.9 if text.split()[-1] == str(TOXIC) else 0.05 for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize(("scorer", "least", "most"), [(TabularScorer(), 1.3, 4.0), (MisleadingScorer(), 0.2, 1.0)])
def test_it_beats_counting_where_failure_is_rare_and_scores_tell_that_it_is_near(
    scorer: TabularScorer, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in 154 fails. Where scores mislead, splitting is unbiased still, and worse than counting."""

    def chances(context: Sequence[int]) -> Any:
        failing = 0.05 if context[-1] == LURE else 0.0001
        return np.array([failing, *((1 - failing) * tabular.table(99)[context[-1], 3:5].double().softmax(0).numpy())])

    monkeypatch.setattr(tabular, "reply_chances", chances)
    speaker = TabularSpeaker(SAMPLING, [], adversaries=0)
    found = split(
        speaker, TabularDefender(), Event(scorer, 0.5), [Prefix("a", "4 5")], islands=120, particles=60, horizon=3,
        seed=0, islands_per_batch=120,
    )  # fmt: skip
    exact = probability_of_failure(speaker, (4, 5), 3)
    assert exact == pytest.approx(0.0065, rel=0.01)
    assert abs(found.estimate - exact) < 3.5 * found.islands.std(ddof=1) / np.sqrt(120)
    assert least < exact * (1 - exact) / (60 * found.islands.var(ddof=1)) < most


def test_islands_do_not_depend_on_their_batch() -> None:
    speaker = TabularSpeaker(SAMPLING, [], adversaries=0)
    both = [
        split(
            speaker,
            TabularDefender(),
            Event(TabularScorer(), 0.5),
            [Prefix("a", "4 5"), Prefix("b", "3 3")],
            islands=20,
            particles=6,
            horizon=2,
            seed=1,
            islands_per_batch=size,
        )
        for size in (20, 3)
    ]
    assert both[0].islands.tolist() == both[1].islands.tolist()
    ends = both[0].interval(0.95)
    assert ends is not None
    low, high = ends
    assert low <= both[0].estimate <= high


def test_what_choosing_changes_is_divided_out_by_hand() -> None:
    """One island of two particles of levels 1 and 3: the second goes on twice unless the number is below 1/4.

    Chosen again at the level that it has, a line is neither multiplied nor lost, and nothing is to be divided out.
    """
    lines = _Lines.new(1, 2)
    rows = lines.choose(np.array([1.0, 3.0]), np.array([7, 8], dtype=np.uint64))
    assert lines.scale.tolist() == [2.0]
    assert sorted(rows) in ([0, 1], [1, 1])
    assert lines.divisors[0].tolist() == [1.0 if row == 0 else 3.0 for row in rows]
    before = lines.divisors
    assert lines.choose(before.ravel(), np.array([7, 8], dtype=np.uint64)) == [0, 1]
    assert lines.scale.tolist() == [2.0]
    lines.choose(np.zeros(2), np.array([7, 8], dtype=np.uint64))
    assert lines.mean(np.array([True, True])).tolist() == [0.0]  # all have failed before


def test_levels_rise_with_toxicity_and_are_never_zero() -> None:
    assert level_of(np.array([0.0, 0.04, np.nan, 1.0])) == pytest.approx([0.1, 0.2, 0.1, 1.0])
