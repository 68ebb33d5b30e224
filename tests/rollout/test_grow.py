from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from astprompter.base.records import ElicitingText, Node, Prefix, RolloutTree, Speech, Turn
from astprompter.config import RewardSettings
from astprompter.rollout.grow import grow_trees, trajectory_of, turns_of
from astprompter.rollout.pairs import pairs_of_tree, split_eliciting, supervised_pairs, swap_per_pair
from astprompter.rollout.reward import assess, mean_nll, with_trials
from helpers.tiny import PREFIXES, WordScorer, keys_for

WEIGHTS = RewardSettings()
OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]


def trees(lm: Any, defender: Any, openings: Any = OPENINGS, **options: Any) -> list[RolloutTree]:
    defaults = {"horizon": 3, "branching": 2, "weights": WEIGHTS}
    return grow_trees(lm, defender, WordScorer(), openings, keys_for(len(openings)), **{**defaults, **options})


def test_reward_by_hand() -> None:
    weights = RewardSettings(alpha=2.0, beta=0.5, lambda_=0.1)
    assert weights.reward(tox_reply=0.25, tox_turn=0.5, nll=3.0) == pytest.approx(2 * 0.25 + 0.5 * 0.5 - 0.3)
    assert weights.terms(tox_reply=0.25, tox_turn=0.5, nll=3.0) == pytest.approx((0.5, 0.25, -0.3))
    assert mean_nll((-1.0, -2.0, -6.0)) == 3.0
    assert math.isnan(mean_nll(()))


def test_trees_are_full_and_every_number_can_be_recomputed(make_lm: Any) -> None:
    lm, defender = make_lm(), make_lm(seed=1)
    grown = trees(lm, defender)
    for tree in grown:
        turns = list(turns_of(tree.children))
        assert len(turns) == 2 + 4 + 8
        for turn in turns:
            a, y = turn.utterance.text, turn.reply.text
            assert (turn.tox_utterance, turn.tox_reply, turn.tox_turn) == tuple(WordScorer().score([a, y, a + y]))
            assert turn.reward == pytest.approx(turn.tox_reply + 0.5 * turn.tox_turn - 0.1 * turn.nll)
            assert len(turn.token_logprobs) == len(turn.utterance.token_ids or ())


class Listening(WordScorer):
    """Notes what was said before each text."""

    def __init__(self) -> None:
        self.heard: dict[str, set[tuple[str, ...]]] = {}

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        for text, context in zip(texts, contexts, strict=True):
            self.heard.setdefault(text, set()).add(context)
        return super().score(texts)


def test_a_scorer_is_told_what_was_said_before_each_text(make_lm: Any) -> None:
    scorer, openings = Listening(), OPENINGS[:2]
    grown = grow_trees(
        make_lm(), make_lm(seed=1), scorer, openings, keys_for(2), horizon=2, branching=2, weights=WEIGHTS
    )
    for tree in grown:
        for child in tree.children:
            said: tuple[str, ...] = (tree.prefix.text,)
            for turn in (child.turn, child.children[1].turn):
                a, y = turn.utterance.text, turn.reply.text
                assert said in scorer.heard[a] & scorer.heard[a + y]
                assert (*said, a) in scorer.heard[y]
                said = (*said, a, y)


def test_prompts_are_the_text_so_far(make_lm: Any) -> None:
    lm = make_lm()
    tree = trees(lm, make_lm(seed=1), OPENINGS[:1])[0]
    root = lm.encode_prefix(OPENINGS[0].text, turns=3)
    first = tree.children[1]
    assert first.prompt_ids == tree.children[0].prompt_ids == root
    below = first.children[0]
    assert below.prompt_ids == (*root, *first.turn.utterance.token_ids, *first.turn.reply.token_ids)


@pytest.mark.slow
def test_waves_and_batch_mates_change_nothing(make_lm: Any) -> None:
    lm, defender = make_lm("llama"), make_lm("llama", seed=1)
    together, waves = trees(lm, defender), trees(lm, defender, trees_per_batch=3)

    def texts(grown: list[RolloutTree]) -> list[tuple[str, str]]:
        return [(t.utterance.text, t.reply.text) for tree in grown for t in turns_of(tree.children)]

    assert texts(together) == texts(waves)
    for a, b in zip(together, waves, strict=True):
        for x, y in zip(turns_of(a.children), turns_of(b.children), strict=True):
            assert x.nll == pytest.approx(y.nll, abs=1e-4)


def test_the_two_samples_of_a_node_are_independent(make_lm: Any) -> None:
    grown = trees(make_lm(), make_lm(seed=1))
    assert all(t.children[0].turn.utterance != t.children[1].turn.utterance for t in grown)


def test_branching_one_is_a_trajectory(make_lm: Any) -> None:
    paths = [trajectory_of(tree) for tree in trees(make_lm(), make_lm(seed=1), horizon=3, branching=1)]
    assert [len(path.turns) for path in paths] == [3] * len(OPENINGS)
    assert [path.prefix for path in paths] == OPENINGS


@pytest.mark.slow
def test_different_tokenizers_work_on_the_two_sides(make_lm: Any) -> None:
    from helpers.tiny import make_tokenizer

    grown = trees(make_lm(), make_lm("neox", tokenizer=make_tokenizer(280)))
    turns = [turn for tree in grown for turn in turns_of(tree.children)]
    assert [turn.error for turn in turns if turn.error is not None] in ([], ["empty utterance"])
    assert sum(len(pairs_of_tree(tree)) for tree in grown) > 0


class Fixed:
    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.name = scores, "fixed"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [self.scores.get(text, 0.0) for text in texts]


def test_what_is_not_finite_is_an_error_turn_never_a_number() -> None:
    good, empty, silent = Speech(" a"), Speech(""), Speech(" b")
    turns = assess(
        [good, empty, silent, Speech(" c"), Speech(" d")],
        [Speech(" y")] * 5,
        [(-1.0,), (), (), (-1.0,), (-math.inf,)],
        Fixed({" c": math.nan}),
        WEIGHTS,
    )
    assert [turn.error is None for turn in turns] == [True, False, False, False, False]
    assert [turn.error for turn in turns[1:]] == [
        "empty utterance",
        "no likelihood: the utterance does not fit in the defender's context",
        "score is not finite",
        "log-likelihood is not finite",
    ]
    assert [math.isfinite(turn.reward) for turn in turns] == [True, False, False, True, False]  # it needs no R_φ(a)
    # What is missing is missing by itself: all five replies have their score.
    assert [math.isfinite(turn.tox_reply) for turn in turns] == [True] * 5
    assert [math.isfinite(turn.tox_utterance) for turn in turns] == [True, False, True, False, True]
    assert [math.isfinite(turn.nll) for turn in turns] == [True, False, False, True, False]


def node(reward: float, ids: tuple[int, ...], *, error: str | None = None, children: Any = ()) -> Node:
    speech = Speech(str(ids), ids, "v")
    return Node(Turn(speech, speech, 1.0, (-1.0,) * len(ids), 0, 0, 0, reward, error), (1, 2), list(children))


def test_pairs_rank_by_reward_and_skip_ties_margins_twins_and_errors() -> None:
    def pairs(first: Node, second: Node, **options: Any) -> Any:
        return pairs_of_tree(RolloutTree(OPENINGS[0], [first, second]), **options)

    (pair,) = pairs(node(0.1, (7, 8)), node(0.4, (9,)))
    assert (pair.chosen_ids, pair.rejected_ids, pair.prompt_ids) == ((9,), (7, 8), (1, 2))
    assert pair.margin == pytest.approx(0.3)
    assert pair.ref_chosen_logp is None
    (free,) = pairs(node(0.1, (7, 8)), node(0.4, (9,)), free_reference=True)
    assert (free.ref_chosen_logp, free.ref_rejected_logp) == (-1.0, -2.0)
    assert pairs(node(0.4, (7,)), node(0.4, (9,))) == []
    assert pairs(node(0.41, (7,)), node(0.4, (9,)), min_margin=0.05) == []
    assert pairs(node(0.1, (9,)), node(0.4, (9,))) == []
    assert pairs(node(math.nan, (7,), error="x"), node(0.4, (9,))) == []
    below = [node(0.0, (3,)), node(1.0, (4,))]
    tied = pairs(node(0.4, (7,), children=below), node(0.4, (9,)))
    assert [(p.depth, p.chosen_ids) for p in tied] == [(1, (4,))]  # a tie still grows


def test_free_reference_is_the_reference_forward(make_lm: Any) -> None:
    from astprompter.training.packing import pack, sequence_logps, sequences_of

    lm, defender = make_lm(), make_lm()
    pairs = [p for tree in trees(lm, defender) for p in pairs_of_tree(tree, free_reference=True)]
    logps = sequence_logps(defender, pack(sequences_of(pairs))).view(-1, 2).tolist()
    for pair, (chosen, rejected) in zip(pairs, logps, strict=True):
        assert pair.ref_chosen_logp == pytest.approx(chosen, abs=1e-4)
        assert pair.ref_rejected_logp == pytest.approx(rejected, abs=1e-4)


def test_eliciting_texts_split_uniformly_in_their_middle_half() -> None:
    rng, counts = np.random.default_rng(0), dict.fromkeys(range(1, 20), 0)
    for _ in range(4000):
        first, second = split_eliciting(range(20), rng)
        assert (*first, *second) == tuple(range(20))
        counts[len(first)] += 1
    used = [cut for cut, count in counts.items() if count]
    assert used == list(range(5, 16))
    assert max(counts.values()) < 1.35 * min(counts[cut] for cut in used)
    assert split_eliciting([4, 5], rng) == ((4,), (5,))
    with pytest.raises(ValueError, match="two tokens"):
        split_eliciting([4], rng)


def test_supervised_pairs_keep_the_true_continuation(make_lm: Any) -> None:
    lm = make_lm()
    texts = [ElicitingText(p.text) for p in OPENINGS] + [ElicitingText("a")]
    pairs = supervised_pairs(lm, texts, keys_for(len(texts)), np.random.default_rng(0))
    assert len(pairs) == len(OPENINGS)
    for pair, opening in zip(pairs, OPENINGS, strict=True):
        assert lm.decode((*pair.prompt_ids, *pair.chosen_ids)) == opening.text
        assert pair.source == "supervised"
        assert math.isnan(pair.margin)
        assert 2 <= len(pair.rejected_ids) <= 6


def test_swapping_is_per_pair() -> None:
    a, b = object(), object()
    supervised = iter([b])
    assert swap_per_pair([a, a, a], supervised, [False, True, True]) == [a, b, a]  # type: ignore[list-item,arg-type]


@pytest.mark.slow
def test_a_reward_of_several_replies_is_their_mean(make_lm: Any) -> None:
    """The conversation goes on from the first reply, and its scores stay the turn's; only the reward is of all."""

    class Numbered:
        name = "numbered"

        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [sum(map(ord, text)) % 97 / 97 for text in texts]

    keys, weights = keys_for(len(OPENINGS)), RewardSettings()
    pair, scorer = (make_lm(seed=3), make_lm(seed=0)), Numbered()
    one, many = (
        grow_trees(*pair, scorer, OPENINGS, keys, horizon=2, branching=2, weights=weights, replies=count)
        for count in (1, 16)
    )
    turns = [list(turns_of([node for tree in trees for node in tree.children])) for trees in (one, many)]
    assert [(t.utterance.text, t.reply.text, t.tox_reply) for t in turns[0]] == [
        (t.utterance.text, t.reply.text, t.tox_reply) for t in turns[1]
    ]
    means = [weights.reward(tox_reply=0.5, tox_turn=0.5, nll=turn.nll) for turn in turns[1]]
    off = [[abs(turn.reward - mean) for turn, mean in zip(own, means, strict=True)] for own in turns]
    assert max(off[1]) < max(off[0]) / 2  # sixteen draws are nearer their mean than one
    assert turns[0][0].reward != turns[1][0].reward


class Table:
    """Scores that were written down."""

    name = "table"

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [self.scores[text] for text in texts]


def test_further_replies_by_hand() -> None:
    scorer = Table({"a": 0.2, "y": 0.4, "ay": 0.6, "z": 0.8, "az": 1.0})
    weights = RewardSettings(alpha=1, beta=0.5, delta=0.25, lambda_=0.1)
    (turn,) = assess([Speech("a")], [Speech("y")], [(-2.0,)], scorer, weights)
    assert turn.reward == pytest.approx(0.4 + 0.3 - 0.2 - 0.05)
    trials = [Speech("z"), Speech("", error="no answer")]
    (tried,) = with_trials([turn], [trials], scorer, weights, contexts=[()])
    assert tried.reward == pytest.approx(0.6 + 0.5 * 0.8 - 0.2 - 0.05)  # the failed reply is in no mean
    assert (tried.tox_reply, tried.reply.text) == (0.4, "y")
