"""Which model an adversary is compared with, chosen from a caller's own models."""

from __future__ import annotations

from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.config import ServerSettings
from astprompter.models.local.chat import speaker_from
from astprompter.models.local.likelihood_proxy import LikelihoodProxy
from astprompter.models.local.lm import LanguageModel
from astprompter.models.local.reference import choose_reference
from astprompter.models.served.dialects import DIALECTS
from astprompter.models.served.http import Endpoint
from astprompter.models.served.remote import RemoteSpeaker
from helpers.tiny import PREFIXES, SHORT, keys_for, make_chat_tokenizer, make_model


def wrapped(tokenizer: Any, *, seed: int = 0, **options: Any) -> LanguageModel:
    return speaker_from(make_model("gpt2", len(tokenizer), seed=seed), tokenizer, sampling=SHORT, **options)


def served() -> RemoteSpeaker:
    """Nobody listens at that port: making a speaker asks nothing."""
    nobody = Endpoint(ServerSettings(base_url="http://localhost:9/v1"))
    return RemoteSpeaker(nobody, "tiny", SHORT, "completions", DIALECTS[0])


def test_a_defender_of_the_same_weights_is_the_reference_and_tells_its_likelihood_for_nothing(tokenizer: Any) -> None:
    adversary, defender = wrapped(tokenizer), wrapped(tokenizer, role="defender")
    found = choose_reference(adversary, defender)
    assert found.policy is defender
    assert found.free
    assert found.adversary_sha256 == found.defender_sha256 == defender.weights_sha256()
    assert not any(parameter.requires_grad for parameter in defender.model.parameters())
    assert all(parameter.requires_grad for parameter in adversary.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["other weights", "other precision", "proxy", "served"])
def test_else_it_is_a_frozen_copy_of_the_adversary(tokenizer: Any, kind: str) -> None:
    adversary = wrapped(tokenizer)
    other = wrapped(tokenizer, seed=int(kind == "other weights"), role="defender", autocast=kind == "other precision")
    proxy = LikelihoodProxy(served(), other)
    found = choose_reference(adversary, proxy if kind == "proxy" else served() if kind == "served" else other)
    assert found.policy is not adversary
    assert found.policy.model is not adversary.model
    assert found.policy.weights_sha256() == found.adversary_sha256 == adversary.weights_sha256()
    assert not any(parameter.requires_grad for parameter in found.policy.model.parameters())
    assert not found.free
    assert (found.defender_sha256 is None) == (kind in ("proxy", "served"))


def test_under_chat_templates_the_reference_is_shared_and_the_likelihood_is_not() -> None:
    tokenizer = make_chat_tokenizer()
    adversary, defender = (wrapped(tokenizer, chat="auto", role=role) for role in ("adversary", "defender"))
    found = choose_reference(adversary, defender)
    assert adversary.chat
    assert found.policy is defender
    assert not found.free


def test_one_model_object_cannot_play_both_sides(tokenizer: Any) -> None:
    adversary = wrapped(tokenizer)
    defender = LanguageModel(adversary.model, tokenizer, name="defender", sampling=SHORT)
    with pytest.raises(UserError, match="one and the same model object"):
        choose_reference(adversary, defender)


def test_a_wrapped_model_speaks_as_one_that_was_loaded(tokenizer: Any) -> None:
    model = make_model("gpt2", len(tokenizer)).train()
    speaker = speaker_from(model, tokenizer, sampling=SHORT)
    assert speaker.name == "GPT2LMHeadModel"
    assert not model.training
    loaded = LanguageModel(make_model("gpt2", len(tokenizer)), tokenizer, name="loaded", sampling=SHORT)
    replies = [lm.start(PREFIXES, turns=1).speak(keys_for(len(PREFIXES))) for lm in (speaker, loaded)]
    assert replies[0] == replies[1]


def test_a_proxy_needs_memory_and_room_for_both(tokenizer: Any) -> None:
    local = wrapped(tokenizer, role="defender")
    proxy = LikelihoodProxy(local, wrapped(tokenizer, seed=1, role="defender"))
    alone = local.bytes_per_tree(horizon=2, branching=2)["cpu"]
    assert proxy.bytes_per_tree(horizon=2, branching=2) == {"cpu": 2 * alone}
    assert served().bytes_per_tree(horizon=2, branching=2) == {}
    served().check_room(1000)
    with pytest.raises(UserError, match="too short for 1000 turns"):
        proxy.check_room(1000)
