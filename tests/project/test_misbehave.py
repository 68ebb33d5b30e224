"""``make misbehave``: a server and a judge misbehave in every way that is known, and no figure is wrong.

Every conversation has a name, a fault, and what must be known of its two turns. The server answers as written here, so
every figure can be counted by hand; all goes over real sockets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from astprompter.base.errors import RunError
from astprompter.base.records import REPLY_KINDS, Prefix, Speech
from astprompter.config import ScorerSettings, ServerSettings, settings_from
from astprompter.evaluation.evaluate import Evaluation, measure
from astprompter.evaluation.tables import of_summary
from astprompter.models.served.connect import connect
from astprompter.models.served.http import Endpoint
from astprompter.scorers import load_scorer
from astprompter.scorers.words import WordScorer
from helpers.files import read_rows
from helpers.scripted import Script
from helpers.server import FILTERS, TinyServer, choice, serving

pytestmark = pytest.mark.slow
SAID = [Speech(" say something"), Speech(" and something more")]
SETTINGS = settings_from({"rollout": {"horizon": 2}, "evaluation": {"resamples": 100}})


class Case(NamedTuple):
    """A conversation in which something goes wrong in the first turn.

    Attributes:
        fault: What the server does (tests/helpers/server.py); empty: it answers.
        at: Whether it does so to the request for a reply, or for a likelihood.
        kind: What the first reply is.
        score: Its score, ``None`` where it has none.
        nll: Whether the likelihood of the first utterance is known.
    """

    fault: str
    at: str = "reply"
    kind: str = "failed"
    score: float | None = None
    nll: bool = True


FAILED = [f"status:{code}" for code in (400, 408, 409, 425, 429, 500, 502, 503)] + [
    "later:3600", "redirect", "hang:1.5", "drip", "half", "drop", "html", "truncated", "list", "empty", "none"
]  # fmt: skip
CASES = {
    "a harmless answer": Case("", kind="answered", score=0.0),
    "a toxic answer": Case("", kind="answered", score=1.0),
    "half a surrogate pair": Case("half a character", kind="answered", score=1.0),
    "blank": Case("blank", kind="blank", score=0.0),
    "a refusal": Case("refusal", kind="refused", score=0.0),
    "text after reasoning": Case("thought", kind="answered", score=0.0),
    "finish_reason content_filter": Case("filtered", kind="blocked"),
    "content_filter, half a text": Case("half filtered", kind="blocked"),
    **{f"HTTP 400 of a filter: {name}": Case(name, kind="blocked") for name in FILTERS},
    "reasoning without an answer": Case("thinking", kind="cut"),
    "reasoning that is not closed": Case("open thought", kind="cut"),
    "nothing before the limit": Case("cut", kind="cut"),
    "a tool call": Case("tools", kind="tool_call"),
    **{f"no answer: {name}": Case(name) for name in FAILED},
    **{f"likelihood: {name}": Case(name, "likelihood", "answered", 1.0, nll=False) for name in ("status:500", "html")},
    "likelihood: a log-prob is not a number": Case("nan", "likelihood", "answered", 1.0, nll=False),
    "likelihood: one too few": Case("short", "likelihood", "answered", 1.0, nll=False),
    "likelihood: a filter": Case("azure", "likelihood", "answered", 1.0, nll=False),
}
NAMES = list(CASES)


def test_the_server_misbehaves(tmp_path: Path) -> None:
    with misbehaving(
        lambda name, turn, asks: CASES[name].fault if (turn, asks) == (0, CASES[name].at) else ""
    ) as server:
        result = evaluated(server, WordScorer("bad"), NAMES)
    result.write(tmp_path)
    rows = dict(zip(NAMES, read_rows(tmp_path / "trajectories.jsonl"), strict=True))
    shown = [f"{'what went wrong':<42} {'reply':<10} {'score':>6} {'nll':>6}  why something is missing"]
    for name, case in CASES.items():
        first, second = rows[name]["turns"]
        shown.append(
            f"{name:<42} {first['reply_kind']:<10} {first['tox_reply']!s:>6} {first['nll']!s:.6}  {first['error']}"
        )
        assert (first["reply_kind"], first["tox_reply"]) == (case.kind, case.score), name
        assert first["nll"] == (pytest.approx(nll_of(SAID[0].text)) if case.nll else None), name
        missing = case.score is None or not case.nll
        assert (first["reward"] is None, first["error"] is not None) == (missing, missing), name
        goes_on = case.score is not None
        assert second["reply_kind"] == ("answered" if goes_on else case.kind), name
        assert second["tox_reply"] == (0.0 if goes_on else None), name
    print("\n" + "\n".join(shown))
    counted(
        result, {name: ([case.score, 0.0] if case.score is not None else [None, None]) for name, case in CASES.items()}
    )
    row = result.summary.adversaries["x"]
    kinds = Counter(turn["reply_kind"] for row in rows.values() for turn in row["turns"])
    assert row.reply_kinds == {kind: kinds[kind] for kind in REPLY_KINDS}
    assert all(row.reply_kinds.values())
    assert row.errors == sum(kinds[kind] for kind in ("cut", "tool_call", "failed"))
    assert row.failure_within_horizon.share is None  # a filter took replies away
    over = sum(case.score is None for case in CASES.values())  # their second utterance was heard by nobody
    assert row.nll.errors == over + sum(not case.nll for case in CASES.values())
    toxic = {name for name, case in CASES.items() if case.score == 1.0}
    assert {NAMES[int(failure.prefix_id)] for failure in result.failures()} == toxic
    assert {NAMES[int(f.prefix_id)] for f in result.failures() if f.path_nll is None} == {
        name for name in toxic if not CASES[name].nll
    }


JUDGED = {
    "probabilities": (None, 0.9),
    "a word without probabilities": (choice(True, "unsafe"), 1.0),
    "neither word": (choice(True, "I cannot tell."), None),
    "no probability for either word": ({"choices": [{"logprobs": {"content": [{"token": "I", "top_logprobs": [
        {"token": "I", "logprob": -0.1}]}]}, "message": {"content": "I"}}]}, None),
    "probabilities that are no numbers": ({"choices": [{"logprobs": {"content": [{"token": "unsafe", "top_logprobs": [
        {"token": "unsafe", "logprob": math.nan}]}]}, "message": {"content": "unsafe"}}]}, None),
    "null": (choice(True, None), None),
    "no choices": ({"choices": []}, None),
    **{f"no answer: {name}": (name, None) for name in ("status:500", "status:400", "azure", "html", "hang:1.5", "drop",
                                                      "half", "list")},
}  # fmt: skip
"""What a judge answers about the reply of a conversation, and the score of that reply."""


def judging(server: TinyServer, **options: Any) -> Any:
    """The judge behind a server, which is not waited for long."""
    scorer: Any = load_scorer("openai-chat:judge", ScorerSettings(base_url=server.url, **options))
    impatient = ServerSettings(base_url=server.url, timeout=1.0, retries=0, error_budget=100, concurrency=1)  # type: ignore[call-arg]
    scorer._server = Endpoint(impatient, section="scorer")
    return scorer


def test_the_judge_misbehaves() -> None:
    """A reply that the judge could not score is unknown; the scores of its utterance change nothing about that."""
    answers = {name: answer for name, (answer, _) in JUDGED.items()}
    with misbehaving(lambda *request: "") as server, serving(None, None) as judge:

        def about(body: dict[str, Any]) -> Any:
            """The reply alone names its conversation; utterances and whole turns are judged well."""
            text = body["messages"][-1]["content"]
            name = re.match(r" ?bad reply to (.*)\.$", text)
            return answers[name[1]] if name and name[1] in answers else None

        judge.script = lambda body: found if isinstance(found := about(body), dict) else verdict_of(body)
        judge.fault = lambda number, body: found if isinstance(found := about(body), str) else None
        result = evaluated(server, judging(judge, error_budget=20), list(JUDGED), toxic=True)
    scores = {name: score for name, (_, score) in JUDGED.items()}
    counted(result, {name: [score, 0.1] for name, score in scores.items()})
    row = result.summary.adversaries["x"]
    missing = sum(score is None for score in scores.values())
    assert (row.errors, row.tox_reply.errors, row.tox_utterance.errors, row.tox_turn.errors) == (missing, missing, 0, 0)
    assert row.reply_kinds["answered"] == 2 * len(JUDGED)  # the defender did its part
    assert {turn.error for path in result.trajectories["x"] for turn in path.turns} == {None, "score is not finite"}
    print(f"\n{'the judge answers':<42} score of the reply")
    for name, path in zip(JUDGED, result.trajectories["x"], strict=True):
        print(f"{name:<42} {path.turns[0].tox_reply:.2f}")


def test_the_judge_dies() -> None:
    """That ends the evaluation with an error; it does not go on for an hour, and no gate passes for want of scores."""
    with misbehaving(lambda *request: "") as server, serving(None, None) as judge:
        judge.script = verdict_of
        judge.fault = lambda number, body: "drop" if number > 40 else None
        scorer = judging(judge)
        with pytest.raises(RunError, match="is down: 5 requests in a row"):
            evaluated(server, scorer, [str(i) for i in range(60)])
        assert len(judge.seen) == 41 + 5


def test_the_server_dies_in_the_middle() -> None:
    """A budget of failures ends the evaluation with an error, instead of a share of what is left."""
    asked: list[int] = []

    def fault(name: str, turn: int, asks: str) -> str:
        asked.append(turn)
        return "drop" if len(asked) > 60 else ""

    with misbehaving(fault) as server, pytest.raises(RunError, match="requests failed for good"):
        evaluated(server, WordScorer("bad"), [str(i) for i in range(60)], error_budget=5)


def counted(result: Evaluation, scores: dict[str, list[float | None]]) -> None:
    """Shares, bounds, failures and table must be those that one counts by hand."""
    row, known = result.summary.adversaries["x"], [s for both in scores.values() for s in both if s is not None]
    failed = sum(any((score or 0) > 0.5 for score in both) for both in scores.values())
    unknown = sum(None in both and not any((score or 0) > 0.5 for score in both) for both in scores.values())
    found = row.failure_within_horizon
    assert (row.tox_reply.valid, row.tox_reply.errors) == (len(known), 2 * len(scores) - len(known))
    assert row.tox_reply.share == pytest.approx(sum(score > 0.5 for score in known) / len(known))
    assert row.tox_reply.mean == pytest.approx(sum(known) / len(known))
    assert (found.failed, found.unassessed) == (failed, unknown)
    assert found.bounds == pytest.approx([failed / len(scores), (failed + unknown) / len(scores)])
    assert len(result.failures()) == failed
    grid = of_summary(result.summary)[0]
    shown = dict(zip(grid.header, (value for value, _ in grid.texts()[0]), strict=True))
    assert shown["replies > 0.5"] == f"{row.tox_reply.share:.1%}"
    assert (shown["at least"], shown["at most"]) == tuple(f"{end:.1%}" for end in found.bounds or ())
    assert shown["errors"] == str(row.errors)
    print("\n" + result.table(120))


def evaluated(
    server: TinyServer, scorer: Any, names: Sequence[str], *, toxic: bool = False, error_budget: int = 100
) -> Evaluation:
    """What is measured of conversations by these names, whose prefixes are numbered."""
    server.toxic = toxic  # type: ignore[attr-defined]
    options = ServerSettings(base_url=server.url, timeout=1.0, retries=0, error_budget=error_budget)  # type: ignore[call-arg]
    endpoint = Endpoint(options, sleep=lambda seconds: None)
    defender = connect(endpoint, "fake", SETTINGS.rollout, api="chat")
    assert defender.route is not None
    prefixes = [Prefix(str(number), f"{name} |") for number, name in enumerate(names)]
    return measure({"x": Script({p.text: SAID for p in prefixes})}, defender, scorer, prefixes, SETTINGS)


@contextmanager
def misbehaving(fault: Callable[[str, int, str], str]) -> Iterator[TinyServer]:
    """A defender that answers by rule: toxic in the first turn where its case says so, harmless in the second."""
    with serving(None, None) as server:

        def request(body: dict[str, Any]) -> tuple[str, int, str]:
            """Name of the conversation, turn, and what is asked for."""
            messages = body["messages"]
            name, bar, _ = messages[0]["content"].partition(" |")
            return name if bar else "", len(messages) // 2, "likelihood" if "prompt_logprobs" in body else "reply"

        def script(body: dict[str, Any]) -> dict[str, Any]:
            name, turn, asks = request(body)
            if asks == "likelihood":
                lie = fault(name, turn, asks) if name else ""
                return table_of(body, lie)
            every = getattr(server, "toxic", False)
            bad = turn == 0 and (every or (name in CASES and CASES[name].score == 1.0))
            return choice(True, f"{'bad' if bad else 'good'} reply to {name}.")

        def failing(number: int, body: dict[str, Any]) -> str | None:
            name, turn, asks = request(body)
            found = fault(name, turn, asks) if name else ""
            return found if found not in ("", "nan", "short") else None

        server.script, server.fault = script, failing
        yield server


def words_of(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def nll_of(text: str) -> float:
    words = words_of(text)
    return sum(len(word) for word in words) / 10 / len(words)


def table_of(body: dict[str, Any], lie: str) -> dict[str, Any]:
    """Log-probabilities of a prompt's words, by their lengths."""
    words = words_of(
        "".join(f"\n{message['role']}: {message['content']}" for message in body["messages"]) + "\nassistant:"
    )
    values: list[float] = [math.nan if lie == "nan" else -len(word) / 10 for word in words]
    rows: list[Any] = [{word: {"logprob": value}} for word, value in zip(words, values, strict=True)]
    table = [None, *rows[1:]][: -1 if lie == "short" else None]
    return {**choice(True, "x"), "prompt_logprobs": table, "prompt_token_ids": words}


def verdict_of(body: dict[str, Any]) -> dict[str, Any]:
    """A judge's answer: nine to one that a text with the word is unsafe, that another one is safe."""
    unsafe = 0.9 if "bad" in body["messages"][-1]["content"] else 0.1
    likely = [{"token": "unsafe", "logprob": math.log(unsafe)}, {"token": "safe", "logprob": math.log(1 - unsafe)}]
    word = max(likely, key=lambda token: token["logprob"])["token"]
    return {
        "choices": [{"message": {"content": word}, "logprobs": {"content": [{"token": word, "top_logprobs": likely}]}}]
    }
