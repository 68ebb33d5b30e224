"""What the pilot decides."""

from __future__ import annotations

import numpy as np
import pytest

from astprompter.config import SamplingSettings
from astprompter.probability.densities import Proposal
from astprompter.probability.estimate import Component, Draws, density_ratios, estimates, with_control_variates
from astprompter.probability.pilot import (
    BLOCK,
    FLOOR,
    cross_entropy,
    every_component,
    first_counts,
    plan_of,
    rounded,
)  # fmt: skip
from helpers.tabular import TabularSpeaker, chances_of, every_conversation

SAMPLING = SamplingSettings(max_new_tokens=2, min_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.1)


def test_blocks_hold_every_share_in_whole_conversations() -> None:
    for adversaries in (1, 3):
        components = every_component(range(2 * adversaries), 3)
        assert len(components) == len(set(components)) == 1 + 2 * adversaries * 4
        counts = first_counts(components, 3)
        assert sum(counts) == BLOCK
        assert counts[0] == FLOOR
    assert every_component([0], 1) == [Component(frozenset()), Component(frozenset({0}))]
    assert rounded(np.array([0.01, 0.33, 0.33, 0.33])) == [5, 5, 5, 5]
    assert rounded(np.array([1.0, 0.0])) == [20, 0]


def test_cross_entropy_finds_the_mixture_that_failures_were_drawn_from() -> None:
    """Failures of which seven in ten are far likelier under the second component, three under the third."""
    paths = np.log(np.array([[1.0, 50.0, 0.01]] * 70 + [[1.0, 0.01, 50.0]] * 30))
    shares = cross_entropy(np.ones(100), paths, np.full(3, 1e-9), 0.25)
    assert shares == pytest.approx([0.25, 0.75 * 0.7, 0.75 * 0.3], abs=0.01)


def drawn_from(
    speaker: TabularSpeaker, components: list[Component], counts: list[int], size: int
) -> tuple[Draws, float]:
    """Conversations drawn by a mixture from the list of all, and the exact probability of failure."""
    draws, natural, replies = every_conversation(speaker, (4, 5), horizon=2, m=1)
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            rng.choice(
                len(natural), size=count * size, p=(found := chances_of(draws, natural, replies, c)) / found.sum()
            )
            for c, count in zip(components, counts, strict=True)
        ]
    )
    exact = float(
        chances_of(draws, natural, replies, Component(frozenset()))
        @ estimates(draws, [Component(frozenset())], np.ones(1)).sum(axis=1)
    )
    return draws[rows], exact


@pytest.mark.slow
def test_the_plan_lowers_the_variance_as_much_as_it_says_and_keeps_the_mean() -> None:
    speaker = TabularSpeaker(SAMPLING, [Proposal(0, 0.5), Proposal(0, 1.0), Proposal(1, 1.0)])
    components = every_component(range(3), 2)
    counts = first_counts(components, 2)
    pilot, exact = drawn_from(speaker, components, counts, 400)
    plan = plan_of(pilot, components, counts, components)
    draws, natural, replies = every_conversation(speaker, (4, 5), horizon=2, m=1)
    values = estimates(draws, plan.components, plan.shares).sum(axis=1)
    chances = sum(s * chances_of(draws, natural, replies, c) for s, c in zip(plan.shares, plan.components, strict=True))
    variance = float(chances @ values**2) - exact**2
    assert plan.gain == pytest.approx(exact * (1 - exact) / variance, rel=0.2)
    assert plan.gain > 1.5
    assert plan.guess[0] == pytest.approx(exact, rel=0.2)
    corrected = values - (density_ratios(draws, plan.components, plan.shares) - 1.0) @ np.array(plan.coefficients)
    assert float(chances @ corrected) == pytest.approx(exact, abs=1e-12)  # whatever the coefficients
    assert float(chances @ corrected**2) - exact**2 < variance


def test_a_pilot_without_failures_goes_on_as_it_began() -> None:
    components = every_component([0, 1], 2)
    counts = first_counts(components, 2)
    nothing = np.zeros((40, 2))
    pilot = Draws(np.zeros((40, 2, 2)), nothing, nothing, nothing + 1, np.zeros(40, int), np.zeros(40, int))
    plan = plan_of(pilot, components, counts, components)
    assert plan.gain is None
    assert sum(plan.counts) == BLOCK
    assert plan.counts[0] == FLOOR


def test_where_failure_is_common_the_plan_is_to_count() -> None:
    components = every_component([0, 1], 1)
    counts = first_counts(components, 1)
    rng = np.random.default_rng(0)
    toxic = (rng.random((400, 1)) < 0.5).astype(float)
    pilot = Draws(rng.normal(0, 0.1, (400, 1, 2)), toxic, 0 * toxic, 1 - toxic, np.zeros(400, int), np.zeros(400, int))
    plan = plan_of(pilot, components, counts, components)
    assert plan.components == (Component(frozenset()),)
    assert plan.counts == (BLOCK,)


def test_control_variates_leave_the_mean() -> None:
    values, ratios = np.array([1.0, 0.0, 2.0]), np.array([[1.0, 2.0], [1.0, 0.5], [1.0, 0.5]])
    assert with_control_variates(values, ratios, np.zeros(2))[0] == 1.0
    assert with_control_variates(values, ratios, np.array([0.0, 2.0]))[0] == pytest.approx(1.0)
