"""What an evaluation has done outlives it: it goes on after an interruption, and asks again only for what failed."""

from __future__ import annotations

import functools
import json
import math
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import astprompter as ap
from astprompter.base.errors import OutageError
from helpers.launching import started_together, together
from helpers.server import serving
from helpers.tiny import SENTENCES, make_model, make_tokenizer, naming, write_models
from helpers.zygote import Zygote

SMALL: dict[str, Any] = {
    "rollout.max_new_tokens": 4, "rollout.horizon": 2, "rollout.trees_per_batch": 2, "evaluation.resamples": 100,
}  # fmt: skip
FILES = ("summary.json", "trajectories.jsonl", "failures.jsonl")


class Letters:
    """Scores by letters; fails at a given call, and counts the replies that it is asked for."""

    name = "letters"

    def __init__(self, failing: int | None = None, error: BaseException | None = None) -> None:
        self.calls, self.asked, self._failing, self._error = 0, 0, failing, error

    def score(self, texts: Sequence[str], contexts: object = None) -> list[float]:
        self.calls += 1
        if self.calls == self._failing:
            raise self._error or RuntimeError("out of order")
        self.asked += len(texts) // 3
        return [min(1.0, 3 * text.count("e") / max(1, len(text))) for text in texts]


class Scripted(ap.Speaker):
    """Says numbers by its random keys; as a defender its server refuses what follows some openings, until mended."""

    def __init__(self, name: str = "scripted", bad: Sequence[str] = ()) -> None:
        self.name, self.bad, self.asked = name, list(bad), 0

    def start(self, prefixes: Sequence[str], *, turns: int) -> Any:
        return ScriptedSession(self, list(prefixes))


class ScriptedSession(ap.Session):
    def __init__(self, speaker: Scripted, texts: list[str]) -> None:
        self._speaker, self._texts = speaker, texts

    def hear(self, speeches: Any, *, likelihood: bool = False) -> Any:
        self._texts = [text + speech.text for text, speech in zip(self._texts, speeches, strict=True)]
        return [(-1.0, -len(text) / 7) for text in self._texts] if likelihood else None

    def speak(self, keys: Any) -> list[ap.Speech]:
        self._speaker.asked += len(self._texts)
        failed, bad = ap.Speech("", error="HTTP 503"), tuple(self._speaker.bad)
        said = [ap.Speech(f" {self._speaker.name} {'e' * int(key % 7)} {key % 997}") for key in keys.tolist()]
        return [
            failed if bad and text.startswith(bad) else speech for text, speech in zip(self._texts, said, strict=True)
        ]

    def branch(self, rows: Sequence[int]) -> Any:
        return ScriptedSession(self._speaker, [self._texts[row] for row in rows])


@functools.cache
def model(seed: int) -> ap.Speaker:
    tokenizer = make_tokenizer()
    return ap.load_model(make_model("gpt2", len(tokenizer), seed=seed), tokenizer=tokenizer)


def measured(
    folder: Path, scorer: Any, *, defender: Any = None, retry: bool = False, models: bool = False, **changes: Any
) -> ap.Evaluation:
    adversaries = {"untuned": model(0), "ours": model(3)} if models else {n: Scripted(n) for n in ("untuned", "ours")}
    other = defender or (model(1) if models else Scripted())
    return ap.evaluate(adversaries, other, scorer, SENTENCES, out=folder, settings=SMALL | changes, retry_errors=retry)


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text("utf-8") for name in FILES}


@pytest.mark.parametrize(
    ("failing", "models"), [(2, False), (5, False), (11, False), pytest.param(5, True, marks=pytest.mark.slow)]
)
def test_an_evaluation_that_broke_off_goes_on_to_the_same_digits(tmp_path: Path, failing: int, models: bool) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    every = Letters()
    measured(whole, every, models=models)  # 2 adversaries, 3 batches each, 2 turns a batch: 12 calls
    assert (every.calls, every.asked) == (12, 24)
    with pytest.raises(RuntimeError, match="out of order"):
        measured(broken, Letters(failing), models=models)
    kept = (failing - 1) // 2 * 2  # conversations of batches that were done
    assert (broken / "unfinished").exists() == (kept > 0)
    assert not (broken / "summary.json").exists()
    rest = Letters()
    measured(broken, rest, models=models)
    assert rest.asked == 24 - 2 * kept
    assert contents(broken) == contents(whole)
    assert sorted(path.name for path in broken.iterdir()) == sorted(FILES)


def test_what_is_kept_is_said_and_how_to_go_on(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(OutageError, match=r"gone; 8 of 12 conversations are kept in '.*'; go on with the same call"):
        measured(tmp_path / "out", Letters(9, OutageError("gone")))
    caplog.set_level("INFO")
    measured(tmp_path / "out", Letters())
    assert "untuned: 6 of 6 conversations are kept from an unfinished evaluation" in caplog.text
    assert "ours: 2 of 6 conversations are kept" in caplog.text
    with pytest.raises(OutageError, match="gone; run the command again"):
        measured(tmp_path / "new", Letters(1, OutageError("gone")))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"rollout.temperature": 0.9}, {"seed": 5}, {"reward.alpha": 2.0}])
def test_nothing_is_taken_over_from_under_other_settings(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError):
        measured(tmp_path / "out", Letters(9))
    scorer = Letters()
    measured(tmp_path / "out", scorer, **change)
    assert scorer.asked == 24
    measured(tmp_path / "other", Letters(), **change)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


@pytest.mark.slow
def test_what_no_longer_can_be_read_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        measured(tmp_path / "out", Letters(9))
    path = tmp_path / "out" / "unfinished" / "0.jsonl"
    lines = path.read_bytes().splitlines()
    assert len(lines) == 5  # and a line before each
    path.write_bytes(b"\n".join([b"{", *lines[1:-1], lines[-1][:-7]]))  # a torn line
    scorer = Letters()
    measured(tmp_path / "out", scorer)
    assert scorer.asked == 24 - 2 * 6
    measured(tmp_path / "whole", Letters())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_retrying_asks_again_only_for_what_failed(tmp_path: Path, caplog: Any) -> None:
    server, one = Scripted(bad=[SENTENCES[1], SENTENCES[4]]), {"rollout.trees_per_batch": 1}
    measured(tmp_path / "out", Letters(), defender=server, **one)
    assert "8 turns failed; --retry-errors asks for their conversations again" in caplog.text
    server.asked = 0
    measured(tmp_path / "out", Letters(), defender=server, retry=True, **one)  # it still fails
    assert server.asked == 2 * 4
    server.bad = [SENTENCES[4]]
    measured(tmp_path / "out", Letters(), defender=server, retry=True, **one)
    server.bad, server.asked = [], 0
    measured(tmp_path / "out", Letters(), defender=server, retry=True, **one)
    assert server.asked == 4
    measured(tmp_path / "whole", Letters(), defender=server, **one)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(ap.UserError, match=r"no evaluation in '.*' has failed replies to ask for again"):
        measured(tmp_path / "out", Letters(), defender=server, retry=True, **one)
    with pytest.raises(ap.UserError, match="retry_errors needs the folder"):
        ap.evaluate({"a": server}, server, Letters(), SENTENCES, retry_errors=True)


@pytest.mark.slow
def test_a_score_that_nobody_gives_is_asked_for_once_more_only(tmp_path: Path, caplog: Any) -> None:
    class Silent(Letters):
        def score(self, texts: Sequence[str], contexts: object = None) -> list[float]:
            found = super().score(texts, contexts)
            return [math.nan if text.endswith("7") else score for text, score in zip(texts, found, strict=True)]

    measured(tmp_path / "out", Silent())
    assert "turns have no score; where a server was down, --retry-errors asks for them again, else name" in caplog.text
    assert (tmp_path / "out" / "unfinished").exists()
    before = contents(tmp_path / "out")
    measured(tmp_path / "out", Silent(), retry=True)
    assert "have no score, though it was asked for again" in caplog.text
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.slow
def test_without_retrying_all_is_measured_anew(tmp_path: Path) -> None:
    server = Scripted(bad=[SENTENCES[1]])
    measured(tmp_path / "out", Letters(), defender=server)
    server.bad, server.asked = [], 0
    measured(tmp_path / "out", Letters(), defender=server)
    assert server.asked == 24
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("input")
    write_models(folder, model=0)
    named = naming(folder, "model", "model", texts="train dev test")
    return ["untuned", f"{folder / 'model'}", *named, *(f"{key}={value}" for key, value in SMALL.items())]


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_nothing_that_is_done(
    forks: Zygote, arguments: list[str], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    with serving(make_model("gpt2", len(tokenizer)), tokenizer) as server:
        served = [
            *arguments, "defender.path=openai:tiny", f"remote.base_url={server.url}", "remote.retries=0",
            "remote.error_budget=2", "remote.concurrency=1", "scorer.spec=word:a",
        ]  # fmt: skip
        assert forks.run("evaluate", *served, "-o", str(tmp_path / "whole"))[0] == 0
        whole = len(server.seen)
        server.fault = lambda number, body: "status:503" if number > whole + 60 else None
        code, _, err = forks.run("evaluate", *served, "-o", str(tmp_path / "out"))
        assert code == 1
        last = err.strip().splitlines()[-1]
        assert "requests failed for good" in last
        assert "of 16 conversations are kept in" in last
        assert not (tmp_path / "out" / "summary.json").exists()
        again = shlex.split(last.partition("go on with '")[2].removesuffix("'"))
        assert again[:2] == ["astprompter", "evaluate"]
        before, server.fault = len(server.seen), lambda number, body: None
        assert forks.run(*again[1:])[0] == 0
        assert len(server.seen) - before < whole - 20
    one, other = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert one == other


SLOW = """
import os, pathlib, time
calls = 0
def score(texts):
    global calls
    calls += 1
    if calls > 4 and "REACHED" in os.environ:
        pathlib.Path(os.environ["REACHED"] + os.environ.get("RANK", "")).touch()
        time.sleep(60)
    return [min(1.0, text.count("e") / 9) for text in texts]
"""


@pytest.mark.slow
def test_an_interruption_says_what_is_kept(forks: Zygote, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    given = ["evaluate", *arguments, "scorer.spec=python:slow:score"]
    here = {"PYTHONPATH": str(tmp_path)}
    process = forks.start(*given, "-o", str(tmp_path / "out"), REACHED=str(tmp_path / "reached"), **here)
    process.until((tmp_path / "reached").exists)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    last = process.err.strip().splitlines()[-1]
    assert last.startswith(
        f"interrupted by SIGINT: 4 of 16 conversations are kept in '{tmp_path / 'out'}'; go on with '"
    )
    code, out, err = forks.run(*given, "-o", str(tmp_path / "out"), **here)
    assert code == 0, err
    assert "untuned: 4 of 8 conversations are kept from an unfinished evaluation" in out
    assert forks.run(*given, "-o", str(tmp_path / "whole"), **here)[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["config"]["targets"] == arguments[:2]


@pytest.mark.slow
def test_two_processes_that_were_interrupted_end_where_one_does(
    forks: Zygote, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("> 4", "> 3"))
    out, whole = tmp_path / "out", tmp_path / "whole"
    given = ["evaluate", *arguments, "scorer.spec=python:slow:score", "rollout.trees_per_batch=1"]
    here = {"PYTHONPATH": str(tmp_path)}
    broken = started_together(forks.start, *given, "-o", str(out), REACHED=str(tmp_path / "reached"), **here)
    for rank, process in enumerate(broken):
        process.until((tmp_path / f"reached{rank}").exists)
    for process in broken:
        process.send(signal.SIGINT)
    assert [process.wait() for process in broken] == [130, 130]
    assert sorted(path.name for path in (out / "unfinished").iterdir()) == ["0.jsonl", "1.jsonl"]
    assert "conversations are kept in" in broken[0].err
    said = together(forks.start, *given, "-o", str(out), **here)
    assert "conversations are kept from an unfinished evaluation" in said
    assert forks.run(*given, "-o", str(whole), **here)[0] == 0
    assert contents(out) == contents(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
