"""Distinct failures by hand arithmetic, by enumeration, and on stand-ins with neutral words."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from astprompter.evaluation.distinct import distinct_failures, expected_kinds, jackknife, two_axes
from astprompter.evaluation.statistics import Options
from astprompter.evaluation.summarise import METRICS, Measured, clean_failures
from astprompter.rollout.distinct import Exchange, Failing, failing_in, greedy, own_words

OPTIONS = Options(0, 100, 0.95, 0.5, 0.2)


def test_copied_runs_are_taken_out() -> None:
    before = "The cat sat on the mat."
    assert own_words("Look, the cat sat on a chair", before) == "look , a chair"
    assert own_words("cat sat", before) == "cat sat"  # two words are no copy
    assert own_words("The cat sat", before) == ""
    assert own_words("", before) == ""


def test_greedy_joins_the_likest_representative() -> None:
    similar = np.array([[1, 0.2, 0.7, 0.9], [0.2, 1, 0.8, 0.1], [0.7, 0.8, 1, 0.1], [0.9, 0.1, 0.1, 1]], np.float32)
    assert greedy(similar, 0.7).tolist() == [0, 1, 1, 0]
    assert greedy(similar, 0.85).tolist() == [0, 1, 2, 0]
    assert greedy(similar[:0, :0], 0.7).tolist() == []


def test_a_member_represents_nobody() -> None:
    chain = np.array([[1, 0.7, 0.0], [0.7, 1, 0.7], [0.0, 0.7, 1]], np.float32)
    assert greedy(chain, 0.7).tolist() == [0, 0, 1]


def test_rarefaction_is_the_mean_over_all_draws() -> None:
    units = [{0}, {0, 1}, {1, 2}, set(), {3}]
    counts = [2, 2, 1, 1]
    for drawn in range(6):
        draws = [len(set().union(*chosen)) for chosen in combinations(units, drawn)]
        assert expected_kinds(counts, 5, drawn) == pytest.approx(sum(draws) / len(draws), abs=1e-12)
    with pytest.raises(ValueError, match="6 of 5"):
        expected_kinds(counts, 5, 6)


def test_jackknife_is_that_of_the_counts_without_one_group() -> None:
    groups = [{0, 1}, {1}, {2, 3, 4}, set()]
    without = [len(set().union(*(g for j, g in enumerate(groups) if j != i))) for i in range(4)]
    mean = sum(without) / 4
    assert jackknife(groups) == pytest.approx(math.sqrt(3 / 4 * sum((value - mean) ** 2 for value in without)))


def test_what_an_accumulated_turn_adds() -> None:
    turns = [
        Exchange(" red", "a", 0.9, 1.0),
        Exchange(" red blue", "b", 0.1, 1.0),
        Exchange(" red blue sky", "c", 0.8, 1.0),
    ]
    found = list(failing_in(0, 4, "Once.", turns, 0.5, accumulated=True))
    assert [(one.turn, one.before, one.utterance) for one in found] == [
        (0, "Once.", " red"),
        (2, "Once. red blue", " sky"),
    ]


def test_what_was_said_before_a_turn() -> None:
    turns = [Exchange(" red", "a", 0.1, 1.0), Exchange(" blue", "b", 0.9, math.nan)]
    (one,) = failing_in(1, 2, "Once.", turns, 0.5, accumulated=False)
    assert (one.seed, one.prefix, one.turn, one.before, one.utterance) == (1, 2, 1, "Once. red a", " blue")
    assert list(failing_in(0, 0, "", [Exchange("x", "", math.nan, 1.0)], 0.5, accumulated=False)) == []


class Colours:
    """One direction for each first word."""

    name = "colours"

    def vectors(self, texts: Any) -> Any:
        words = sorted({text.split()[0] if text else "" for text in texts})
        table = np.zeros((len(texts), 40), np.float32)
        for row, text in zip(table, texts, strict=True):
            row[words.index(text.split()[0] if text else "")] = 1
        return table


def failing(prefix: int, utterance: str, reply: str, *, turn: int = 0, nll: float = 1.0) -> Failing:
    return Failing(0, prefix, turn, "opening", utterance, reply, nll)


def test_failures_are_distinct_where_utterance_and_reply_are_new() -> None:
    once = [
        failing(0, "red", "apple"),
        failing(1, "red", "pear"),
        failing(2, "blue", "apple"),
        failing(3, "green", "fig"),
    ]
    many = [failing(prefix, "red", "apple", nll=2.0) for prefix in range(4)] + [
        failing(0, "grey", "plum", turn=1, nll=2.0)
    ]
    found = distinct_failures({"once": once, "many": many}, {"once": (1, 4), "many": (1, 4)}, OPTIONS, Colours())
    first, second = found.variety.adversaries["once"], found.variety.adversaries["many"]
    assert [at.distinct for at in first.at] == [2, 2, 2]  # red and apple are one, fig is another
    assert [at.distinct for at in second.at] == [2, 2, 2]
    assert (first.failures, second.failures, found.variety.matched_failures) == (4, 5, 4)
    assert found.variety.clusters == {"0.6": 3, "0.7": 3, "0.8": 3}
    assert [first.at[1].covered, second.at[1].covered] == [pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert first.at[1].among_matched == 2.0
    assert second.at[1].among_matched == pytest.approx(1 + 4 / 5)  # plum is among four of five failures with 4/5
    assert second.at[1].curve[-1] == 2.0
    assert found.clusters["once", 0, 0] == found.clusters["many", 3, 0] == 1
    assert found.clusters["many", 0, 1] == 3


def test_curve_and_interval_by_hand() -> None:
    rows = [failing(0, "red", "a"), failing(1, "red", "b"), failing(2, "blue", "c")]
    (at, *_) = distinct_failures({"x": rows}, {"x": (1, 10)}, OPTIONS, Colours()).variety.adversaries["x"].at
    assert at.curve[0] == pytest.approx(2 / 10 + 1 / 10)  # one conversation of ten
    assert at.curve[4] == pytest.approx(1 - (8 * 7 * 6 * 5 * 4) / (10 * 9 * 8 * 7 * 6) + 5 / 10)
    error = math.sqrt(9 / 10 * (0.9**2 + 9 * 0.1**2))  # blue is gone without its prefix, red never is
    assert at.ci == pytest.approx([2 - 1.959964 * error, 2 + 1.959964 * error], abs=1e-5)


def test_nobody_fails() -> None:
    found = distinct_failures({"x": [], "y": [failing(0, "red", "a")]}, {"x": (1, 3), "y": (1, 3)}, OPTIONS)
    none = found.variety.adversaries["x"]
    assert [at.distinct for at in none.at] == [0, 0, 0]
    assert none.at[1].ci == [0.0, 0.0] and none.vendi is None and none.at[1].covered == 0.0
    assert distinct_failures({"x": []}, {"x": (1, 3)}, OPTIONS).variety.clusters == {"0.6": 0, "0.7": 0, "0.8": 0}


def test_hashed_grams_tell_one_insult_from_many_words() -> None:
    same = [failing(i, "you silly goose you", "what a silly goose") for i in range(4)]
    unlike = [failing(0, "the garden is wide", "rain comes soon"), failing(1, "every kettle sings", "bread and butter")]
    found = distinct_failures({"same": same, "unlike": unlike}, {"same": (1, 4), "unlike": (1, 4)}, OPTIONS).variety
    assert [found.adversaries[name].at[1].distinct for name in ("same", "unlike")] == [1, 2]
    assert found.adversaries["same"].vendi == pytest.approx(1.0)
    assert found.adversaries["unlike"].vendi == pytest.approx(2.0, abs=0.05)


def test_principal_axes_keep_what_differs() -> None:
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((60, 2)) * [5, 2]
    turned, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    places = two_axes((plane @ turned[:2]).astype(np.float32))
    gaps = [np.linalg.norm(points[:, None] - points[None], axis=2) for points in (plane, places)]
    assert np.allclose(*gaps, atol=1e-4)
    assert np.array_equal(two_axes(np.ones((3, 5), np.float32)), np.zeros((3, 2)))
    assert two_axes(np.zeros((1, 4), np.float32)).tolist() == [[0.0, 0.0]]


def measured(utterance: Any, reply: Any, **more: Any) -> Measured:
    tables = {name: np.zeros((1, 1, len(reply))) for name in METRICS}
    tables |= {"tox_utterance": np.array([[utterance]]), "tox_reply": np.array([[reply]])}
    return Measured((0,), ("p",), tables, ({},), {}, **more)


@pytest.mark.parametrize(
    ("utterance", "reply", "failures", "unknown"),
    [
        ([0.1, 0.2, 0.2], [0.1, 0.2, 0.9], 1, 0),  # the limit itself is clean
        ([0.1, 0.3, 0.1], [0.9, 0.1, 0.9], 1, 0),  # turn 3 comes after an utterance that is not
        ([0.1, 0.1, 0.1], [0.9, 0.9, 0.9], 1, 0),  # a toxic reply is not clean either
        ([0.1, math.nan, 0.1], [0.1, 0.1, 0.9], 0, 1),
        ([0.9, math.nan, 0.1], [0.1, 0.1, 0.9], 0, 0),  # whatever the missing one is
        ([0.1, 0.1, 0.1], [math.nan, 0.1, 0.1], 0, 1),
    ],
)
def test_clean_failures(utterance: Any, reply: Any, failures: int, unknown: int) -> None:
    found = clean_failures(measured(utterance, reply), OPTIONS)
    assert (found.failures, found.unknown, found.limit) == (failures, unknown, 0.2)


def test_clean_under_every_scorer_and_alone_where_turns_accumulate() -> None:
    utterance, reply = [0.1, 0.1], [0.1, 0.9]
    most = (np.array([[[0.1, 0.4]]]), np.array([[[0.1, 0.9]]]))
    assert clean_failures(measured(utterance, reply, most=most), OPTIONS).failures == 0
    assert clean_failures(measured([0.9, 0.1], [0.9, 0.9]), OPTIONS).failures == 0
    assert clean_failures(measured([0.9, 0.1], [0.9, 0.9], accumulated=True), OPTIONS).failures == 1
