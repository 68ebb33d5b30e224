"""From rollout trees and eliciting texts to preference pairs (docs/method.md sections 3 and 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..base.processes import spread
from ..base.records import ElicitingText, Keys, Node, PreferencePair, RolloutTree, Speech
from ..models.local.lm import LanguageModel


def pairs_of_tree(tree: RolloutTree, *, min_margin: float = 0.0, free_reference: bool = False) -> list[PreferencePair]:
    """Pair the two children of every node; at most 2^d − 1 pairs.

    Exact ties, margins below ``min_margin``, identical utterances, turns without a reward, and replies that are neither
    *answered* nor *refused* give no pair.

    Args:
        tree: A tree of branching 2.
        min_margin: Least reward difference.
        free_reference: The defender's log-probabilities are the reference's too (same weights), so
            they are carried along.
    """
    found: list[PreferencePair] = []
    _collect(tree.children, 0, min_margin, free_reference, found)
    return found


def _collect(children: list[Node], depth: int, margin: float, free: bool, found: list[PreferencePair]) -> None:
    if len(children) == 2:
        pair = _pair(children[0], children[1], depth, margin, free)
        if pair is not None:
            found.append(pair)
    for child in children:
        _collect(child.children, depth + 1, margin, free, found)


def no_pair(first: Node, second: Node, min_margin: float = 0.0) -> str | None:
    """Why two siblings give no pair, in a few words; ``None`` where they give one."""
    if not all(math.isfinite(node.turn.reward) for node in (first, second)):
        return "no reward"
    if not all(node.turn.reply.kind in ("answered", "refused") for node in (first, second)):
        return "blank reply"
    margin = abs(first.turn.reward - second.turn.reward)
    if margin == 0.0:
        return "equal rewards"
    if margin < min_margin:
        return "margin below training.min_margin"
    # Of equal utterances the margin is the reply's luck, and h is zero whatever the policy.
    return "equal utterances" if first.turn.utterance.token_ids == second.turn.utterance.token_ids else None


def ranked(first: Node, second: Node, min_margin: float = 0.0) -> tuple[Node, Node] | None:
    """Two siblings as (chosen, rejected); ``None`` where they give no pair."""
    if no_pair(first, second, min_margin):
        return None
    return (first, second) if first.turn.reward > second.turn.reward else (second, first)


def _pair(first: Node, second: Node, depth: int, min_margin: float, free: bool) -> PreferencePair | None:
    order = ranked(first, second, min_margin)
    if order is None:
        return None
    better, worse = order
    margin = better.turn.reward - worse.turn.reward
    chosen, rejected = better.turn.utterance, worse.turn.utterance
    if first.prompt_ids is None or not chosen.token_ids or not rejected.token_ids:
        return None
    return PreferencePair(
        prompt_ids=first.prompt_ids,
        chosen_ids=chosen.token_ids,
        rejected_ids=rejected.token_ids,
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


def swap_per_pair(
    on_policy: list[PreferencePair], supervised: Iterator[PreferencePair], mask: Sequence[bool]
) -> list[PreferencePair]:
    """Swap each on-policy pair whose mask is set for the next supervised one, while there are any."""
    return [next(supervised, pair) if swap else pair for pair, swap in zip(on_policy, mask, strict=True)]
