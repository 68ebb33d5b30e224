"""Diversity against worked values and the field's own tools; strategies against neutral stand-ins."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest

from astprompter.base.vectors import hashed_vectors, words_of
from astprompter.evaluation import themes
from astprompter.evaluation.themes import STRATEGIES, compile_lexicon, count_strategies, strategy_of
from astprompter.rollout.diversity import MOST_FOR_VENDI, distinct, diversity, self_bleu, vendi
from astprompter.runs.schema.results import FailureRow
from helpers.report_runs import failure
from helpers.tiny import SENTENCES


def babble(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    return [" ".join(rng.choice(words, rng.integers(1, 13))) for _ in range(count)]


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    assert words_of("Don't go, Öl!") == ["don", "'", "t", "go", ",", "öl", "!"]


def test_distinct_by_hand() -> None:
    rows = [["a", "b", "a", "b"], ["a", "b"]]
    assert distinct(rows, 1) == 2 / 6
    assert distinct(rows, 2) == 2 / 4  # ab, ba, ab, ab
    assert distinct(rows, 3) == 1.0
    assert distinct(rows, 5) is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_is_that_of_sacrebleu(seed: int) -> None:
    from sacrebleu.metrics import BLEU

    rows = [words_of(text) for text in babble(25, seed)]
    rows += [rows[0], [*rows[1], "garden"], ["unheard", "of"]]
    texts = [" ".join(row) for row in rows]
    metric = BLEU(tokenize="none", smooth_method="exp", effective_order=True)
    scores = [metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score / 100 for i, text in enumerate(texts)]
    assert self_bleu(rows) == pytest.approx(sum(scores) / len(scores), abs=1e-9)


def test_self_bleu_ends() -> None:
    assert self_bleu([["a", "b", "c", "d"]] * 3) == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0.0
    assert self_bleu([["a"], []]) is None


@pytest.mark.slow
def test_vendi_is_that_of_vendi_score(monkeypatch: pytest.MonkeyPatch) -> None:
    normalising = types.ModuleType("sklearn")  # takes seconds to load; every row here has length 1 already
    normalising.preprocessing = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", normalising)
    from vendi_score import vendi as peer

    rng = np.random.default_rng(0)
    for shape in ((12, 5), (5, 12), (30, 30)):
        table = rng.random(shape)
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        assert vendi(table) == pytest.approx(peer.score_dual(table, normalize=False), rel=1e-6)
    vectors = hashed_vectors(babble(20))
    used = vectors[:, vectors.any(axis=0)]  # the others are zero and change nothing but the time that this takes
    assert vendi(vectors) == pytest.approx(peer.score_dual(used, normalize=False), rel=1e-6)


def test_vendi_counts_different_texts() -> None:
    assert vendi(np.eye(7)) == pytest.approx(7.0)
    assert vendi(hashed_vectors(["the same words"] * 9)) == pytest.approx(1.0)
    two = vendi(hashed_vectors(["all quiet", "12345 67890"] * 5))
    assert two == pytest.approx(2.0, abs=0.01)
    assert vendi(np.empty((0, 3))) is None


def test_hashed_vectors_are_unit_and_tell_likeness() -> None:
    same, near, far, blank = hashed_vectors(["The garden is lovely", "the  garden is lovely.", "9876 54321", "  "])
    assert [float(v @ v) for v in (same, near, far, blank)] == pytest.approx([1.0] * 4)
    assert same @ near > 0.8
    assert same @ far < 0.1


def test_a_collapsed_adversary_shows() -> None:
    varied, collapsed = diversity(babble(60), seed=0), diversity([SENTENCES[0]] * 60, seed=0)
    assert collapsed["distinct_utterances"] == 1 / 60
    for name in ("distinct_1", "distinct_2", "distinct_3", "distinct_utterances", "vendi"):
        assert varied[name] > 5 * collapsed[name]  # type: ignore[operator]
    assert varied["self_bleu"] < 0.9 < collapsed["self_bleu"]  # type: ignore[operator]
    assert all(value is None for value in diversity([], seed=0).values())


@pytest.mark.slow
def test_vendi_draws_by_seed_where_there_are_many() -> None:
    texts = [f"{i * 7919 % 100_003} {word}" for i, word in enumerate(babble(MOST_FOR_VENDI + 40))]
    values = [diversity(texts, seed=seed)["vendi"] for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    assert values[0] is not None
    assert values[0] < MOST_FOR_VENDI


def test_lexicon_entries_are_whole_words_or_beginnings() -> None:
    pattern = compile_lexicon(["pear", "apple*", "new york"])
    assert pattern.findall("Pears, a PEAR, apples and applesauce in New York; pineapple") == [
        "PEAR", "apples", "applesauce", "New York",
    ]  # fmt: skip


def test_strategy_is_the_one_with_most_words(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {"threat": ["one"], "sexual": ["two"], "politics": ["three*"], "insult": ["four"], "profanity": ["five"]}
    patterns = {name: compile_lexicon(words) for name, words in lists.items()}
    monkeypatch.setattr(themes, "_patterns", lambda: patterns)
    assert strategy_of("two five five") == "profanity"
    assert strategy_of("five two") == "sexual"  # a tie: the more telling first
    assert strategy_of("threefold") == "politics"
    assert strategy_of("nothing of the kind") == "other"
    rows = [FailureRow.of(failure(name, 0) | {"strategy": how}) for name, how in (("a", "other"), ("b", "threat"))]
    assert count_strategies(rows, "b") == {name: int(name == "threat") for name in STRATEGIES}


def test_embedded_lexicon_knows_politics_and_leaves_small_talk_alone() -> None:
    assert strategy_of(" What do you think about the election and the senate?") == "politics"
    assert {strategy_of(text) for text in SENTENCES} == {"other"}
    innocent = (
        "Virginia, Pakistan, spices, warm stable punchlines, a pedometer, therapist, cockpit, class, hello, Scunthorpe"
    )
    assert strategy_of(innocent) == "other"


@pytest.mark.slow
def test_evaluation_reports_both(make_lm: object) -> None:
    from helpers.evaluations import run

    result = run(make_lm)
    for name, row in result.summary.adversaries.items():
        mine = [failure for failure in result.failures() if failure.adversary == name]
        assert sum(row.strategies.values()) == len(mine)
        assert {failure.strategy for failure in mine} <= set(STRATEGIES)
        said = [turn.utterance.text for path in result.trajectories[name] for turn in path.turns]
        assert row.diversity == diversity(said, seed=0)
        assert 1.0 <= row.diversity["vendi"] <= len(said) + 1e-9
        assert math.isfinite(row.diversity["self_bleu"])
