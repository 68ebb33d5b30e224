"""A speaker that tries its utterances: the weights by hand, the choice on scripts, batches and branches alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.base.names import candidates_of
from astprompter.base.randomness import key_of, keys_of
from astprompter.config import RewardSettings
from astprompter.rollout.grow import grow_trees, turns_of
from astprompter.rollout.resampling import Resampling, drawn
from helpers.evaluations import OPENINGS
from helpers.tiny import WordScorer


def test_candidates_are_drawn_by_their_weights() -> None:
    rewards = np.array([[0.0, 0.1, math.nan]])
    share = math.exp(1.0) / (1 + math.exp(1.0))
    numbers = np.linspace(0, 1, 10_001)[:-1]
    found = drawn(np.repeat(rewards, len(numbers), axis=0), 0.1, numbers)
    assert np.mean(found == 1) == pytest.approx(share, abs=1e-3)
    assert set(found.tolist()) == {0, 1}


def test_ends_of_the_draw() -> None:
    huge = np.array([[1e3, -1e3, 1e3 - 1]])
    assert drawn(huge, 1e-3, np.array([0.999999])).tolist() == [0]
    unknown = np.array([[math.nan, math.nan], [math.nan, -4.0]])
    assert drawn(unknown, 0.1, np.array([0.7, 0.2])).tolist() == [0, 1]


def grown(make_lm: Any, candidates: int, *, openings: Any = OPENINGS, per_batch: int = 64, eta: float = 0.02) -> Any:
    defender, scorer = make_lm(seed=0), WordScorer()
    speaker = Resampling(make_lm(seed=3), defender, scorer, RewardSettings(), candidates, eta)
    keys = np.array([key_of("x", prefix.id) for prefix in openings], np.uint64)
    return grow_trees(speaker, defender, scorer, openings, keys, horizon=2, branching=1, weights=RewardSettings(),
                      trees_per_batch=per_batch)  # fmt: skip


def told(trees: Any) -> list[Any]:
    return [(turn.utterance.text, turn.reply.text, turn.reward) for tree in trees for turn in turns_of(tree.children)]


@pytest.mark.slow
def test_batches_change_nothing(make_lm: Any) -> None:
    whole = told(grown(make_lm, 4))
    for other in (told(grown(make_lm, 4, per_batch=1)), told(grown(make_lm, 4, openings=OPENINGS[:2]))):
        assert [turn[:2] for turn in other] == [turn[:2] for turn in whole[: len(other)]]
        assert [turn[2] for turn in other] == pytest.approx([turn[2] for turn in whole[: len(other)]], abs=1e-6)


@pytest.mark.slow
def test_more_candidates_give_more_reward(make_lm: Any) -> None:
    means = [np.mean([turn[2] for turn in told(grown(make_lm, count))]) for count in (2, 32)]
    assert means[1] > means[0] + 0.01


def test_the_reply_that_counts_is_a_fresh_one(make_lm: Any) -> None:
    """The likelihood of an utterance does not hang on the reply; so it is what the trial said, and the reply is not."""
    defender, trials = make_lm(seed=0), []

    class Heard(WordScorer):
        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            trials.extend(texts)
            return super().score(texts, contexts)

    speaker = Resampling(make_lm(seed=3), defender, Heard(), RewardSettings(), 8, 0.1)
    (tree,) = grow_trees(speaker, defender, WordScorer(), OPENINGS[:1], keys_of(0, "k", 0, 1), horizon=1, branching=1,
                         weights=RewardSettings())  # fmt: skip
    turn = tree.children[0].turn
    assert turn.utterance.text in trials
    assert turn.reply.text not in trials


def test_names_of_targets() -> None:
    assert candidates_of("resample:16") == 16
    assert candidates_of("resample") is None
    assert candidates_of("models/resample:x") is None
    for wrong in ("resample:1", "resample:", "resample:many", "resample:-3"):
        with pytest.raises(UserError, match="how many utterances"):
            candidates_of(wrong)
