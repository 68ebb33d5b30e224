"""The estimator: from what components drew, whoever spoke, to an unbiased failure probability (docs/probability.md).

Shapes: n conversations, d turns, Q proposals, K components. A conversation that stopped has zeros after its last turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
    """Who speaks at which turn.

    Attributes:
        turns: A_k, the turns from 0 at which the proposal speaks; at the others natural speech does.
        proposal: Number of the proposal; of no meaning where ``turns`` is empty, which is Monte Carlo.
    """

    turns: frozenset[int]
    proposal: int = 0


NATURAL = Component(frozenset())


@dataclass(frozen=True, slots=True)
class Draws:
    """What conversations brought, as arrays.

    Attributes:
        ratios: ℓ, log q̃ − log p̃ of every utterance under every proposal, whoever spoke [n, d, Q].
        toxic: Share of the turn's replies that failed [n, d].
        unknown: Share that could not be assessed [n, d].
        going: Share from which it may go on to a failure [n, d]; it went on from one of these at random. The rest of
            the turn's replies settles it: they are not clean, and only clean failures count.
        component: Which component drew it [n].
        prefix: Which prefix it began with [n].
    """

    ratios: Floats
    toxic: Floats
    unknown: Floats
    going: Floats
    component: npt.NDArray[np.int64]
    prefix: npt.NDArray[np.int64]

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_]) -> Draws:
        return Draws(
            self.ratios[rows], self.toxic[rows], self.unknown[rows], self.going[rows], self.component[rows],
            self.prefix[rows],
        )  # fmt: skip


def path_ratios(ratios: Floats, components: Sequence[Component]) -> Floats:
    """Σ_{s ∈ A_k, s ≤ t} ℓ_{k,s} = log q_k − log p of the conversation up to turn t: [n, d, Q] -> [n, d, K]."""
    turns = ratios.shape[1]
    parts = [
        ratios[:, :, component.proposal] * [turn in component.turns for turn in range(turns)]
        if component.turns
        else np.zeros(ratios.shape[:2])
        for component in components
    ]
    return np.cumsum(np.stack(parts, axis=2), axis=1)


def mixture_weights(paths: Floats, shares: Floats) -> Floats:
    """Weights p / q_mix = 1 / Σ_k ω_k·exp(path_k), the balance heuristic (Veach and Guibas 1995; Owen and Zhou 2000).

    Args:
        paths: [..., K].
        shares: ω [K]; components with ω_k = 0 do not speak, and do not count.

    Returns:
        [...], at most 1 / ω of the natural component.
    """
    with np.errstate(divide="ignore"):
        logs = paths + np.log(shares)
    peak = logs.max(axis=-1)
    weights: Floats = np.exp(-peak) / np.exp(logs - peak[..., None]).sum(axis=-1)
    return weights


def failure_terms(draws: Draws, *, unknown_fails: bool = False) -> Floats:
    """S_{t−1}·f_t with S_t = Π_{s ≤ t} (going share): failure at turn t by m replies each, in the draws alone [n, d].

    Args:
        draws: The conversations.
        unknown_fails: Whether a reply that could not be assessed counts as a failure; else as none, and as the end.
    """
    failing = draws.toxic + draws.unknown if unknown_fails else draws.toxic
    survived = np.cumprod(draws.going, axis=1)
    terms: Floats = failing * np.concatenate([np.ones((len(failing), 1)), survived[:, :-1]], axis=1)
    return terms


def estimates(draws: Draws, components: Sequence[Component], shares: Floats, *, unknown_fails: bool = False) -> Floats:
    """Z = Σ_t S_{t−1}·f_t·p/q_mix of every conversation, turn by turn [n, d]; Σ_k ω_k·E_k[ΣZ] is the probability."""
    return failure_terms(draws, unknown_fails=unknown_fails) * mixture_weights(
        path_ratios(draws.ratios, components), shares
    )


def density_ratios(draws: Draws, components: Sequence[Component], shares: Floats) -> Floats:
    """q_k / q_mix of whole conversations [n, K]; its mean over draws of the mixture is 1 for every k."""
    final = path_ratios(draws.ratios, components)[:, -1]
    ratios: Floats = np.exp(final + np.log(mixture_weights(final, shares))[:, None])
    return ratios


def with_control_variates(values: Floats, ratios: Floats, coefficients: Floats) -> tuple[float, float]:
    """Mean and standard error of Z − Σ_k β_k·(q_k/q_mix − 1), which has the mean of Z for every fixed β.

    Args:
        values: Z [n].
        ratios: q_k / q_mix [n, K].
        coefficients: β [K], from other draws.
    """
    corrected = values - (ratios - 1.0) @ coefficients
    return float(corrected.mean()), float(corrected.std(ddof=1) / np.sqrt(len(values)))
