"""Served defenders over a real socket: the same numbers as locally, and every failure counted apart."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import RunError, UserError
from astprompter.base.records import Prefix, Speech
from astprompter.cli.app import main
from astprompter.config import RewardSettings, ServerSettings, settings_from
from astprompter.models.local.likelihood_proxy import LikelihoodProxy
from astprompter.models.local.lm import LanguageModel
from astprompter.models.served.connect import connect
from astprompter.models.served.http import Endpoint, Failed, backoff, retry_after
from astprompter.models.served.remote import RemoteSpeaker
from astprompter.rollout.grow import grow_trees, turns_of
from astprompter.rollout.reward import assess
from astprompter.workflows.load import build_defender
from astprompter.workflows.resume import check_resumable
from helpers.files import read_rows
from helpers.server import TinyServer, serving
from helpers.tiny import PREFIXES, SHORT, WordScorer, keys_for, make_tokenizer

OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES[:4])]
KEY = "sk-very/secret+123"


def endpoint(server: TinyServer, **options: Any) -> Endpoint:
    chosen = {"timeout": 20.0, "retries": 2, **options}
    return Endpoint(ServerSettings(base_url=server.url, **chosen), sleep=lambda seconds: None)


def speaker(server: TinyServer, *, api: Any = "completions", likelihood: bool = True, **options: Any) -> RemoteSpeaker:
    return connect(endpoint(server, **options), "tiny", SHORT, api=api, likelihood=likelihood)


def local(parts: Any) -> LanguageModel:
    return LanguageModel(*parts, name="local", sampling=SHORT)


@pytest.mark.parametrize(
    ("flavour", "route", "dialect"),
    [("vllm", "prompt_logprobs", "vllm"), ("echo", "echo", "openai"), ("bare", None, "openai")],
)
def test_probe_finds_what_the_server_can_do(parts: Any, flavour: str, route: str | None, dialect: str) -> None:
    with serving(*parts, flavour=flavour) as server:
        facts = speaker(server).facts()["remote"]
    assert (facts["likelihood"], facts["dialect"]) == (route, dialect)
    assert bool(facts["not_sent"]) == (dialect == "openai")
    assert len(facts["why_not"]) == {"prompt_logprobs": 0, "echo": 1, None: 3}[route]


@pytest.mark.parametrize("flavour", ["vllm", pytest.param("echo", marks=pytest.mark.slow)])
def test_likelihoods_are_those_of_the_model_behind_the_socket(parts: Any, flavour: str) -> None:
    with serving(*parts, flavour=flavour) as server:
        theirs = speaker(server).start(PREFIXES, turns=2)
        ours = local(parts).start(PREFIXES, turns=2)
        for turn in range(2):
            spoken = [Speech(f" well, {'so ' * (i + 1)}it is{'!' * (i % 3)}") for i in range(len(PREFIXES))]
            remote, expected = theirs.hear(spoken, likelihood=True), ours.hear(spoken, likelihood=True)
            assert remote is not None
            assert expected is not None
            for a, b in zip(remote, expected, strict=True):
                assert a == pytest.approx(b, abs=1e-3)
            replies = theirs.speak(keys_for(len(PREFIXES), turn))
            ours.hear(replies)


@pytest.mark.slow
def test_what_is_sent_is_what_is_kept(parts: Any, server: TinyServer) -> None:
    session = speaker(server).start(["Hello.", 'A \\ "quoted" 🙂\ttab\n'], turns=2).branch([0, 1, 1])
    odd = [Speech(" ünï\n"), Speech(" b  "), Speech(" c")]
    session.hear(odd, likelihood=True)
    replies = session.speak(keys_for(3))
    server.seen.clear()
    session.hear([Speech(" next")] * 3)
    session.speak(keys_for(3, 1))
    sent = sorted(body["prompt"] for body, _ in server.seen)
    prefixes = ["Hello.", 'A \\ "quoted" 🙂\ttab\n', 'A \\ "quoted" 🙂\ttab\n']
    assert sent == sorted(p + a.text + y.text + " next" for p, a, y in zip(prefixes, odd, replies, strict=True))
    assert session.transcript() is None


def test_sampling_settings_and_the_rows_own_seed_are_sent(server: TinyServer) -> None:
    session = speaker(server).start(["Hello."] * 3, turns=1)
    server.seen.clear()
    first = session.speak(np.array([7 << 40, 8 << 40, 7 << 40], dtype=np.uint64))
    assert first[0] == first[2] != first[1]
    body = server.seen[0][0]
    wanted = {"max_tokens": 6, "min_tokens": 2, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
    wanted |= {"top_k": -1, "min_p": 0.0}  # or the model's own defaults would count
    assert {name: body[name] for name in wanted} == wanted
    assert {b["seed"] for b, _ in server.seen} == {7 << 7, 8 << 7}


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["constant", "negated", "positive", "restless", "hindsight", "nan", "short"])
@pytest.mark.parametrize("flavour", ["vllm", pytest.param("echo", marks=pytest.mark.slow)])
def test_log_probs_of_the_right_shape_and_the_wrong_meaning_are_refused(parts: Any, flavour: str, lie: str) -> None:
    with serving(*parts, flavour=flavour) as server:
        server.lie = lie
        found = speaker(server, retries=0, error_budget=100)
    assert found.route is None
    assert all(": " in reason for reason in found.why_not)


def test_chat_sends_messages_and_finds_the_utterances_own_tokens(parts: Any, server: TinyServer) -> None:
    chat = speaker(server, api="chat")
    assert chat.facts()["remote"]["likelihood"] == "prompt_logprobs"
    session = chat.start(["We talked."], turns=2)
    (heard,) = session.hear([Speech(" No banana")], likelihood=True) or [()]
    (reply,) = session.speak(keys_for(1))
    server.seen.clear()
    (again,) = session.hear([Speech(" Oh!")], likelihood=True) or [()]
    session.speak(keys_for(1))
    messages = server.seen[-1][0]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert [m["content"] for m in messages] == ["We talked. No banana", reply.text.strip(), "Oh!"]
    tokenizer = parts[1]
    context = tokenizer("<|user|>\nWe talked.", add_special_tokens=False)["input_ids"]
    own = tokenizer(" No banana", add_special_tokens=False)["input_ids"]
    assert heard == pytest.approx(server.logprobs([*context, *own])[-len(own) :], abs=1e-4)
    assert len(again) == len(tokenizer("Oh!", add_special_tokens=False)["input_ids"])


FAULTS = {
    "status:500": "remote: HTTP 500",
    "status:429": "remote: HTTP 429",
    "status:503": "remote: HTTP 503",
    **{f"status:{code}": f"remote: HTTP {code}" for code in (408, 409, 425, 502)},
    "status:400": "remote: HTTP 400",
    "redirect": "remote: HTTP 302",
    "hang:2.5": "remote: timeout",
    "drip": "remote: timeout",
    "half": "remote: connection",
    "drop": "remote: connection",
    "html": "remote: answer is not JSON",
    "truncated": "remote: answer is not JSON",
    "list": "remote: answer has no choices",
    "empty": "remote: answer has no choices",
    "none": "remote: answer has no text",
}


SLOW = {"drip": pytest.mark.slow, "hang:2.5": pytest.mark.slow}  # they wait


@pytest.mark.parametrize(
    ("fault", "reason"), [pytest.param(*one, marks=SLOW.get(one[0], ()), id="-".join(one)) for one in FAULTS.items()]
)
def test_each_failure_is_an_error_turn_of_its_own_row(server: TinyServer, fault: str, reason: str) -> None:
    slow = reason == "remote: timeout"  # long enough for the other rows on a busy machine, and tried once
    remote = speaker(server, likelihood=False, timeout=1.5 if slow else 20.0, retries=0 if slow else 1)
    session = remote.start(["good", "bad", "fine"], turns=2)
    session.hear([Speech(" a")] * 3)
    server.seen.clear()
    server.fault = lambda number, body: fault if body["prompt"].startswith("bad") else None
    spoken = session.speak(keys_for(3))
    assert [speech.error for speech in spoken] == [None, reason, None]
    assert all(speech.text for speech in (spoken[0], spoken[2]))
    tries = sum(body["prompt"].startswith("bad") for body, _ in server.seen)
    assert tries == (1 if slow or fault in ("status:400", "redirect") else 2)
    server.seen.clear()
    session.hear([Speech(" b")] * 3)
    later = session.speak(keys_for(3, 1))
    assert [speech.error for speech in later] == [None, "after a remote error", None]
    assert len(server.seen) == 2  # a conversation that broke is over


@pytest.mark.parametrize("fault", ["status:500", "html", "drop", "empty", "half"])
def test_a_passing_failure_is_tried_again(server: TinyServer, fault: str) -> None:
    remote = speaker(server, likelihood=False)
    start = len(server.seen)
    server.fault = lambda number, body: fault if number < start + 2 else None
    (speech,) = remote.start(["Hello."], turns=1).speak(keys_for(1))
    assert speech.error is None
    assert speech.text
    assert len(server.seen) == start + 3


def test_a_server_that_goes_away_ends_its_rows_only(parts: Any) -> None:
    with serving(*parts) as server:
        remote = speaker(server, likelihood=False, retries=1)
        session = remote.start(["Hello."], turns=2)
        assert session.speak(keys_for(1))[0].error is None
        server.fault = lambda number, body: "drop"  # what is connected is cut off, what connects anew is refused
    assert [speech.error for speech in session.speak(keys_for(1, 1))] == ["remote: connection"]


def test_half_a_surrogate_pair_is_no_text(server: TinyServer) -> None:
    remote = speaker(server, likelihood=False)
    server.fault = lambda number, body: "surrogate"
    (speech,) = remote.start(["Hello."], turns=1).speak(keys_for(1))
    assert speech == Speech(" half \ufffd")


def test_a_likelihood_that_fails_takes_nothing_from_the_reply(server: TinyServer) -> None:
    remote = speaker(server, retries=0)
    session = remote.start(["good", "bad"], turns=1)
    server.fault = lambda n, body: (
        "status:500" if body["prompt"].startswith("bad") and "prompt_logprobs" in body else None
    )
    heard = session.hear([Speech(" a b c")] * 2, likelihood=True)
    assert heard is not None
    assert heard[0]
    assert heard[1] == ()
    assert session.unknown() == [None, "remote: HTTP 500"]
    replies = session.speak(keys_for(2))
    assert [(speech.kind, speech.error) for speech in replies] == [("answered", None)] * 2
    turns = assess([Speech(" a b c")] * 2, replies, heard, WordScorer(), RewardSettings(), unknown=session.unknown())
    assert [turn.error for turn in turns] == [None, "remote: HTTP 500"]
    assert [math.isfinite(turn.nll) for turn in turns] == [True, False]
    assert all(math.isfinite(turn.tox_reply) for turn in turns)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [("short", "answer has a wrong number of log-probs"), ("positive", "answer has a log-prob that is none")],
)
def test_log_probs_that_go_wrong_after_the_probe_are_not_believed(server: TinyServer, lie: str, reason: str) -> None:
    remote = speaker(server, retries=0)
    session = remote.start(["Hello."], turns=1)
    server.lie = lie
    assert session.hear([Speech(" a b c")], likelihood=True) == [()]
    assert session.unknown() == [f"remote: {reason}"]
    assert session.speak(keys_for(1))[0].error is None


def test_a_served_defender_hears_of_a_prefix_what_the_adversary_hears(make_lm: Any, server: TinyServer) -> None:
    adversary, remote = make_lm(), speaker(server)
    adversary.sampling = SHORT.changed(max_prefix_tokens=5)
    server.seen.clear()
    long = Prefix("long", "It was a very fine day, and we went to see the sea. Then it rained.")
    (tree,) = grow_trees(
        adversary, remote, WordScorer(), [long], keys_for(1), horizon=1, branching=1, weights=RewardSettings()
    )
    heard = tree.prefix
    assert (heard.text, heard.cut, heard.cut_for_adversary) == (
        adversary.heard(long, turns=1).text, len(adversary._encode(long.text)) - 5, heard.cut,
    )  # fmt: skip
    assert all(body["prompt"].startswith(heard.text) for body, _ in server.seen)


@pytest.mark.slow
def test_error_turns_stay_out_of_pairs_and_rates(make_lm: Any, server: TinyServer) -> None:
    remote = speaker(server, retries=0)
    server.fault = lambda number, body: "status:503" if number % 7 == 3 else None
    trees = grow_trees(
        make_lm(), remote, WordScorer(), OPENINGS, keys_for(4), horizon=2, branching=2, weights=RewardSettings()
    )
    turns = [turn for tree in trees for turn in turns_of(tree.children)]
    failed = [turn for turn in turns if turn.error]
    assert 0 < len(failed) < len(turns) == 24
    assert {turn.error for turn in failed} <= {"remote: HTTP 503", "after a remote error"}
    assert all(math.isnan(turn.reward) for turn in failed)


def test_the_error_budget_stops_the_run_with_a_clear_line(server: TinyServer) -> None:
    remote = speaker(server, likelihood=False, retries=0, error_budget=3)
    server.fault = lambda number, body: "status:500"
    with pytest.raises(
        RunError, match=r"\d of the last \d+ requests failed.*remote\.error_budget=3.*HTTP 500.*mend the server"
    ):
        remote.start(["Hello."] * 30, turns=1).speak(keys_for(30))


@pytest.mark.parametrize(("status", "words"), [(401, "key is missing or wrong"), (403, "may not"), (404, "no such")])
def test_a_wrong_key_or_model_stops_at_once(server: TinyServer, status: int, words: str) -> None:
    server.fault = lambda number, body: f"status:{status}"
    with pytest.raises(UserError, match=words):
        speaker(server)
    assert len(server.seen) == 1


def test_the_key_is_sent_and_never_shown(server: TinyServer, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    remote = speaker(server, likelihood=False, retries=0, key_env="TINY_KEY")
    assert server.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    with caplog.at_level(logging.DEBUG, logger="astprompter"):
        server.fault = lambda number, body: "status:500"  # the server repeats the key in its message
        remote.start(["Hello."], turns=1).speak(keys_for(1))
        server.fault = lambda number, body: "status:401"
        with pytest.raises(UserError) as caught:
            remote.start(["Hello."], turns=1).speak(keys_for(1))
    said = caplog.text + str(caught.value) + repr(remote.facts()) + repr(remote.endpoint.server)
    assert KEY not in said
    assert "[key]" in caplog.text
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_env": "NOT_SET_ANYWHERE"}, "environment variable NOT_SET_ANYWHERE"),
        ({"key_env": "sk-abc"}, "takes the NAME"),
        ({"base_url": "http://user:pw@host/v1"}, "no name, password or query"),
        ({"base_url": "localhost:8000"}, "is no address"),
        ({"base_url": "http://[bad"}, "is no address"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_secret(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Endpoint(ServerSettings(**{"base_url": "http://localhost/v1", **options}))
    assert not any(secret in str(caught.value) for secret in ("sk-abc", "pw@"))


def test_retry_after_is_honoured_and_waits_grow_with_jitter(server: TinyServer) -> None:
    waits: list[float] = []
    point = Endpoint(ServerSettings(base_url=server.url, retries=4), sleep=waits.append)
    remote = connect(point, "tiny", SHORT, likelihood=False)
    first = len(server.seen)
    server.fault = lambda number, body: {first: "later:7", first + 1: "status:500", first + 2: "status:500"}.get(number)
    remote.start(["Hello."], turns=1).speak(keys_for(1))
    assert waits[0] == 7.0
    assert waits[1:] == [backoff(0, 1), backoff(0, 2)]
    for attempt in range(4):
        waits = [backoff(key, attempt) for key in range(200)]
        assert 0.25 * 2**attempt <= min(waits) < max(waits) <= 0.5 * 2**attempt
    assert max(backoff(key, 30) for key in range(9)) <= 60.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now=lambda: 1445412470.0) == 10.0
    assert retry_after("Mon, 01 Jan 2024 00:00:00 +99999999999999999999") == 0.0
    assert (retry_after("soon"), retry_after(None), retry_after("1.5")) == (0.0, 0.0, 1.5)
    server.fault = lambda number, body: "later:3600"
    (answer,) = remote.replies([("x",)], [1])
    assert isinstance(answer, Failed)
    assert "asks to wait 3600 s" in answer.detail


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0", 0.0), ("-5", 0.0), ("9999", 9999.0), ("inf", 0.0), ("x", 0.0), (None, 0.0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_requests_run_side_by_side_up_to_the_limit(server: TinyServer) -> None:
    remote = speaker(server, likelihood=False, concurrency=3)
    lock, busy, most = threading.Lock(), 0, 0

    def slow(number: int, body: dict[str, Any]) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.05)
        with lock:
            busy -= 1

    server.fault = slow
    remote.start(["Hello."] * 9, turns=1).speak(keys_for(9))
    assert most == 3


def test_the_way_to_the_server_may_change_on_resume() -> None:
    recorded = settings_from({"defender": {"path": "openai:x"}})
    moved = settings_from({"defender": {"path": "openai:x"}, "remote": {"base_url": "http://b/v1", "concurrency": 2}})
    assert check_resumable(moved, recorded).remote.base_url == "http://b/v1"
    with pytest.raises(UserError, match=r"remote\.api: 'completions' in the run, 'chat' now"):
        check_resumable(settings_from({"defender": {"path": "openai:x"}, "remote": {"api": "chat"}}), recorded)


@pytest.mark.slow
def test_a_stand_in_tells_its_own_likelihood_and_says_so(parts: Any, make_lm: Any) -> None:
    with serving(*parts, flavour="bare") as server:
        standing = LikelihoodProxy(speaker(server), make_lm(seed=5))
        session, alone = standing.start(PREFIXES[:2], turns=2).branch([0, 1, 1]), make_lm(seed=5)
        direct = alone.start([PREFIXES[i] for i in (0, 1, 1)], turns=2)
        for turn in range(2):
            spoken = [Speech(" so it is")] * 3
            heard, expected = session.hear(spoken, likelihood=True), direct.hear(spoken, likelihood=True)
            assert heard is not None
            for a, b in zip(heard, expected, strict=True):
                assert a == pytest.approx(b, abs=1e-4)
            direct.hear(session.speak(keys_for(3, turn)))
    assert standing.name == "openai:tiny"
    assert standing.likelihood_proxy == "stand-in (tiny-gpt2), not the defender's (openai:tiny)"


@pytest.mark.slow
def test_a_stand_in_keeps_room_for_what_it_encodes_anew(parts: Any, make_lm: Any, tmp_path: Path) -> None:
    lm, other = make_lm(), make_lm(tokenizer=make_tokenizer(280))
    for name, saved in (("same", lm), ("other", other)):
        saved.model.save_pretrained(tmp_path / name)
        saved.tokenizer.save_pretrained(tmp_path / name)
    with serving(*parts, flavour="bare") as server:
        # Replies are a stranger's tokens, up to twice as many here; so are utterances of an adversary with others.
        for adversary, tokens_a_turn in (("same", 5 + 2 * 5), ("other", 2 * 5 + 2 * 5)):
            chosen = {
                "adversary": {"path": str(tmp_path / adversary)}, "defender": {"path": "openai:tiny"},
                "likelihood": {"path": str(tmp_path / "same")}, "remote": {"base_url": server.url},
                "rollout": {"max_new_tokens": 5},
            }  # fmt: skip
            standing = build_defender(settings_from(chosen))
            assert isinstance(standing, LikelihoodProxy)
            assert standing.model.prefix_budget(2) == 256 - 2 * tokens_a_turn


def call(capsys: Any, monkeypatch: Any, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["astprompter", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SMALL = [
    "rollout.max_new_tokens=5", "rollout.horizon=2", "training.updates=2", "training.pairs_per_iteration=4",
    "training.batch_size=2", "training.dev_prefixes=3", "training.warmup_updates=1", "scorer.spec=word:a",
    "evaluation.resamples=100", "supervision.q=0",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["vllm", "bare"])
def test_a_run_against_a_server_end_to_end(
    parts: Any, tmp_path: Path, capsys: Any, monkeypatch: Any, make_lm: Any, flavour: str
) -> None:
    lm = make_lm()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PREFIXES))
    monkeypatch.setenv("TINY_KEY", KEY)
    with serving(*parts, flavour=flavour) as server:
        chosen = [f"data.{name}={tmp_path / 'texts.jsonl'}" for name in ("train", "dev", "test")]
        chosen += [f"adversary.path={tmp_path / 'model'}", "defender.path=openai:tiny"]
        chosen += [f"remote.base_url={server.url}", "remote.key_env=TINY_KEY"]
        run = tmp_path / "run"
        code, out, err = call(capsys, monkeypatch, "train", "-o", str(run), *chosen, *SMALL)
        if flavour == "bare":
            assert code == 2
            assert "likelihood.path" in err
            assert not run.exists()
            chosen.append(f"likelihood.path={tmp_path / 'model'}")
            code, out, err = call(capsys, monkeypatch, "train", "-o", str(run), *chosen, *SMALL)
            assert "every nll is a stand-in" in out
        assert code == 0, err
        code, table, err = call(capsys, monkeypatch, "evaluate", str(run))
        assert code == 0, err
    summary = json.loads((run / "summary.json").read_text())["config"]
    stands = f"stand-in ({tmp_path / 'model'}), not the defender's (openai:tiny)"
    assert summary["likelihood"] == (stands if flavour == "bare" else "defender (openai:tiny)")
    assert summary["defender_sha256"] is None
    assert summary["remote"]["likelihood"] == ("prompt_logprobs" if flavour == "vllm" else None)
    assert ("stand-in" in table) == (flavour == "bare")
    assert json.loads((run / "config.json").read_text())["likelihood"] == summary["likelihood"]
    assert all(
        row["nll"].get("likelihood", "") == (stands if flavour == "bare" else "")
        for row in read_rows(run / "log.jsonl")
    )
    assert not any(KEY in path.read_text() for path in run.rglob("*.json*"))
