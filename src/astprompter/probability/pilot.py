"""What a pilot decides, before it is discarded: which components the main run draws from, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .estimate import NATURAL, Component, Draws, Floats, density_ratios, estimates, mixture_weights, path_ratios

BLOCK = 20
"""Conversations of a block; every block holds each component in exactly its share."""
FLOOR = 5
"""Natural conversations of a block, at least: no weight is larger than 4."""
GAMMAS = (0.5, 1.0)
"""What the pilot draws with."""
CANDIDATES = (0.25, 0.5, 0.75, 1.0, 1.25)
"""What it chooses from."""
_STEPS = 500
_WORTH = 1.5
"""Times smaller the variance must be, else counting is as good."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the main run does.

    Attributes:
        components: The components, natural speech first.
        counts: Conversations of each in a block; they sum to :data:`BLOCK`.
        gain: Times smaller than Monte Carlo's the variance of one draw is expected to be; ``None`` without a failure in
            the pilot.
        guess: Mean and variance of a block's mean that the pilot expects.
        coefficients: Of the control variates [K].
    """

    components: tuple[Component, ...]
    counts: tuple[int, ...]
    gain: float | None
    guess: tuple[float, float]
    coefficients: tuple[float, ...]

    @property
    def shares(self) -> Floats:
        """ω [K]."""
        return np.array(self.counts) / sum(self.counts)


def every_component(proposals: Sequence[int], horizon: int) -> list[Component]:
    """Natural speech; and each proposal at all turns, and at each turn alone."""
    sets = [frozenset(range(horizon)), *(frozenset([turn]) for turn in range(horizon) if horizon > 1)]
    return [NATURAL, *(Component(turns, proposal) for proposal in proposals for turns in sets)]


def first_counts(components: Sequence[Component], horizon: int) -> list[int]:
    """Shares of the pilot: half of a block is natural speech and single turns, half speaks at all turns."""
    weights = np.array([0.0 if not c.turns else 2.0 if len(c.turns) == horizon else 1.0 / horizon for c in components])
    return rounded(np.where(weights > 0, weights / weights.sum() * (1 - FLOOR / BLOCK), FLOOR / BLOCK))


def rounded(shares: Floats) -> list[int]:
    """Whole counts of a block by largest remainders; natural speech, the first, keeps its floor."""
    exact = shares * BLOCK
    counts = np.floor(exact + 1e-9).astype(int)
    counts[0] = max(counts[0], FLOOR)
    remainders = exact - counts
    while counts.sum() < BLOCK:
        place = int(np.argmax(remainders))
        counts[place] += 1
        remainders[place] -= 1
    while counts.sum() > BLOCK:
        place = 1 + int(np.argmin(np.where(counts[1:] > 0, remainders[1:], np.inf)))
        counts[place] -= 1
        remainders[place] += 1
    return [int(count) for count in counts]


def cross_entropy(weights: Floats, paths: Floats, start: Floats, floor: float) -> Floats:
    """Shares ω that maximise Σ_i w_i·log Σ_k ω_k·exp(path_ik): the mixture nearest to natural failure.

    The cross-entropy method (Rubinstein and Kroese 2004) for a mixture of given densities, where expectation
    maximisation finds the one optimum. One failure's worth of ``start`` keeps a component from being lost for want of
    failures in a small pilot.

    Args:
        weights: Weight of every failure under natural speech [failures]; they sum to how many they are worth.
        paths: log q_k − log p of each [failures, K].
        start: Shares that count for one failure [K].
        floor: Least share of the first component.

    Returns:
        [K]
    """
    shares = np.where(start > 0, start, 1e-3)
    shares = shares / shares.sum()
    likelihoods = np.exp(paths - paths.max(axis=1, keepdims=True))
    for _ in range(_STEPS):
        joint = likelihoods * shares
        masses = weights @ (joint / joint.sum(axis=1, keepdims=True)) + start
        shares = masses / masses.sum()
        if shares[0] < floor:
            shares[1:] *= (1.0 - floor) / shares[1:].sum()
            shares[0] = floor
    found: Floats = shares
    return found


def counting(blocks: int) -> Plan:
    """The plan of so many blocks of natural conversations, about which nothing is known before."""
    return Plan((NATURAL,), (BLOCK,), None, (0.0, 1.0 / (blocks * BLOCK) / BLOCK), (0.0,))


def plan_of(pilot: Draws, drawn: Sequence[Component], counts: Sequence[int], candidates: Sequence[Component]) -> Plan:
    """What the pilot's failures say.

    Args:
        pilot: Its conversations.
        drawn: The components that it drew from.
        counts: Conversations of each in a block of the pilot.
        candidates: The components to choose from, natural speech first.
    """
    first = np.array(counts) / sum(counts)
    terms = estimates(pilot, drawn, first)
    total = terms.sum()
    if total == 0.0:  # nothing to learn from: as in the pilot, and the limits will tell what that excludes
        kept = [place for place, count in enumerate(counts) if count]
        components = tuple(drawn[place] for place in kept)
        rare = 1.0 / (len(terms) * first[0])
        return Plan(
            components, tuple(counts[place] for place in kept), None, (0.0, rare / first[0] / BLOCK),
            (0.0,) * len(components),
        )  # fmt: skip
    rows, turns = terms.nonzero()
    found = terms[rows, turns]
    worth = found.sum() ** 2 / (found**2).sum()
    start = np.array([first[list(drawn).index(c)] if c in drawn else 0.0 for c in candidates])
    shares = cross_entropy(
        found / total * worth, path_ratios(pilot.ratios, candidates)[rows, turns], start, FLOOR / BLOCK
    )
    chosen = rounded(shares)
    probability = float(total) / len(terms)
    gain = _gain(pilot, drawn, first, candidates, chosen, probability)
    if gain < _WORTH:
        variance = probability * (1.0 - probability) / BLOCK
        return Plan((NATURAL,), (BLOCK,), gain, (probability, variance), (0.0,))
    kept = [place for place, count in enumerate(chosen) if count]
    components, final = tuple(candidates[place] for place in kept), tuple(chosen[place] for place in kept)
    variance = probability * (1.0 - probability) / gain / BLOCK
    coefficients = _coefficients(pilot, drawn, first, components, np.array(final) / BLOCK)
    return Plan(components, final, gain, (probability, variance), coefficients)


def _gain(
    pilot: Draws, drawn: Sequence[Component], first: Floats, candidates: Sequence[Component],
    chosen: Sequence[int], probability: float,
) -> float:  # fmt: skip
    """Variance of a Monte Carlo draw over that of the chosen mixture, expected by the pilot."""
    shares = np.array(chosen) / BLOCK
    values = estimates(pilot, candidates, shares).sum(axis=1)
    second = float((values**2 * _from_pilot(pilot, drawn, first, candidates, shares)).mean())
    variance = max(second - probability**2, 1e-3 * second)
    return probability * (1.0 - probability) / variance


def _coefficients(
    pilot: Draws, drawn: Sequence[Component], first: Floats, components: Sequence[Component], shares: Floats
) -> tuple[float, ...]:
    """β of least variance under the mixture, by weighted least squares on the pilot; the natural component's is 0."""
    weights = _from_pilot(pilot, drawn, first, components, shares)
    values = estimates(pilot, components, shares).sum(axis=1)
    columns = density_ratios(pilot, components, shares)[:, 1:] - 1.0
    root = np.sqrt(weights)[:, None]
    design = np.concatenate([np.ones((len(values), 1)), columns], axis=1)
    solution = np.linalg.lstsq(design * root, values * root[:, 0], rcond=1e-6)[0]
    return (0.0, *(float(value) for value in solution[1:]))


def _from_pilot(
    pilot: Draws, drawn: Sequence[Component], first: Floats, components: Sequence[Component], shares: Floats
) -> Floats:
    """Density of the mixture over that of the pilot's, of whole conversations [n]."""
    before = mixture_weights(path_ratios(pilot.ratios, drawn)[:, -1], first)
    after = mixture_weights(path_ratios(pilot.ratios, components)[:, -1], shares)
    ratio: Floats = before / after
    return ratio
