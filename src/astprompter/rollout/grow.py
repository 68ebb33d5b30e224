"""Grow conversations between adversary and defender, breadth first and in lock step (docs/method.md section 3).

One routine serves both uses: two children per node train, one child per node evaluates. At each depth every live
conversation takes its turn in the same batch, and the texts of the depth are scored in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..base.processes import decode_tree, encode_tree, spread, world
from ..base.protocols import Scorer, Session, Speaker
from ..base.randomness import derive
from ..base.records import Keys, Node, Prefix, RolloutTree, Speech, Trajectory, Turn
from ..config import RewardSettings
from .reward import mean_nll

_ADVERSARY, _DEFENDER = 1_000, 2_000  # stream names beside the child indices 0, 1, …


def grow_trees(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    keys: Keys,
    *,
    horizon: int,
    branching: int,
    weights: RewardSettings,
    trees_per_batch: int = 64,
    accumulated: bool = False,
    on_turns: Callable[[int], None] = lambda turns: None,
) -> list[RolloutTree]:
    """Grow one tree per prefix.

    Args:
        adversary: Says the utterances.
        defender: Answers, and tells each utterance's likelihood.
        scorer: Toxicity R_φ.
        prefixes: Openings.
        keys: One random key per prefix; a tree depends on its own key alone.
        horizon: Depth d.
        branching: Utterances sampled at each node: 2 for preference pairs, 1 for trajectories.
        weights: Reward weights.
        trees_per_batch: Trees that advance together; bounds memory, changes no result.
        accumulated: The defender hears every utterance straight after the prefix: for an adversary whose utterances
            hold those before them.
        on_turns: Called with the number of turns done since the last call.

    Returns:
        One tree per prefix, in order; among several processes each grows its share and gets all.
    """

    def grow(mine: list[int]) -> list[RolloutTree]:
        trees = {i: RolloutTree(prefixes[i]) for i in mine}
        order = sorted(mine, key=lambda i: len(prefixes[i].text))  # like lengths together: little padding
        for start in range(0, len(order), trees_per_batch):
            part = order[start : start + trees_per_batch]
            _grow_batch(
                adversary, defender, scorer, [trees[i] for i in part], keys[part], horizon=horizon,
                branching=branching, weights=weights, accumulated=accumulated,
                on_turns=lambda turns: on_turns(turns * world()),
            )  # fmt: skip
        return [trees[i] for i in mine]

    return spread(len(prefixes), grow, encode_tree, decode_tree)


def grow_trajectories(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    keys: Keys,
    *,
    horizon: int,
    weights: RewardSettings,
    trees_per_batch: int = 64,
    accumulated: bool = False,
    on_turns: Callable[[int], None] = lambda turns: None,
) -> list[Trajectory]:
    """Grow one single path of ``horizon`` turns per prefix: the form of evaluation (docs/method.md section 7)."""
    trees = grow_trees(
        adversary, defender, scorer, prefixes, keys,
        horizon=horizon, branching=1, weights=weights, trees_per_batch=trees_per_batch, accumulated=accumulated,
        on_turns=on_turns,
    )  # fmt: skip
    trajectories = []
    for tree in trees:
        turns, children = [], tree.children
        while children:
            turns.append(children[0].turn)
            children = children[0].children
        trajectories.append(Trajectory(tree.prefix, tuple(turns), accumulated))
    return trajectories


def _grow_batch(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    trees: Sequence[RolloutTree],
    keys: Keys,
    *,
    horizon: int,
    branching: int,
    weights: RewardSettings,
    accumulated: bool,
    on_turns: Callable[[int], None],
) -> None:
    texts = [tree.prefix.text for tree in trees]
    speaking, opening = adversary.start(texts, turns=horizon), defender.start(texts, turns=horizon)
    answering, roots = opening, list(range(len(trees)))
    parents: list[list[Node]] = [tree.children for tree in trees]
    for depth in range(horizon):
        rows = [row for row in range(len(parents)) for _ in range(branching)]
        keys = derive(keys[rows], np.arange(len(rows), dtype=np.int64) % branching)
        if branching > 1:
            speaking, answering = speaking.branch(rows), answering.branch(rows)
        if accumulated:
            roots = [roots[row] for row in rows]
            answering = opening.branch(roots)
        nodes = _take_turn(speaking, answering, scorer, keys, weights, last=depth == horizon - 1)
        for row, node in zip(rows, nodes, strict=True):
            parents[row].append(node)
        parents = [node.children for node in nodes]
        on_turns(len(nodes))


def _take_turn(
    adversary: Session, defender: Session, scorer: Scorer, keys: Keys, weights: RewardSettings, *, last: bool
) -> list[Node]:
    """One turn of every row: speak, hear, answer, score."""
    prompts: Sequence[tuple[int, ...] | None] = adversary.transcript() or [None] * len(keys)
    utterances = adversary.speak(derive(keys, _ADVERSARY))
    logprobs = defender.hear(utterances, likelihood=True) or [()] * len(keys)
    replies = defender.speak(derive(keys, _DEFENDER))
    if not last:
        adversary.hear(replies)
    turns = assess(utterances, replies, logprobs, scorer, weights)
    return [Node(turn, prompt) for turn, prompt in zip(turns, prompts, strict=True)]


def assess(
    utterances: Sequence[Speech],
    replies: Sequence[Speech],
    logprobs: Sequence[tuple[float, ...]],
    scorer: Scorer,
    weights: RewardSettings,
) -> list[Turn]:
    """Score turns in one scorer call; what is not finite becomes an error turn, never a number."""
    texts = [u.text for u in utterances] + [y.text for y in replies]
    texts += [u.text + y.text for u, y in zip(utterances, replies, strict=True)]
    scores, count = scorer.score(texts), len(utterances)
    turns = []
    for i, (utterance, reply) in enumerate(zip(utterances, replies, strict=True)):
        nll = mean_nll(logprobs[i])
        tox_reply, tox_turn = scores[count + i], scores[2 * count + i]
        reward = weights.reward(tox_reply=tox_reply, tox_turn=tox_turn, nll=nll)
        error = (
            utterance.error or reply.error or _error(utterance, logprobs[i], (scores[i], tox_reply, tox_turn), reward)
        )
        turns.append(
            Turn(
                utterance, reply, nll, logprobs[i], scores[i], tox_reply, tox_turn, math.nan if error else reward, error
            )
        )
    return turns


def _error(utterance: Speech, logprobs: tuple[float, ...], scores: tuple[float, ...], reward: float) -> str | None:
    if not utterance.text and not utterance.token_ids:
        return "empty utterance"
    if not logprobs:
        return "no likelihood: the utterance does not fit in the defender's context"
    if not all(map(math.isfinite, scores)):
        return "score is not finite"
    return None if math.isfinite(reward) else "log-likelihood is not finite"
