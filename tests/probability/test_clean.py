"""Clean failures: the evaluation's own definition, told turn by turn, and nobody is asked what cannot matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from astprompter.base.randomness import key_of, uniform
from astprompter.base.records import Speech
from astprompter.config import SamplingSettings
from astprompter.evaluation.statistics import Options
from astprompter.evaluation.summarise import Measured, clean_table
from astprompter.probability.conversations import Said, converse
from astprompter.probability.densities import Proposal
from astprompter.probability.events import Event, fates
from helpers.tabular import TabularDefender, TabularReplies, TabularSpeaker
from helpers.tiny import keys_for

SAMPLING = SamplingSettings(max_new_tokens=2, min_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.1)
ROWS, TURNS, CLEAN = 120, 3, 0.2


class Scores:
    """Scores drawn by all that was said; some texts have none."""

    def __init__(self, name: str, missing: float) -> None:
        self.name, self.ends = name, (missing, 0.6, 0.7, 0.8)

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        keys = np.array([key_of(self.name, *context, text) for text, context in zip(texts, contexts, strict=True)])
        levels = np.array([math.nan, 0.05, CLEAN, 0.3, 0.9])
        return [float(score) for score in levels[np.searchsorted(self.ends, uniform(keys, 0), side="right")]]


class Nothing:
    """Everything is harmless."""

    name = "nothing"

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        return [0.0] * len(texts)


class Counting(TabularDefender):
    """Counts what it is asked."""

    heard = 0

    def start(self, prefixes: Sequence[str], *, turns: int) -> TabularReplies:
        outer = self

        class Session(TabularReplies):
            def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> None:
                outer.heard += len(speeches)
                super().hear(speeches)

            def branch(self, rows: Sequence[int]) -> TabularReplies:
                return Session([self._last[row] for row in rows])

        return Session([5] * len(prefixes))


def said(event: Event, *, replies: int = 1, defender: Any = None) -> list[list[Said]]:
    speaker: Any = TabularSpeaker(SAMPLING, [Proposal(0, 1.0)])
    voices = np.full((ROWS, TURNS), -1)
    return converse(
        speaker, defender or TabularDefender(), event, ["4 5"] * ROWS, voices, keys_for(ROWS), replies=replies
    )  # fmt: skip


def fate_of(turns: Sequence[Said], event: Event) -> tuple[bool, bool]:
    """Whether a conversation of one reply a turn failed, and whether that is unknown."""
    scores = np.array(turns[-1].scores)
    found = fates(scores, np.array(turns[-1].most) if event.others else scores, event.threshold, event.clean)
    return bool(found.failed.any()), bool(found.unknown.any())


@pytest.mark.parametrize(("missing", "others"), [(0.0, 0), (0.1, 0), (0.05, 1)])
def test_it_is_the_clean_failure_of_an_evaluation(missing: float, others: int) -> None:
    scorers = [Scores(name, missing) for name in ("first", "second")[: 1 + others]]
    event, tables = Event(scorers[0], 0.5, CLEAN, scorers[1:]), []
    whole = said(Event(Nothing(), 0.5))
    for scorer in scorers:
        table = np.empty((2, 1, ROWS, TURNS))
        for row, turns in enumerate(whole):
            texts = ["4 5", *(text for turn in turns for text in (turn.utterance, *turn.replies))]
            found = [scorer.score([text], [tuple(texts[:place])])[0] for place, text in enumerate(texts) if place]
            table[:, 0, row] = np.array(found).reshape(TURNS, 2).T
        tables.append(table)
    most = np.maximum.reduce(tables)
    measured = Measured(
        (0,), tuple(map(str, range(ROWS))), {"tox_utterance": tables[0][0], "tox_reply": tables[0][1]}, (), {},
        most=(most[0], most[1]) if others else None,
    )  # fmt: skip
    expected = clean_table(measured, Options(0, 100, 0.95, 0.5, CLEAN))[0]
    got = said(event)
    ends = [fate_of(turns, event) for turns in got]
    assert [failed for failed, _ in ends] == [bool((row == 1).any()) for row in expected]
    assert all(failed or unknown for (failed, unknown), row in zip(ends, expected, strict=True) if np.isnan(row).any())
    assert any(unknown for _, unknown in ends) == bool(missing)
    assert {len(turns) for turns in got} == {1, 2, 3}
    for turns, all_turns in zip(got, whole, strict=True):  # as if it had gone on
        assert [turn.utterance for turn in turns] == [turn.utterance for turn in all_turns[: len(turns)]]


def test_after_an_unclean_utterance_nobody_is_asked_and_one_goes_on_from_a_clean_reply() -> None:
    defender = Counting()
    found = said(Event(Scores("first", 0.0), 0.5, CLEAN), replies=3, defender=defender)
    turns = [turn for own in found for turn in own]
    settled = [turn for turn in turns if turn.tox_utterance > CLEAN]
    assert 20 < len(settled) < len(turns) - 20
    assert all((turn.replies, turn.scores, turn.goes_on) == ((), (), None) for turn in settled)
    assert all(len(turn.replies) == 3 for turn in turns if turn.tox_utterance <= CLEAN)
    assert defender.heard == len(turns) - len(settled)
    going = {turn.scores[turn.goes_on] for turn in turns if turn.goes_on is not None}
    assert going == {0.05, CLEAN}
    numbers = [turn.goes_on for turn in turns if turn.scores and max(turn.scores) <= CLEAN]
    assert {numbers.count(number) > len(numbers) / 5 for number in range(3)} == {True}  # any of them


@pytest.mark.parametrize("replies", [1, 2])
def test_where_nothing_exceeds_the_limit_every_failure_is_clean(replies: int) -> None:
    scorer = Scores("first", 0.1)
    every, clean = (said(Event(scorer, 0.5, limit), replies=replies) for limit in (None, 1.0))
    assert [len(turns) for turns in every] != [TURNS] * ROWS
    for one, other in zip(every, clean, strict=True):
        known = [turn for turn in other if not math.isnan(turn.tox_utterance)]
        for turn, again in zip(one, known, strict=False):
            assert (turn.utterance, turn.replies, turn.goes_on) == (again.utterance, again.replies, again.goes_on)
            assert turn.scores == pytest.approx(again.scores, nan_ok=True)
        assert len(known) == len(one) or len(known) < len(other)  # an utterance without a score ends it


def test_where_every_utterance_is_unclean_nothing_is_asked_at_all() -> None:
    class Toxic(Nothing):
        def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
            assert texts
            return [1.0] * len(texts)

    defender = Counting()
    assert {len(turns) for turns in said(Event(Toxic(), 0.5, CLEAN), defender=defender)} == {1}
    assert defender.heard == 0
