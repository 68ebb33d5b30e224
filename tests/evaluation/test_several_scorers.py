"""Several scorers at once: agreement by worked arithmetic, and what an evaluation reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.data import Dialogue
from astprompter.evaluation.agreement import cohen_kappa, midranks, roc_auc, spearman
from astprompter.evaluation.evaluate import measure
from astprompter.evaluation.scorers import compare_scorers
from astprompter.models.local.replay import Replay
from astprompter.scorers.words import WordScorer as OneWord
from helpers.files import read_rows
from helpers.tiny import PREFIXES, WordScorer

OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]


def test_kappa_by_hand() -> None:
    first = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    second = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    # observed 8/10; chance 0.3·0.3 + 0.7·0.7 = 0.58
    assert cohen_kappa(first, second) == pytest.approx((0.8 - 0.58) / (1 - 0.58))
    assert cohen_kappa(first, first) == 1.0
    assert cohen_kappa(first[:2], ~first[:2]) == 0.0
    assert math.isnan(cohen_kappa(first[:0], first[:0]))
    assert math.isnan(cohen_kappa(first[:3], first[:3]))  # all the same verdict


def test_auc_by_hand_and_by_another_implementation() -> None:
    from scipy import stats

    scores, marks = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    assert roc_auc(scores, marks) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert math.isnan(roc_auc(scores, marks | True))
    rng = np.random.default_rng(0)
    values, wanted = rng.integers(0, 10, 200) / 10, rng.random(200) > 0.6
    u = stats.mannwhitneyu(values[wanted], values[~wanted]).statistic
    assert roc_auc(values, wanted) == pytest.approx(u / (wanted.sum() * (~wanted).sum()))


def test_rank_correlation_by_another_implementation() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    a = rng.integers(0, 8, 150) / 8
    b = a + rng.normal(size=150).round(1)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert midranks(a) == pytest.approx(stats.rankdata(a))
    assert math.isnan(spearman(a, np.zeros(150)))
    assert math.isnan(spearman(a[:1], b[:1]))


class Opposite(WordScorer):
    """Calls toxic what the other calls harmless; has no score for one letter."""

    name = "opposite"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        values = zip(texts, super().score(texts), strict=True)
        return [math.nan if "t" in text else 1 - value for text, value in values]


def run(make_lm: Any, others: Any) -> Any:
    settings = settings_from({"rollout": {"horizon": 2}, "evaluation": {"resamples": 100}})
    adversaries = {"untuned": make_lm(seed=0), "tuned": make_lm(seed=3)}
    return measure(adversaries, make_lm(seed=0), WordScorer(), OPENINGS, settings, others=others)


@pytest.mark.slow
def test_every_turn_has_every_scorers_values(make_lm: Any, tmp_path: Path) -> None:
    from scipy import stats

    result = run(make_lm, [Opposite(), OneWord("banana")])
    result.write(tmp_path)  # strict JSON: a nan would raise
    summary = json.loads((tmp_path / "summary.json").read_text())
    section = summary["scorers"]
    assert section["names"] == ["letter e", "opposite", "word:banana"]
    assert section["drives_reward"] == "letter e"
    rows = read_rows(tmp_path / "trajectories.jsonl")
    for row in rows:
        for turn in row["turns"]:
            assert set(turn["scores"]) == set(section["names"])
            for name in ("tox_reply", "tox_turn", "tox_utterance"):
                own, other = turn["scores"]["letter e"][name], turn["scores"]["opposite"][name]
                assert own == turn[name]
                text = {"tox_reply": turn["reply"], "tox_utterance": turn["utterance"],
                        "tox_turn": turn["utterance"] + turn["reply"]}[name]  # fmt: skip
                assert other == (None if "t" in text else pytest.approx(1 - own if text.strip() else 1.0))
    tuned = section["adversaries"]["tuned"]
    values = [t["scores"]["opposite"]["tox_reply"] for r in rows if r["adversary"] == "tuned" for t in r["turns"]]
    known = [value for value in values if value is not None]
    assert tuned["opposite"]["tox_reply"]["mean"] == pytest.approx(sum(known) / len(known))
    assert tuned["opposite"]["tox_reply"]["errors"] == len(values) - len(known) > 0
    assert tuned["letter e"]["tox_reply"]["mean"] == summary["adversaries"]["tuned"]["tox_reply"]["mean"]
    (pair,) = [x for x in section["agreement"] if (x["b"], x["score"], x["a"]) == ("opposite", "tox_reply", "letter e")]
    both = [(t["tox_reply"], t["scores"]["opposite"]["tox_reply"]) for r in rows for t in r["turns"]]
    both = [(a, b) for a, b in both if b is not None]
    assert pair["texts"] == len(both)
    assert pair["spearman"] == pytest.approx(stats.spearmanr(*zip(*both, strict=True)).statistic)
    assert len(section["agreement"]) == 3 * 3


class InContext(WordScorer):
    """A score that only who is shown the whole conversation can give."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return super().score(["".join((*context, text)) for text, context in zip(texts, contexts, strict=True)])


def test_further_scorers_are_shown_the_same_conversations_as_the_first(make_lm: Any, tmp_path: Path) -> None:
    settings = settings_from({"rollout": {"horizon": 2}, "evaluation": {"resamples": 100}})
    human = Replay([Dialogue("d", ("Well then.", "And so on?"))], name="human", seed=0)
    adversaries = {"tuned": make_lm(seed=3), "human": human}
    result = measure(adversaries, make_lm(), InContext("a"), OPENINGS, settings, others=[InContext("b")])
    result.write(tmp_path)
    for row in read_rows(tmp_path / "trajectories.jsonl"):
        assert row["accumulated"] == (row["adversary"] == "human")
        for turn in row["turns"]:
            assert turn["scores"]["a"] == turn["scores"]["b"]


@pytest.mark.slow
def test_one_scorer_leaves_the_files_as_they_were(make_lm: Any, tmp_path: Path) -> None:
    result = run(make_lm, [])
    result.write(tmp_path)
    assert "scorers" not in json.loads((tmp_path / "summary.json").read_text())
    assert "scores" not in read_rows(tmp_path / "trajectories.jsonl")[0]["turns"][0]


def test_a_scorer_named_twice_is_refused(make_lm: Any) -> None:
    with pytest.raises(UserError, match="scorer 'letter e' is named twice"):
        run(make_lm, [WordScorer()])


def table(*values: float) -> dict[str, Any]:
    """Of every score, one turn for each prefix."""
    return dict.fromkeys(("tox_reply", "tox_turn", "tox_utterance"), np.array(values)[:, None])


def test_the_order_of_adversaries_under_each_scorer() -> None:
    settings = settings_from({"evaluation": {"resamples": 100}})
    scores = {
        "one": {"a": table(0.9, 0.9), "b": table(0.9, 0.1), "c": table(0.1, 0.1)},
        "two": {"a": table(0.9, 0.1), "b": table(0.9, 0.9), "c": table(0.1, 0.1)},
        "tied": {"a": table(0.1, 0.1), "b": table(0.1, 0.1), "c": table(0.1, math.nan)},
    }
    ranking = compare_scorers(scores, "one", settings).ranking
    assert ranking.orders == {"one": ["a", "b", "c"], "two": ["b", "a", "c"], "tied": ["a", "b", "c"]}
    assert ranking.changes is True
    assert [reversal.plain() for reversal in ranking.reversals] == [
        {"a": "a", "b": "b", "a_above_b": ["one"], "b_above_a": ["two"]}
    ]
    calm = compare_scorers({"one": scores["one"], "tied": scores["tied"]}, "one", settings).ranking
    assert (calm.changes, calm.reversals) == (False, [])
