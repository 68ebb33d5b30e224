"""What a server may answer, taken apart by hand: every malformed part is refused by its reason."""

from __future__ import annotations

import json
import math
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given

from astprompter.config import SamplingSettings
from astprompter.models.local import memory
from astprompter.models.served.answers import BadAnswerError
from astprompter.models.served.dialects import _ECHO, _VLLM, DIALECTS
from astprompter.models.served.http import Failed
from astprompter.models.served.remote import RemoteSpeaker
from helpers.spoilt import spoilt_value

TABLE = [None, {"5": {"logprob": -1.5}}, {"6": {"logprob": -0.5}, "9": {"logprob": -0.1}}]
PROMPT: dict[str, Any] = {"choices": [{"prompt_logprobs": TABLE, "prompt_token_ids": [4, 5, 6], "text": " x"}]}
ECHO: dict[str, Any] = {
    "choices": [{"logprobs": {"tokens": ["a", "b", "new"], "token_logprobs": [None, -2.0, -3.0]}, "text": "ab"}],
    "usage": {"prompt_tokens": 2},
}


def test_tables_of_prompt_log_probs() -> None:
    first, *rest = _VLLM.read(PROMPT)
    assert first[0] == "4"
    assert math.isnan(first[1])
    assert rest == [("5", -1.5), ("6", -0.5)]
    beside = {"choices": [{}], "prompt_logprobs": [None, {"b": -1.0}], "usage": {"prompt_tokens": 2}}
    assert _VLLM.read(beside)[1] == ("b", -1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt_logprobs": None}, "answer has no prompt_logprobs"),
        ({"prompt_logprobs": TABLE[:2]}, "answer has a wrong number of log-probs"),
        ({"prompt_logprobs": [None, None, TABLE[2]]}, "answer has a token without log-prob"),
        ({"prompt_logprobs": [None, {}, TABLE[2]]}, "answer has a token without log-prob"),
        ({"prompt_logprobs": [None, {"7": -1.0}, TABLE[2]]}, "answer has a log-prob that is none"),
        ({"prompt_logprobs": [None, {"5": 0.1}, TABLE[2]]}, "answer has a log-prob that is none"),
        ({"prompt_logprobs": [None, {"5": True}, TABLE[2]]}, "answer has a log-prob that is none"),
        ({"prompt_token_ids": None}, "answer has a wrong number of log-probs"),
    ],
)
def test_tables_that_are_wrong(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadAnswerError, match=reason):
        _VLLM.read({"choices": [PROMPT["choices"][0] | change]})


def test_a_table_that_does_not_say_which_token_was_the_prompts() -> None:
    with pytest.raises(BadAnswerError, match="does not say which token"):
        _VLLM.read({"choices": [{"prompt_logprobs": TABLE}], "usage": {"prompt_tokens": 3}})


def test_echoed_log_probs_end_where_the_prompt_ends() -> None:
    (first, second) = _ECHO.read(ECHO)
    assert first[0] == "a"
    assert math.isnan(first[1])
    assert second == ("b", -2.0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"choices": []}, "answer has no choices"),
        ([], "answer has no choices"),
        ({"choices": [{"logprobs": None}]}, "answer has no echoed log-probs"),
        (ECHO | {"usage": {"prompt_tokens": 4}}, "wrong number"),
        (ECHO | {"usage": None}, "wrong number"),
        (ECHO | {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [None, -1.0]}}]}, "wrong number"),
    ],
)
def test_echoes_that_are_wrong(answer: Any, reason: str) -> None:
    with pytest.raises(BadAnswerError, match=reason):
        _ECHO.read(answer)


@given(spoilt_value(PROMPT), spoilt_value(ECHO))
def test_a_spoilt_answer_is_numbers_or_refused(table: Any, echo: Any) -> None:
    for route, answer in ((_VLLM, table), (_ECHO, echo)):
        try:
            entries = route.read(answer)
        except BadAnswerError:
            continue
        assert all(isinstance(token, str) for token, _ in entries)
        assert all(math.isfinite(value) and value <= 1e-3 for _, value in entries[1:])


def text_of(answer: Any, api: str = "chat") -> str:
    return RemoteSpeaker._reply_of(SimpleNamespace(api=api, reasoning_tokens=0), answer).text  # type: ignore[arg-type]


def test_the_text_of_an_answer() -> None:
    assert text_of({"choices": [{"text": " as it is "}]}, "completions") == " as it is "
    assert text_of({"choices": [{"message": {"content": " hm "}}]}) == " hm"
    assert text_of({"choices": [{"message": {"content": None, "refusal": "no"}}]}) == " no"
    assert text_of({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}) == ""
    assert text_of({"choices": [{"text": "half \ud83d"}]}, "completions") == "half \ufffd"
    for answer in (None, {}, {"choices": [3]}):
        with pytest.raises(BadAnswerError, match="no choices"):
            text_of(answer)
    for choice in ({}, {"message": None}, {"message": {"content": 3}}, {"message": {"content": None}}):
        with pytest.raises(BadAnswerError, match="no text"):
            text_of({"choices": [choice]})


def test_an_utterance_whose_tokens_cannot_be_told_is_a_failure() -> None:
    def own(full: Any, frame: Any, api: str = "completions") -> Any:
        return RemoteSpeaker._own(SimpleNamespace(api=api), full, frame)  # type: ignore[arg-type]

    context = [("a", math.nan), ("b", -1.0)]
    assert own([*context, ("c", -2.0)], context) == (-2.0,)
    assert own([*context, ("c", -2.0), ("end", -3.0)], [*context, ("end", -0.5)], "chat") == (-2.0,)
    for full in (context, [*context, ("c", math.nan)]):
        assert own(full, context) == Failed("remote: no log-probabilities for the utterance")
    broken = Failed("remote: HTTP 500")
    assert own(broken, context) is own(context, broken) is broken


def test_greedy_sampling_in_transformers_words_has_no_temperature() -> None:
    (dialect,) = (d for d in DIALECTS if d.name == "transformers")
    chosen = json.loads(dialect.fields(SamplingSettings(temperature=0.0), seed=1)["generation_config"])
    assert chosen["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & set(chosen)


def test_memory_where_branches_are_copied_and_where_nobody_knows(make_lm: Any, monkeypatch: Any) -> None:
    lm = make_lm("llama")
    shared = lm.bytes_per_tree(horizon=3, branching=2)["cpu"]
    monkeypatch.setattr(lm, "shares_branches", False)
    # 8 leaves of 220 + 36 columns instead of one trunk of 220 and 12 * 14; 2 layers, 2 heads hold keys, 8 wide.
    columns = 8 * (220 + 36) - (220 + 12 * 14)
    assert lm.bytes_per_tree(horizon=3, branching=2)["cpu"] - shared == columns * 2 * 2 * 2 * 8 * 4

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.free_bytes(torch.device("cpu")) == 4 * 2**30
