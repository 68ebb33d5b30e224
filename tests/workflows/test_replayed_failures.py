"""One failure run again: the same conversation word for word, fresh replies, and the share that is toxic."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.protocols import Session, Speaker
from astprompter.base.records import Keys, ReplyKind, Speech
from astprompter.evaluation.statistics import wilson
from astprompter.scorers.words import WordScorer
from astprompter.workflows import replay as module
from astprompter.workflows.replay import Replayed, replay
from helpers.commands import call
from helpers.report_runs import write_run


class Scripted(Speaker):
    """Notes what it hears and says; every third reply holds the word, the first one is a call of a tool."""

    name = "scripted"

    def __init__(self) -> None:
        self.said: list[tuple[str, list[str]]] = []
        self.keys: list[int] = []

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        self.said.append((f"start {turns}", list(prefixes)))
        return ScriptedSession(self)


class ScriptedSession(Session):
    def __init__(self, speaker: Scripted) -> None:
        self.speaker = speaker

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> None:
        self.speaker.said.append(("hear", [speech.text for speech in speeches]))

    def say(self, speeches: Sequence[Speech]) -> None:
        self.speaker.said.append(("say", [speech.text for speech in speeches]))

    def speak(self, keys: Keys) -> list[Speech]:
        first = len(self.speaker.keys)
        self.speaker.keys += [int(key) for key in keys]
        kinds: list[ReplyKind] = ["tool_call" if first + i == 0 else "answered" for i in range(len(keys))]
        return [Speech("a pear" if (first + i) % 3 == 0 else "a plum", kind=kind) for i, kind in enumerate(kinds)]

    def branch(self, rows: Sequence[int]) -> Session:
        self.speaker.said.append(("branch", [str(row) for row in rows]))
        return self


@pytest.fixture
def defender(monkeypatch: Any) -> Scripted:
    speaker = Scripted()
    monkeypatch.setattr(module, "build_defender", lambda settings: speaker)
    monkeypatch.setattr(module, "build_scorer", lambda settings: WordScorer("pear"))
    monkeypatch.setattr(module, "build_other_scorers", lambda settings: [])
    return speaker


def test_the_conversation_is_repeated_and_the_share_is_that_of_the_fresh_replies(
    tmp_path: Path, defender: Scripted
) -> None:
    run = write_run(tmp_path / "mine", count=3, rollout={"trees_per_batch": 4})
    found = replay(run, 2, 10)  # fails at its second turn
    opening, utterance, reply = "The opening number 1.", " a pear and tea", " reply1 of mine pear"
    assert [step for step, _ in defender.said[:4]] == ["start 2", "hear", "say", "hear"]
    assert [texts for _, texts in defender.said[:4]] == [[text] for text in (opening, utterance, reply, utterance)]
    branches = [("branch", ["0"] * 4), ("branch", ["0"] * 4), ("branch", ["0"] * 2)]
    assert defender.said[4:] == branches  # heard once, however many replies
    assert len(set(defender.keys)) == 10
    (row,) = found.grid().rows
    assert [cell.value for cell in row] == ["word:pear", 3 / 9, 3, 9]  # the call of a tool counts neither way
    assert row[1].ci == wilson(3, 9, 0.95)
    assert "1 tool call, 9 answered" in found.grid().note
    before = list(defender.keys)
    replay(run, 2, 10)
    assert defender.keys[10:] == before  # the same command draws the same replies
    assert replay(run, 2, 10, ["evaluation.threshold=0.9"]).threshold == 0.9
    del defender.keys[20:]
    replay(run, 2, 10, ["seed=1"])
    assert not set(defender.keys[20:]) & set(before)


def test_an_accumulated_turn_is_heard_straight_after_the_prefix(tmp_path: Path, defender: Scripted) -> None:
    run = write_run(tmp_path / "mine", count=3)
    rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text().splitlines()]
    (run / "trajectories.jsonl").write_text("".join(json.dumps({**row, "accumulated": True}) + "\n" for row in rows))
    replay(run, 2, 3)
    assert [step for step, _ in defender.said] == ["start 2", "hear", "branch"]


def test_several_scorers_are_told_apart_and_together() -> None:
    replies = [Speech("x")] * 4
    scores = {"a": [0.9, 0.9, 0.1, 0.9], "b": [0.9, 0.1, 0.9, math.nan]}
    failure: Any = None
    found = Replayed(failure, [], replies, scores, 0.5, 0.95, "d", "d").grid()
    assert [[cell.value for cell in row] for row in found.rows] == [
        ["a", 3 / 4, 3, 4], ["b", 2 / 3, 2, 3], ["all of them", 1 / 3, 1, 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "total", "low", "high"), [(0, 20, 0.0, 0.1611), (5, 20, 0.1119, 0.4687), (20, 20, 0.8389, 1.0)]
)
def test_wilsons_interval(count: int, total: int, low: float, high: float) -> None:
    # statsmodels.stats.proportion.proportion_confint(count, total, method="wilson")
    found = wilson(count, total, 0.95)
    assert found == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0, 0.95) is None


def test_what_is_not_there_is_said(tmp_path: Path, defender: Scripted) -> None:
    run = write_run(tmp_path / "mine", count=3)
    with pytest.raises(UserError, match="no failure 9; they have the numbers 1 to 3"):
        replay(run, 9, 2)
    lines = (run / "trajectories.jsonl").read_text().splitlines()
    (run / "trajectories.jsonl").write_text("\n".join([*lines[:4], lines[3], lines[5]]) + "\n")
    with pytest.raises(UserError, match="does not hold the conversation of failure 2"):
        replay(run, 2, 2)


@pytest.mark.slow
def test_the_command_masks_texts_and_lists_the_replies(tmp_path: Path, defender: Scripted, capsys: Any) -> None:
    run = str(write_run(tmp_path / "mine", count=3))
    code, text, _ = call(capsys, "replay", run, "2", "-n", "7")
    assert code == 0
    assert "pear" not in text.replace("word:pear", "")
    assert "failure 2: mine, turn 2" in text
    assert "earlier replies are those of tiny; the ones below are of scripted" in text
    assert "(tool call)" in text
    assert "33.3%" in text
    assert call(capsys, "replay", run, "2", "-n", "7", "--show-text")[1].count("a pear\n") >= 2
