"""The estimator on models of which every conversation is written down: expectations are sums, so they are exact."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from astprompter.config import SamplingSettings
from astprompter.probability import densities as densities_module
from astprompter.probability import estimate, speaker
from astprompter.probability.densities import Proposal
from astprompter.probability.estimate import density_ratios, estimates, mixture_weights
from helpers import tabular
from helpers.tabular import (
    COMPONENTS,
    END,
    TabularSpeaker,
    chances_of,
    every_conversation,
    probability_of_failure,
    utterances,
)  # fmt: skip

PROPOSALS = [Proposal(0, 0.5), Proposal(0, 1.0), Proposal(1, 1.25), Proposal(1, 0.0)]
SAMPLING = {
    "penalised nucleus": SamplingSettings(
        max_new_tokens=2, min_new_tokens=1, temperature=0.7, top_p=0.8, repetition_penalty=1.4
    ),
    "whole vocabulary": SamplingSettings(
        max_new_tokens=2, min_new_tokens=1, temperature=1.5, top_p=1.0, repetition_penalty=1.0
    ),
    "one length": SamplingSettings(
        max_new_tokens=2, min_new_tokens=2, temperature=1.0, top_p=0.9, repetition_penalty=0.8
    ),
}
PREFIX = (4, 5)


def check_sums(sampling: SamplingSettings) -> None:
    """Σ p̃ = Σ q̃ = 1, and E[p̃/q̃] = 1 for every proposal: supports are equal."""
    talking = TabularSpeaker(sampling, PROPOSALS)
    found = list(utterances(talking, PREFIX))
    natural, others = np.array([own for _, own, _, _ in found]), np.array([q for _, _, q, _ in found])
    assert np.exp(natural).sum() == pytest.approx(1.0, abs=1e-12)
    assert np.exp(others).sum(axis=0) == pytest.approx(1.0, abs=1e-12)
    assert (np.exp(others) * np.exp(natural[:, None] - others)).sum(axis=0) == pytest.approx(1.0, abs=1e-12)
    assert others[:, 3] == pytest.approx(natural, abs=1e-12)  # gamma = 0
    if sampling.min_new_tokens < sampling.max_new_tokens:
        assert {ended for _, _, _, ended in found} == {True, False}


def check_densities(sampling: SamplingSettings) -> None:
    """Formulas written out, token by token."""
    talking = TabularSpeaker(sampling, PROPOSALS)
    for context, count in (((4, 5), 0), ((4, 5, 2), 1), ((2, 3), 1)):
        *_, found = talking.densities_after(context, count)
        got = {t: i for i, t in enumerate(found.tokens[0].tolist()) if np.isfinite(float(found.natural[0, i]))}
        logits = []
        for seed in range(3):
            z = tabular.table(seed)[context[-1]].double().numpy().copy()
            for token in set(context):
                z[token] = (
                    z[token] * sampling.repetition_penalty if z[token] < 0 else z[token] / sampling.repetition_penalty
                )
            logits.append(z / sampling.temperature)
        allowed = [
            t for t in range(tabular.SIZE) if t != tabular.BANNED and (t != END or count >= sampling.min_new_tokens)
        ]
        masses = {t: np.exp(logits[0][t]) for t in allowed}
        total, before, nucleus = sum(masses.values()), 0.0, []
        for token in sorted(masses, key=lambda t: -masses[t]):
            if before < sampling.top_p - 1e-9:
                nucleus.append(token)
            before += masses[token] / total
        assert set(got) == set(nucleus)
        for number, proposal in enumerate(PROPOSALS):
            mixed = {
                t: (1 - proposal.gamma) * logits[0][t] + proposal.gamma * logits[1 + proposal.adversary][t]
                for t in nucleus
            }
            log_total = np.log(sum(np.exp(value) for value in mixed.values()))
            for token in nucleus:
                assert float(found.proposals[0, number, got[token]]) == pytest.approx(
                    mixed[token] - log_total, abs=1e-5
                )


def check_session(sampling: SamplingSettings, monkeypatch: Any) -> None:
    """A session that is made to say every utterance tells its densities, whoever speaks."""
    talking = TabularSpeaker(sampling, PROPOSALS)
    rows: list[Any] = []
    for voice in (-1, 1, 2):
        for said, own, others, ended in utterances(talking, PREFIX):
            numbers = []
            for count, token in enumerate([*said, END] if ended else said):
                *_, found = talking.densities_after((*PREFIX, *said[:count]), count)
                chances = (found.natural[0] if voice < 0 else found.proposals[0, voice]).exp().numpy()
                place = found.tokens[0].tolist().index(token)
                numbers.append(chances[:place].sum() + 0.5 * chances[place])
            rows.append((voice, said, own, others, numbers))
    monkeypatch.setattr(
        speaker, "uniform", lambda keys, count: np.array([(rows[int(key)][4] + [0.0] * 9)[count] for key in keys])
    )
    session = talking.start_ids([PREFIX] * len(rows))
    speeches, ratios, natural = session.speak_as(
        np.arange(len(rows), dtype=np.uint64), np.array([voice for voice, *_ in rows])
    )
    for speech, ratio, own, row in zip(speeches, ratios, natural, rows, strict=True):
        assert speech.token_ids == row[1]
        assert own == pytest.approx(row[2], abs=1e-9)
        assert ratio == pytest.approx(row[3] - row[2], abs=1e-9)


def check_expectation(
    sampling: SamplingSettings, components: str, m: int, *, unknown: bool = False, clean: float | None = None
) -> None:
    """Σ_k ω_k·E_k[Z] = p, E[q_k/q_mix] = 1, and 0 ≤ Z ≤ 1/ω_∅."""
    talking, chosen = TabularSpeaker(sampling, PROPOSALS), COMPONENTS[components]
    shares = np.linspace(1.0, 2.0, len(chosen)) / np.linspace(1.0, 2.0, len(chosen)).sum()
    draws, natural, replies = every_conversation(talking, PREFIX, horizon=2, m=m, unknown=unknown, clean=clean)
    for worst in (False, True):
        values = estimates(draws, chosen, shares, unknown_fails=worst).sum(axis=1)
        assert 0.0 <= values.min() <= values.max() <= 1.0 / shares[0] + 1e-12
        mixed = sum(
            share * (chances_of(draws, natural, replies, chosen[k]) * values).sum() for k, share in enumerate(shares)
        )
        exact = probability_of_failure(talking, PREFIX, 2, unknown=unknown, worst=worst, clean=clean is not None)
        assert mixed == pytest.approx(exact, abs=1e-12)
    balance = sum(
        share * chances_of(draws, natural, replies, chosen[k]) @ density_ratios(draws, chosen, shares)
        for k, share in enumerate(shares)
    )
    assert balance == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", SAMPLING)
def test_densities_sum_to_one_and_are_the_formulas(name: str, monkeypatch: Any) -> None:
    check_sums(SAMPLING[name])
    check_densities(SAMPLING[name])
    check_session(SAMPLING[name], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("components", COMPONENTS)
def test_expectation_is_the_probability_for_every_set_of_components(components: str, m: int) -> None:
    check_expectation(SAMPLING["penalised nucleus"], components, m)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "unknown"), [(1, False), (2, True)])
@pytest.mark.parametrize("components", COMPONENTS)
def test_expectation_is_the_probability_of_a_clean_failure(components: str, m: int, unknown: bool) -> None:
    """Nothing comes after an utterance or a reply that is not clean, and going on is from a clean reply."""
    check_expectation(SAMPLING["penalised nucleus"], components, m, unknown=unknown, clean=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("components", ["all turns", "all that a pilot draws from"])
@pytest.mark.parametrize("name", ["whole vocabulary", "one length"])
def test_expectation_is_the_probability_for_other_sampling(name: str, components: str) -> None:
    check_expectation(SAMPLING[name], components, 1)


@pytest.mark.parametrize("m", [1, 2])
def test_unassessed_replies_bound_the_probability(m: int) -> None:
    check_expectation(SAMPLING["penalised nucleus"], "two adversaries", m, unknown=True)


@pytest.mark.slow
def test_three_turns_and_what_stops_early() -> None:
    talking = TabularSpeaker(SAMPLING["penalised nucleus"], PROPOSALS)
    chosen = [
        *COMPONENTS["natural"],
        estimate.Component(frozenset({0, 1, 2}), 2),
        estimate.Component(frozenset({2}), 0),
    ]
    shares = np.array([0.2, 0.5, 0.3])
    draws, natural, replies = every_conversation(talking, PREFIX, horizon=3, m=1)
    values = estimates(draws, chosen, shares)
    total = sum(share * chances_of(draws, natural, replies, chosen[k]) @ values for k, share in enumerate(shares))
    exact = [probability_of_failure(talking, PREFIX, turns) for turns in range(4)]
    assert total == pytest.approx(np.diff(exact), abs=1e-12)  # turn by turn, too


MUTANTS = {
    "end factor dropped": (
        speaker,
        "counted = said.going[rows] & found.sound",
        "counted = said.going[rows] & found.sound & ~torch.isin(tokens, torch.tensor(lm.end_ids))",
    ),
    "raw log-probabilities": (densities_module, " - masses.sum(dim=1, keepdim=True).log()", ""),
    "other nucleus": (
        densities_module, "torch.where(inside, (1", "torch.where(inside & (natural < natural.amax(1, keepdim=True)), (1"
    ),
    "no temperature": (densities_module, ".double() / sampling.temperature", ".double()"),
    "adversary not penalised": (densities_module, "in (reference, *adversaries):", "in (reference,):"),
    "one ratio left out": (estimate, "if component.turns\n", "if component.turns and component.proposal != 2\n"),
    "survival left out": (estimate, "np.cumprod(draws.going, axis=1)", "np.ones_like(draws.going)"),
    "only who speaks is told": (
        speaker, "+= ratios[counted]", "+= (ratios * (voices >= 0)[:, None])[counted]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: Any) -> None:
    module, old, new = MUTANTS[name]
    source = inspect.getsource(module)
    assert source.count(old) == 1
    spoilt: dict[str, Any] = {**vars(module)}
    exec(compile(source.replace(old, new), module.__file__ or "", "exec"), spoilt)  # noqa: S102
    for thing in ("densities", "blend", "path_ratios", "failure_terms", "estimates", "density_ratios"):
        for place in (vars(module), vars(tabular), vars(speaker), vars(estimate), globals()):
            if thing in spoilt and thing in place and inspect.isfunction(place[thing]):
                monkeypatch.setitem(place, thing, spoilt[thing])
    if module is speaker:
        monkeypatch.setattr(speaker.BlendedSession, "_next", spoilt["BlendedSession"]._next)
    with pytest.raises(AssertionError):
        check_all(monkeypatch)


def check_all(monkeypatch: Any) -> None:
    sampling = SAMPLING["penalised nucleus"]
    check_sums(sampling)
    check_densities(sampling)
    check_session(sampling, monkeypatch)
    check_expectation(sampling, "two adversaries", 2)


def test_weights_of_a_mixture_by_hand() -> None:
    paths = np.log(np.array([[1.0, 4.0], [1.0, 0.0001]]))
    assert mixture_weights(paths, np.array([0.25, 0.75])) == pytest.approx([1 / (0.25 + 3.0), 1 / (0.25 + 0.000075)])
    assert mixture_weights(np.array([[0.0, 800.0]]), np.array([0.5, 0.5])) == pytest.approx([0.0])
