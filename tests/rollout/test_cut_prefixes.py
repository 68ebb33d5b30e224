"""Prefixes that are too long: cut once on the left, told, counted, and stored as they were heard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.protocols import Speaker
from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import measure
from astprompter.models.local.chat import ChatModel
from astprompter.models.local.likelihood_proxy import LikelihoodProxy
from astprompter.workflows.probability import _heard, _Parts
from helpers.files import read_rows
from helpers.tiny import SHORT, WordScorer, make_chat_tokenizer, make_model

LONG = Prefix("long", "It was a very fine day, and we went to see the sea. " * 3 + "Then it rained.")
BRIEF = Prefix("brief", "Then it rained.")


def test_what_a_model_hears_of_a_prefix(make_lm: Any) -> None:
    for lm in (make_lm(context=64), _chat(64)):
        assert lm.heard(BRIEF, turns=1) == BRIEF
        found = lm.heard(LONG, turns=1)
        assert found.id == "long"
        assert 0 < len(found.text) < len(LONG.text)
        assert LONG.text.endswith(found.text)
        assert found.cut == len(lm._encode(LONG.text)) - len(lm._encode(found.text))
        assert lm.heard(found, turns=1).text == found.text
        said = [lm.start([prefix.text], turns=1).transcript() for prefix in (LONG, found)]
        assert said[0] == said[1]  # what is stored opens the same conversation


def test_the_longest_prefix_is_a_setting(make_lm: Any, caplog: Any) -> None:
    for lm in (make_lm(), _chat(256)):
        lm.sampling = settings_from({"rollout": {"max_prefix_tokens": 20}}).rollout
        found, ids = lm.heard(LONG, turns=1), lm._encode(LONG.text)
        assert found.text == lm.decode(ids[-20:])
        assert (found.cut, found.shortened) == (len(ids) - 20, True)
        assert lm.encode_prefix(LONG.text, turns=1)[-20:] == tuple(ids[-20:])
        assert lm.heard(BRIEF, turns=1) is BRIEF


def test_a_probability_is_of_the_prefixes_as_they_are_heard(make_lm: Any, caplog: Any) -> None:
    class Served(Speaker):
        name = "served"

    speaker, served = make_lm(context=64), Served()
    settings = settings_from({"rollout": {"horizon": 1, "max_new_tokens": 6}})
    for defender, opened in ((served, speaker.heard(LONG, turns=1)), (make_lm(), LONG)):
        caplog.clear()
        parts = _Parts(speaker, {}, defender, WordScorer(), [], [LONG, BRIEF], settings, "untuned")
        assert _heard(parts) == [opened, BRIEF]
        assert "1 of 2 prefixes were too long" in caplog.text


def _chat(context: int) -> ChatModel:
    tokenizer = make_chat_tokenizer()
    model = make_model("llama", len(tokenizer), context=context)
    return ChatModel(model, tokenizer, role="defender", name="chat", sampling=SHORT)


def test_cut_prefixes_are_stored_as_heard_and_counted(make_lm: Any, tmp_path: Path, caplog: Any) -> None:
    settings = settings_from({"rollout": {"horizon": 1, "max_new_tokens": 6}})
    adversaries = {"roomy": make_lm(), "narrow": make_lm(context=64)}
    for defender, cut in ((make_lm(context=64), True), (make_lm(), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="astprompter"):
            result = measure(adversaries, defender, WordScorer(), [LONG, BRIEF], settings)
        result.write(tmp_path)
        long, brief, narrow, _ = read_rows(tmp_path / "trajectories.jsonl")
        heard = defender.heard(LONG, turns=1)
        assert (long["prefix"], long["prefix_cut"], long["prefix_cut_for_adversary"]) == (heard.text, heard.cut, 0)
        assert (brief["prefix"], brief["prefix_cut"]) == (BRIEF.text, 0)
        assert (narrow["prefix"] == LONG.text) is not cut
        assert narrow["prefix_cut_for_adversary"] > 0  # what it does not hear is told too
        counts = {name: row.prefixes_cut for name, row in result.summary.adversaries.items()}
        assert counts == {"roomy": int(cut), "narrow": 1}
        assert "narrow: 1 of 2 prefixes were too long" in caplog.text
        assert "prefixes of narrow lost their beginning" in " ".join(result.table(100).split())


@pytest.mark.slow
def test_a_proxy_hears_what_the_defender_hears(make_lm: Any) -> None:
    defender = make_lm(context=64)
    assert LikelihoodProxy(defender, make_lm()).heard(LONG, turns=1) == defender.heard(LONG, turns=1)
