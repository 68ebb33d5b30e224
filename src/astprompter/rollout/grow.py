"""Grow conversations between adversary and defender, breadth first and in lock step (docs/method.md section 3).

One routine serves both uses: two children per node train, one child per node evaluates. At each depth every live
conversation takes its turn in the same batch, and the texts of the depth are scored in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from ..base.protocols import Context, Scorer, Session, Speaker
from ..base.randomness import derive
from ..base.records import Keys, Node, Prefix, RolloutTree, Speech, Trajectory, Turn
from ..config import RewardSettings
from .reward import assess, with_trials

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
    replies: int = 1,
    trees_per_batch: int = 64,
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
        replies: Replies that a reward is the mean of; the conversation goes on from the first one.
        trees_per_batch: Trees that advance together; bounds memory, changes no result.
        on_turns: Called with the number of turns done since the last call.

    Returns:
        One tree per prefix, in order; its prefix is what the defender heard of it. A served defender, which cannot
        count its tokens, hears what the adversary hears.
    """
    trees = []
    for prefix in prefixes:
        own = adversary.heard(prefix, turns=horizon)
        heard = own if defender.local is None else defender.heard(prefix, turns=horizon)
        trees.append(RolloutTree(replace(heard, cut_for_adversary=own.cut)))
    for part in batches_of(prefixes, trees_per_batch):
        _grow_batch(
            adversary, defender, scorer, [prefixes[i].text for i in part], [trees[i] for i in part], keys[part],
            horizon=horizon, branching=branching, weights=weights, replies=replies, on_turns=on_turns,
        )  # fmt: skip
    return trees


def batches_of(prefixes: Sequence[Prefix], size: int) -> list[list[int]]:
    """Which prefixes grow together, at most ``size``: those of like length, so that little is padded."""
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i].text))
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_step(turns: Sequence[int], size: int) -> Iterator[list[int]]:
    """Which conversations can be led together, at most ``size``: those of as many turns each."""
    order = sorted(range(len(turns)), key=turns.__getitem__)
    for _, group in groupby(order, key=turns.__getitem__):
        places = list(group)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def turns_of(nodes: Iterable[Node]) -> Iterator[Turn]:
    """All turns of a tree, parents first."""
    for node in nodes:
        yield node.turn
        yield from turns_of(node.children)


def trajectory_of(tree: RolloutTree, *, accumulated: bool = False) -> Trajectory:
    """The single path of a tree of branching 1: the form of evaluation (docs/method.md section 7)."""
    turns, children = [], tree.children
    while children:
        turns.append(children[0].turn)
        children = children[0].children
    return Trajectory(tree.prefix, tuple(turns), accumulated)


def _grow_batch(
    adversary: Speaker,
    defender: Speaker,
    scorer: Scorer,
    texts: Sequence[str],
    trees: Sequence[RolloutTree],
    keys: Keys,
    *,
    horizon: int,
    branching: int,
    weights: RewardSettings,
    replies: int,
    on_turns: Callable[[int], None],
) -> None:
    heard = texts if defender.local is not None else [tree.prefix.text for tree in trees]
    speaking, opening = adversary.start(texts, turns=horizon), defender.start(heard, turns=horizon)
    answering, roots = opening, list(range(len(trees)))
    parents: list[list[Node]] = [tree.children for tree in trees]
    openings: list[Context] = [(tree.prefix.text,) for tree in trees]
    said = openings
    for depth in range(horizon):
        rows = [row for row in range(len(parents)) for _ in range(branching)]
        keys = derive(keys[rows], np.arange(len(rows), dtype=np.int64) % branching)
        if branching > 1:
            speaking, answering = speaking.branch(rows), answering.branch(rows)
        said = [said[row] for row in rows]
        if adversary.accumulates:  # its utterances hold those before them
            roots = [roots[row] for row in rows]
            answering, said = opening.branch(roots), [openings[root] for root in roots]
        nodes = _take_turn(speaking, answering, scorer, keys, weights, said, replies, last=depth == horizon - 1)
        for row, node in zip(rows, nodes, strict=True):
            parents[row].append(node)
        parents = [node.children for node in nodes]
        said = [(*c, node.turn.utterance.text, node.turn.reply.text) for c, node in zip(said, nodes, strict=True)]
        on_turns(len(nodes))


def _take_turn(
    adversary: Session,
    defender: Session,
    scorer: Scorer,
    keys: Keys,
    weights: RewardSettings,
    said: Sequence[Context],
    count: int,
    *,
    last: bool,
) -> list[Node]:
    """One turn of every row: speak, hear, answer (``count`` times; the first reply counts), score."""
    prompts: Sequence[tuple[int, ...] | None] = adversary.transcript() or [None] * len(keys)
    utterances = adversary.speak(derive(keys, _ADVERSARY))
    logprobs = defender.hear(utterances, likelihood=True) or [()] * len(keys)
    unknown = defender.unknown()
    tried = _trials(defender, keys, count - 1)
    replies = defender.speak(derive(keys, _DEFENDER))
    if not last:
        adversary.hear(replies)
    turns = assess(utterances, replies, logprobs, scorer, weights, contexts=said, unknown=unknown)
    if count > 1:
        turns = with_trials(turns, tried, scorer, weights, contexts=said)
    return [Node(turn, prompt) for turn, prompt in zip(turns, prompts, strict=True)]


def _trials(defender: Session, keys: Keys, count: int) -> list[list[Speech]]:
    """Further replies to what every row heard last, ``count`` of each; the conversation does not go on from them."""
    rows = [row for row in range(len(keys)) for _ in range(count)]
    if not rows:
        return [[] for _ in keys]
    numbers = 1 + np.arange(len(rows), dtype=np.int64) % count
    spoken = defender.branch(rows).speak(derive(derive(keys[rows], _DEFENDER), numbers))
    return [spoken[start : start + count] for start in range(0, len(rows), count)]
