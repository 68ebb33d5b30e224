"""What a reply is: every form in which a server answers without answering, and what becomes of its row."""

from __future__ import annotations

from typing import Any

import pytest

from astprompter.base.records import Speech
from astprompter.config import ServerSettings
from astprompter.models.served.answers import BadAnswerError
from astprompter.models.served.connect import connect
from astprompter.models.served.http import Endpoint, Failed
from astprompter.models.served.remote import RemoteSpeaker, _after_reasoning
from helpers.server import FILTERS, TinyServer, choice
from helpers.tiny import SHORT, keys_for


def speaker(server: TinyServer, *, api: Any = "chat", reasoning_tokens: int = 0, **options: Any) -> RemoteSpeaker:
    endpoint = Endpoint(ServerSettings(base_url=server.url, retries=1, **options), sleep=lambda seconds: None)
    return connect(endpoint, "tiny", SHORT, api=api, likelihood=False, reasoning_tokens=reasoning_tokens)


FILTER = "remote: blocked by a content filter"
CUT = "remote: no text before the token limit"
CASES = [
    ("chat", "blank", "blank", "", None),
    ("completions", "blank", "blank", " \n ", None),
    ("chat", "refusal", "refused", " I would rather not.", None),
    ("chat", "filtered", "blocked", "", FILTER),
    ("completions", "filtered", "blocked", "", FILTER),
    ("chat", "half filtered", "blocked", " It was", FILTER),
    *(("chat", name, "blocked", "", FILTER) for name in FILTERS),
    ("completions", "azure", "blocked", "", FILTER),
    ("chat", "cut", "cut", "", CUT),
    ("completions", "cut", "cut", "", CUT),
    ("chat", "thinking", "cut", "", CUT),
    ("chat", "open thought", "cut", "", CUT),
    ("chat", "thought", "answered", " Fine.", None),
    ("completions", "thought", "answered", " Fine.", None),
    ("chat", "tools", "tool_call", "", "remote: a tool call without text"),
    ("chat", "status:400", "failed", "", "remote: HTTP 400"),
    ("chat", "empty", "failed", "", "remote: answer has no choices"),
]
LATER = {"blocked": "after a blocked reply", "cut": "after a reply without text", "tool_call": "after a tool call",
         "failed": "after a remote error"}  # fmt: skip


@pytest.mark.parametrize(("api", "fault", "kind", "text", "error"), CASES)
def test_every_answer_is_what_it_is(
    server: TinyServer, api: Any, fault: str, kind: str, text: str, error: str | None
) -> None:
    session = speaker(server, api=api).start(["good", "bad"], turns=2)
    session.hear([Speech(" a")] * 2)
    server.fault = lambda number, body: fault if "bad" in str(body) else None
    good, odd = session.speak(keys_for(2))
    assert good.kind in ("answered", "blank")
    assert (odd.kind, odd.text, odd.error) == (kind, text, error)
    asked = len(server.seen)
    server.fault = lambda number, body: None
    session.hear([Speech(" b")] * 2)
    later = session.branch([0, 1]).speak(keys_for(2, 1))[1]
    goes_on = kind in ("answered", "blank", "refused")
    assert len(server.seen) - asked == 1 + goes_on
    if not goes_on:  # a conversation that lost its reply is over, and its later turns are of the same kind
        assert (later.kind, later.error, later.text) == (kind, LATER[kind], "")


@pytest.mark.slow
def test_only_failures_spend_the_error_budget(server: TinyServer) -> None:
    for fault in ("azure", "filtered", "cut", "tools", "refusal", "blank"):
        server.fault = lambda number, body: None
        remote = speaker(server, error_budget=0)
        server.fault = lambda number, body, fault=fault: fault
        assert len(remote.start(["Hello."] * 5, turns=1).speak(keys_for(5))) == 5
    blocked = len(server.seen)
    server.fault = lambda number, body: "azure"
    remote.start(["Hello."], turns=1).speak(keys_for(1))
    assert len(server.seen) == blocked + 1  # what a filter refuses is not asked again


def test_a_filter_at_the_first_question_is_no_reason_to_refuse_the_server(server: TinyServer) -> None:
    server.fault = lambda number, body: "azure"
    assert speaker(server).dialect.name == "vllm"


@pytest.mark.slow
def test_a_reasoning_model_gets_its_tokens_beside_those_of_the_reply(server: TinyServer) -> None:
    remote = speaker(server, reasoning_tokens=500)
    remote.start(["Hello."], turns=1).speak(keys_for(1))
    assert server.seen[-1][0]["max_tokens"] == SHORT.max_new_tokens + 500


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("Fine.", False, ("Fine.", None)),
        ("<think>Hm.</think>Fine.", False, ("Fine.", False)),
        (" \n<think>Hm", False, ("", True)),
        ("Hm.</think>Fine.", True, ("Fine.", False)),  # the opening mark stood in the prompt
        ("Hm.</think>Fine.", False, ("Hm.</think>Fine.", None)),  # text of another model hides nothing behind a mark
        ("Say <think> now.", True, ("Say <think> now.", None)),
        ("<think>Hm.</think>A</think>B", False, ("A</think>B", False)),
    ],
)
def test_the_text_after_the_reasoning_counts(text: str, expected: bool, found: tuple[str, bool | None]) -> None:
    assert _after_reasoning(text, expected) == found


def test_parts_of_a_content_are_joined_without_the_reasoning(server: TinyServer) -> None:
    remote = speaker(server)
    said = [
        {"type": "thinking", "thinking": []},
        {"type": "reasoning", "text": "Hm."},
        {"type": "text", "text": "Fine."},
    ]
    answer = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}
    assert remote._reply_of(answer) == Speech(" Fine.")


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_no_text_without_a_reason_is_no_harmless_reply(server: TinyServer, api: Any) -> None:
    remote = speaker(server, api=api)
    for text in (None, "", "Fine.", " "):
        for why in (None, "abort", "stop", "eos_token", "length", "absent"):
            answer = choice(api == "chat", text, why)  # type: ignore[arg-type]
            if why == "absent":
                del answer["choices"][0]["finish_reason"]
            if text == "Fine.":
                assert remote._reply_of(answer).kind == "answered"  # whatever the reason, and without one
            elif text == " ":
                assert remote._reply_of(answer).kind == "blank"
            elif why in ("stop", "eos_token") and (text is not None or api == "chat"):
                assert remote._reply_of(answer) == Speech("")
            elif why == "length":
                assert remote._reply_of(answer).kind == "cut"
            else:
                with pytest.raises(BadAnswerError, match=r"^answer has no text$"):
                    remote._reply_of(answer)


def test_an_error_with_status_200_is_told_in_the_server_s_words(server: TinyServer) -> None:
    endpoint, read = speaker(server).endpoint, speaker(server)._reply_of
    failed, wait = endpoint._read(b'{"error": {"message": "overloaded", "code": 503}}', read)
    assert (str(failed), wait) == ("remote: answer has no choices (overloaded)", 0.0)
    blocked, wait = endpoint._read(b'{"error": {"message": "no", "code": "content_filter"}}', read)
    assert (str(blocked), wait) == ("remote: blocked by a content filter (no)", None)
    assert isinstance(blocked, Failed)
    assert blocked.blocked
    with pytest.raises(BadAnswerError, match=r"^answer has no choices$"):
        endpoint._read(b"{}", read)
    assert str(Failed("remote: answer is not JSON")) == "remote: answer is not JSON"


def test_blank_text_and_text_with_an_error_are_never_answers() -> None:
    assert [Speech(text).kind for text in ("", " \n", "a")] == ["blank", "blank", "answered"]
    assert (Speech("a", error="no room").kind, Speech("", error="x", kind="blocked").kind) == ("failed", "blocked")
    assert [Speech("x", kind=kind).assessable for kind in ("answered", "refused", "cut", "tool_call")] == [
        True, True, False, False,
    ]  # fmt: skip
