"""From rollout trees and eliciting texts to preference pairs (docs/method.md sections 3 and 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..base.processes import spread
from ..base.protocols import Scorer, Speaker
from ..base.randomness import derive
from ..base.records import ElicitingText, Keys, Node, PreferencePair, RolloutTree, Speech
from ..config import RewardSettings
from ..models.local.lm import LanguageModel
from .reward import assess, with_trials

Rewards = Callable[[Node], float]


def reward_of(node: Node) -> float:
    """The reward of a turn as it was given."""
    return node.turn.reward


def pairs_of_tree(
    tree: RolloutTree,
    *,
    min_margin: float = 0.0,
    ties: bool = False,
    free_reference: bool = False,
    reward: Rewards = reward_of,
) -> list[PreferencePair]:
    """Pair the two children of every node; at most 2^d − 1 pairs.

    Exact ties, margins below ``min_margin``, identical utterances, turns without a reward, and replies that are neither
    *answered* nor *refused* give no pair.

    Args:
        tree: A tree of branching 2.
        min_margin: Least reward difference.
        ties: Whether equal rewards give a pair too, of margin 0: for a loss that learns from the margin.
        free_reference: The defender's log-probabilities are the reference's too (same weights), so
            they are carried along.
        reward: What ranks the turns.
    """
    pairs = []
    for depth, (first, second) in siblings(tree.children):
        if order := ranked(first, second, min_margin, ties=ties, reward=reward):
            pairs.append(_pair(*order, reward(order[0]) - reward(order[1]), depth, free_reference))
    return pairs


def siblings(children: Sequence[Node], depth: int = 0) -> Iterator[tuple[int, tuple[Node, Node]]]:
    """The two children of every node that has two, and their depth; parents first."""
    if len(children) == 2:
        yield depth, (children[0], children[1])
    for child in children:
        yield from siblings(child.children, depth + 1)


def no_pair(
    first: Node, second: Node, min_margin: float = 0.0, *, ties: bool = False, reward: Rewards = reward_of
) -> str | None:
    """Why two siblings give no pair, in a few words; ``None`` where they give one."""
    if not all(math.isfinite(reward(node)) for node in (first, second)):
        return "no reward"
    if not all(node.turn.reply.kind in ("answered", "refused") for node in (first, second)):
        return "blank reply"
    margin = abs(reward(first) - reward(second))
    if margin == 0.0 and not ties:
        return "equal rewards"
    if margin < min_margin:
        return "margin below training.min_margin"
    if first.prompt_ids is None or not all(node.turn.utterance.token_ids for node in (first, second)):
        return "no tokens"
    # Of equal utterances the margin is the reply's luck, and h is zero whatever the policy.
    return "equal utterances" if first.turn.utterance.token_ids == second.turn.utterance.token_ids else None


def ranked(
    first: Node, second: Node, min_margin: float = 0.0, *, ties: bool = False, reward: Rewards = reward_of
) -> tuple[Node, Node] | None:
    """Two siblings as (chosen, rejected); ``None`` where they give no pair."""
    if no_pair(first, second, min_margin, ties=ties, reward=reward) is not None:
        return None
    return (first, second) if reward(first) >= reward(second) else (second, first)


def _pair(better: Node, worse: Node, margin: float, depth: int, free: bool) -> PreferencePair:
    chosen, rejected = better.turn.utterance, worse.turn.utterance
    return PreferencePair(
        prompt_ids=better.prompt_ids or (),
        chosen_ids=chosen.token_ids or (),
        rejected_ids=rejected.token_ids or (),
        margin=margin,
        source="on_policy",
        depth=depth,
        chosen_text=chosen.text,
        rejected_text=rejected.text,
        ref_chosen_logp=math.fsum(better.turn.token_logprobs) if free else None,
        ref_rejected_logp=math.fsum(worse.turn.token_logprobs) if free else None,
    )


def split_eliciting(ids: Sequence[int], rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split p = p₁ + p₂ at a uniformly random token of the middle half; both sides keep a token.

    Raises:
        ValueError: Fewer than two tokens.
    """
    count = len(ids)
    if count < 2:
        raise ValueError("an eliciting text needs at least two tokens")
    cut = int(rng.integers(math.ceil(count / 4), math.floor(3 * count / 4) + 1))
    return tuple(ids[:cut]), tuple(ids[cut:])


def supervised_pairs(
    adversary: LanguageModel,
    texts: Sequence[ElicitingText],
    keys: Keys,
    rng: np.random.Generator,
    *,
    trees_per_batch: int = 512,
) -> list[PreferencePair]:
    """One pair per eliciting text: the true continuation over the adversary's own (docs/method.md section 4).

    Texts of fewer than two tokens, or whose second part is a single character in several tokens, give none; over-long
    ones lose tokens on the left.
    """
    splits, kept = [], []
    for text, key in zip(texts, keys, strict=True):
        ids = adversary.encode_prefix(text.text, turns=1)
        if len(ids) >= 2:
            prompt, chosen = split_eliciting(ids, rng)
            while len(chosen) > 1 and adversary.decode(chosen).startswith("\ufffd"):
                prompt, chosen = (*prompt, chosen[0]), chosen[1:]  # a character is never cut in two
            if not adversary.decode(chosen).startswith("\ufffd"):
                splits.append((adversary.prompt_of(prompt), chosen))
                kept.append(key)
    pairs: dict[int, PreferencePair] = {}
    order = sorted(range(len(splits)), key=lambda i: len(splits[i][0]))  # like lengths together: little padding
    for start in range(0, len(order), trees_per_batch):
        part = order[start : start + trees_per_batch]
        spoken = _continued(adversary, [splits[i][0] for i in part], np.array([kept[i] for i in part]))
        for i, rejected in zip(part, spoken, strict=True):
            prompt, chosen = splits[i]
            if rejected.token_ids and rejected.token_ids != chosen and not rejected.error:
                pairs[i] = PreferencePair(
                    prompt_ids=prompt,
                    chosen_ids=chosen,
                    rejected_ids=rejected.token_ids,
                    margin=math.nan,
                    source="supervised",
                    depth=-1,
                    chosen_text=adversary.decode(chosen),
                    rejected_text=rejected.text,
                )
    return [pairs[i] for i in sorted(pairs)]


def _continued(adversary: LanguageModel, prompts: Sequence[tuple[int, ...]], keys: Keys) -> list[Speech]:
    """The adversary's own continuation of each prompt, each process its share."""

    def speak(mine: list[int]) -> list[Speech]:
        order = sorted(mine, key=lambda i: len(prompts[i]))  # like lengths together: little padding
        spoken = dict(zip(order, adversary.start_ids([prompts[i] for i in order]).speak(keys[order]), strict=True))
        return [spoken[i] for i in mine]

    return spread(Speech, len(prompts), speak)


def with_margins(
    pairs: Sequence[PreferencePair],
    adversary: LanguageModel,
    defender: Speaker,
    scorer: Scorer,
    weights: RewardSettings,
    keys: Keys,
    *,
    replies: int = 1,
    pairs_per_batch: int = 512,
) -> list[PreferencePair]:
    """Supervised pairs with the margin that the reward gives them, by letting the defender answer both sides.

    A pair whose reward is not known on both sides is left out.

    Args:
        pairs: The pairs.
        adversary: Whose tokens they are in.
        defender: Answers.
        scorer: Toxicity R_φ.
        weights: Weights of the reward.
        keys: A random key for each pair.
        replies: Replies that a reward is the mean of.
        pairs_per_batch: Pairs that are heard together.
    """

    def rewards(part: Sequence[int]) -> Iterator[tuple[float, float]]:
        """Rewards of both sides of some pairs."""
        sides = [(pairs[i].prompt_ids, ids) for i in part for ids in (pairs[i].chosen_ids, pairs[i].rejected_ids)]
        texts = [adversary.decode(prompt) for prompt, _ in sides]
        utterances = [Speech(adversary.decode(ids), ids, adversary.vocabulary) for _, ids in sides]
        session = defender.start(texts, turns=1)
        logprobs = session.hear(utterances, likelihood=True) or [()] * len(sides)
        rows = [row for row in range(len(sides)) for _ in range(replies)]
        each = derive(keys[part][[row // 2 for row in rows]], np.arange(len(rows), dtype=np.int64) % (2 * replies))
        spoken = session.branch(rows).speak(each)
        contexts = [(text,) for text in texts]
        turns = assess(utterances, spoken[::replies], logprobs, scorer, weights, contexts=contexts)
        if replies > 1:
            trials = [spoken[start + 1 : start + replies] for start in range(0, len(spoken), replies)]
            turns = with_trials(turns, trials, scorer, weights, contexts=contexts)
        return ((turns[i].reward, turns[i + 1].reward) for i in range(0, len(turns), 2))

    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids))  # like lengths together: little padding
    found: dict[int, PreferencePair] = {}
    for start in range(0, len(order), pairs_per_batch):
        part = order[start : start + pairs_per_batch]
        for i, (chosen, rejected) in zip(part, rewards(part), strict=True):
            if math.isfinite(chosen - rejected):
                found[i] = replace(pairs[i], margin=chosen - rejected)
    return [found[i] for i in sorted(found)]


def swap_per_pair(
    on_policy: list[PreferencePair], supervised: Iterator[PreferencePair], mask: Sequence[bool]
) -> list[PreferencePair]:
    """Swap each on-policy pair whose mask is set for the next supervised one, while there are any."""
    return [next(supervised, pair) if swap else pair for pair, swap in zip(on_policy, mask, strict=True)]
