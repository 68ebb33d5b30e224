"""Pairs by hand: who is chosen, what a pair carries, and what gives none."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from astprompter.base.randomness import derive
from astprompter.base.records import ElicitingText, Node, PreferencePair, Prefix, RolloutTree, Speech, Turn
from astprompter.config import RewardSettings, RolloutSettings
from astprompter.rollout.pairs import (
    pairs_of_tree,
    ranked,
    split_eliciting,
    supervised_pairs,
    swap_per_pair,
    with_margins,
)
from helpers.tiny import PREFIXES, WordScorer, keys_for


def node(reward: float, ids: tuple[int, ...] | None, prompt: tuple[int, ...] | None = (1, 2)) -> Node:
    speech = Speech(f"says {ids}", ids, "v")
    return Node(Turn(speech, speech, 1.0, (-1.0,) * len(ids or ()), 0, 0, 0, reward), prompt)


def pairs(first: Node, second: Node, **options: Any) -> list[PreferencePair]:
    return pairs_of_tree(RolloutTree(Prefix("p", "x"), [first, second]), **options)


def test_the_higher_reward_is_chosen_whichever_comes_first() -> None:
    low, high = node(0.25, (7,)), node(0.5, (9, 8))
    assert ranked(low, high) == ranked(high, low) == (high, low)
    assert ranked(low, high, 0.25) == (high, low)  # the least margin is enough
    assert ranked(low, high, 0.26) is None
    assert ranked(node(0.5, (7,)), node(0.5, (9,))) is None


def test_what_a_pair_carries() -> None:
    assert pairs(node(0.5, (9, 8)), node(0.25, (7,))) == [
        PreferencePair((1, 2), (9, 8), (7,), 0.25, "on_policy", 0, "says (9, 8)", "says (7,)")
    ]
    (free,) = pairs(node(0.25, (7,)), node(0.5, (9, 8)), free_reference=True)
    assert (free.ref_chosen_logp, free.ref_rejected_logp) == (-2.0, -1.0)


def test_without_tokens_there_is_no_pair() -> None:
    assert pairs(node(0.5, (9,), None), node(0.25, (7,), None)) == []
    assert pairs(node(0.5, None), node(0.25, (7,))) == []
    assert pairs(node(0.5, (9,)), node(0.25, None)) == []
    assert pairs(node(0.5, (9,)), node(0.25, ())) == []


@pytest.mark.parametrize(("count", "cuts"), [(2, {1}), (3, {1, 2}), (4, {1, 2, 3}), (5, {2, 3}), (8, set(range(2, 7)))])
def test_the_cuts_of_short_texts(count: int, cuts: set[int]) -> None:
    rng = np.random.default_rng(0)
    assert {len(split_eliciting(range(count), rng)[0]) for _ in range(200)} == cuts


def test_a_text_of_one_token_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"^an eliciting text needs at least two tokens$"):
        split_eliciting([4], np.random.default_rng(0))


class Parrot:
    """An adversary whose tokens are letters and that always continues with the same text."""

    def __init__(self, says: str, *, budget: int = 100) -> None:
        self.says, self.budget = says, budget
        self.waves: list[int] = []

    def encode_prefix(self, text: str, *, turns: int) -> tuple[int, ...]:
        return tuple(map(ord, text[-(self.budget // turns) :]))

    def prompt_of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return (0, *ids)

    def decode(self, ids: tuple[int, ...]) -> str:
        return "".join(map(chr, ids))

    def start_ids(self, prompts: list[tuple[int, ...]]) -> Any:
        self.waves.append(len(prompts))
        return self

    def speak(self, keys: Any) -> list[Speech]:
        return [Speech(self.says, tuple(map(ord, self.says)), "v") for _ in keys]


def supervised(
    adversary: Any, *words: str, trees_per_batch: int = 512, keys: int | None = None
) -> list[PreferencePair]:
    numbers = np.arange(len(words) if keys is None else keys, dtype=np.uint64)
    return supervised_pairs(
        adversary, [ElicitingText(w) for w in words], numbers, np.random.default_rng(0), trees_per_batch=trees_per_batch
    )


def test_a_supervised_pair_by_hand() -> None:
    (pair,) = supervised(Parrot("zz"), "ab")
    assert pair.prompt_ids == (0, ord("a"))
    assert (pair.chosen_ids, pair.rejected_ids) == ((ord("b"),), (ord("z"), ord("z")))
    assert (pair.chosen_text, pair.rejected_text, pair.source, pair.depth) == ("b", "zz", "supervised", -1)
    assert math.isnan(pair.margin)
    assert (pair.ref_chosen_logp, pair.ref_rejected_logp) == (None, None)


def test_texts_that_give_no_supervised_pair() -> None:
    assert supervised(Parrot("z"), "a") == []
    assert supervised(Parrot("b"), "ab") == []  # its own continuation is the true one
    assert supervised(Parrot(""), "ab") == []
    assert len(supervised(Parrot("z"), "a", "ab", "abc")) == 2


def test_supervised_texts_may_fill_one_turn_and_go_in_waves() -> None:
    adversary = Parrot("z", budget=12)
    (pair,) = supervised(adversary, "abcdefghijklmnopqrst")
    assert len(pair.prompt_ids) - 1 + len(pair.chosen_ids) == 12
    adversary = Parrot("z")
    assert len(supervised(adversary, *["ab"] * 5, trees_per_batch=2)) == 5
    assert adversary.waves == [2, 2, 1]
    with pytest.raises(ValueError, match="shorter"):
        supervised(adversary, "ab", "cd", keys=1)


def test_a_mask_of_another_length_is_refused() -> None:
    (pair,) = pairs(node(0.5, (9, 8)), node(0.25, (7,)))
    with pytest.raises(ValueError, match="shorter"):
        swap_per_pair([pair, pair], iter([]), [True])
    assert swap_per_pair([pair, pair], iter([]), [True, False]) == [pair, pair]


def test_the_weights_are_those_of_the_settings() -> None:
    weights = RewardSettings(alpha=2.0, beta=3.0, **{"lambda": 4.0})
    assert weights == RewardSettings(alpha=2.0, beta=3.0, lambda_=4.0)
    assert weights.terms(tox_reply=0.5, tox_turn=0.25, nll=2.0) == (1.0, 0.75, -8.0)
    default = RewardSettings()
    assert (default.alpha, default.beta, default.lambda_) == (1.0, 0.5, 0.1)


def test_scores_on_a_logarithmic_scale_by_hand() -> None:
    weights = RewardSettings(alpha=2.0, beta=1.0, delta=0.5, log_floor=0.001, **{"lambda": 0.1})
    # 1 − log10 R / −3: a thousandth is 0, a hundredth a third, a tenth two thirds, 1 is 1.
    terms = weights.terms(tox_reply=0.01, tox_turn=0.1, nll=2.0, tox_utterance=1.0)
    assert terms == pytest.approx((2 / 3, 2 / 3, -0.2, -0.5))
    assert weights.scaled(0.2) - weights.scaled(0.02) == pytest.approx(weights.scaled(0.02) - weights.scaled(0.002))
    assert [weights.scaled(score) for score in (0.0, 1e-9, 0.001)] == [0, 0, 0]  # bounded below, as above
    assert math.isnan(weights.reward(tox_reply=math.nan, tox_turn=0.5, nll=1.0))
    assert RewardSettings().scaled(0.02) == 0.02


def test_an_utterance_that_must_be_longer_than_it_may_be_is_as_long_as_it_may_be() -> None:
    assert RolloutSettings(max_new_tokens=4, min_new_tokens=9).min_new_tokens == 4
    assert RolloutSettings(max_new_tokens=1).min_new_tokens == 1
    assert RolloutSettings(min_new_tokens=9).changed(max_new_tokens=5).min_new_tokens == 5


@pytest.mark.parametrize(
    ("reply", "pairs_made"),
    [
        (Speech(" y"), 1),
        (Speech(" no", kind="refused"), 1),
        (Speech(" "), 0),
        *((Speech("", error="x", kind=kind), 0) for kind in ("blocked", "cut", "tool_call", "failed")),
    ],
)
def test_only_answers_and_refusals_make_pairs(reply: Speech, pairs_made: int) -> None:
    """Whatever the rewards are; and without a reward there is none."""
    better, worse = node(0.5, (9, 8)), node(0.25, (7,))
    better.turn = dataclasses.replace(better.turn, reply=reply)
    assert len(pairs(better, worse)) == len(pairs(worse, better)) == pairs_made
    assert pairs(node(math.nan, (9,)), worse) == []


def test_ties_and_other_rewards_where_the_margin_is_learnt() -> None:
    first, second = node(0.5, (3,)), node(0.5, (4,))
    assert pairs(first, second) == []
    (tie,) = pairs(first, second, ties=True)
    assert (tie.chosen_ids, tie.margin) == ((3,), 0.0)
    other = {id(first): 0.1, id(second): 0.4}
    (pair,) = pairs(first, second, reward=lambda one: other[id(one)])
    assert (pair.chosen_ids, pair.rejected_ids) == ((4,), (3,))
    assert pair.margin == pytest.approx(0.3)


def test_supervised_pairs_get_the_margin_that_the_reward_gives_them(make_lm: Any) -> None:
    lm, defender, scorer, weights = make_lm(seed=3), make_lm(seed=0), WordScorer(), RewardSettings()
    texts = [ElicitingText(text) for text in PREFIXES[:4]]
    made = supervised_pairs(lm, texts, keys_for(4), np.random.default_rng(0))
    keys = keys_for(len(made))
    scored = with_margins(made, lm, defender, scorer, weights, keys, pairs_per_batch=3)
    assert len(scored) == len(made) > 2
    for pair, key in zip(scored, keys, strict=True):
        sides = []
        for number, ids in enumerate((pair.chosen_ids, pair.rejected_ids)):
            session, text = defender.start([lm.decode(pair.prompt_ids)], turns=1), lm.decode(ids)
            ((*logprobs,),) = session.hear([Speech(text, ids, lm.vocabulary)], likelihood=True)
            (reply,) = session.speak(derive(np.array([key]), number))
            tox = scorer.score([reply.text, text + reply.text])
            sides.append(weights.reward(tox_reply=tox[0], tox_turn=tox[1], nll=-sum(logprobs) / len(logprobs)))
        assert pair.margin == pytest.approx(sides[0] - sides[1], abs=1e-5)


def test_pairs_whose_reward_is_not_known_are_left_out(make_lm: Any) -> None:
    class Silent(WordScorer):
        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [math.nan for _ in texts]

    lm = make_lm(seed=3)
    made = supervised_pairs(lm, [ElicitingText(PREFIXES[0])], keys_for(1), np.random.default_rng(0))
    assert with_margins(made, lm, make_lm(seed=0), Silent(), RewardSettings(), keys_for(len(made))) == []
