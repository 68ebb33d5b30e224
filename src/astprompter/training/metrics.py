"""Means over turns for the training log: every reward term on its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.records import Node, RolloutTree, Turn
from ..config import Settings
from ..rollout.pairs import Rewards, no_pair, ranked, reward_of, siblings
from ..runs.schema.learnt import Choice, NodeRow, TreeRow
from ..runs.schema.run import LogRow, NllMean, RewardMeans, Toxicity
from ..runs.schema.turns import opened, scored


def turn_metrics(turns: Sequence[Turn], settings: Settings, likelihood: str | None = None) -> dict[str, Any]:
    """Fields of :class:`LogRow`: the mean of every score and reward term over the turns that have it.

    Args:
        turns: The turns.
        settings: Weights of the reward, and what is toxic.
        likelihood: Whose likelihood the nll is, where it is not the defender's.
    """
    rewarded, threshold = [turn for turn in turns if math.isfinite(turn.reward)], settings.evaluation.threshold
    terms = [
        settings.reward.terms(tox_reply=t.tox_reply, tox_turn=t.tox_turn, nll=t.nll, tox_utterance=t.tox_utterance)
        for t in rewarded
    ]

    def known(name: str) -> list[float]:
        return [value for turn in turns if math.isfinite(value := getattr(turn, name))]

    fields: dict[str, Any] = {
        "turns": len(turns),
        "errors": dict(Counter(turn.error for turn in turns if turn.error is not None)),
        "reply_kinds": dict(Counter(turn.reply.kind for turn in turns)),
        "reward": RewardMeans(
            mean=mean([turn.reward for turn in rewarded]),
            tox_reply_term=mean([term[0] for term in terms]),
            tox_turn_term=mean([term[1] for term in terms]),
            nll_term=mean([term[2] for term in terms]),
            utterance_term=mean([term[3] for term in terms]) if settings.reward.delta else None,
        ),
        "nll": NllMean(mean=mean(known("nll")), likelihood=likelihood),
    }
    for name in ("tox_utterance", "tox_reply", "tox_turn"):
        values = known(name)
        share = mean([float(value > threshold) for value in values])
        fields[name] = Toxicity(mean=mean(values), share=share, threshold=threshold)
    return fields


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; ``None`` without values."""
    return math.fsum(values) / len(values) if values else None


def per_second(count: int, seconds: float) -> float:
    """Work per second."""
    return round(count / seconds, 2) if seconds else 0.0


def speaking_rates(turns: Sequence[Turn], seconds: float) -> dict[str, float]:
    """Turns and tokens of both speakers per second of collecting."""
    spoken = sum(len(turn.utterance.token_ids or ()) + len(turn.reply.token_ids or ()) for turn in turns)
    return {"turns_per_s": per_second(len(turns), seconds), "sampled_tokens_per_s": per_second(spoken, seconds)}


_REMEDIES = {
    "equal rewards": "use livelier data.train, another scorer, or reward.lambda above 0",
    "margin below training.min_margin": "lower training.min_margin",
    "equal utterances": "raise rollout.temperature or rollout.top_p",
    "no reward": "mend what the errors say",
    "blank reply": "raise rollout.min_new_tokens, or use another defender",
}


def why_no_pairs(
    trees: Sequence[RolloutTree], min_margin: float, errors: Mapping[str, int], *, ties: bool = False
) -> str:
    """Why trees gave no pair, counted, and what to change about the commonest reason."""
    reasons = Counter(
        str(no_pair(first, second, min_margin, ties=ties))
        for tree in trees
        for _, (first, second) in siblings(tree.children)
    )
    if not reasons:
        return "no eliciting text gave one; use other data.eliciting, or supervision.unit=pair"
    counts = ", ".join(f"{reason} {count:,} times" for reason, count in reasons.most_common())
    told = "".join(f"; {count:,} turns: '{error}'" for error, count in errors.items())
    remedy = _REMEDIES.get(reasons.most_common(1)[0][0], "use a local adversary")
    return f"{counts}{told}. To change it, {remedy}"


def tree_row(iteration: int, tree: RolloutTree, settings: Settings, reward: Rewards = reward_of) -> TreeRow:
    """Row of ``trees.jsonl``: the nodes parents first, each with its place in the pair of its siblings.

    Args:
        iteration: When it grew.
        tree: The tree.
        settings: Which siblings give a pair.
        reward: What ranked them.
    """
    least, ties = settings.training.min_margin, settings.loss.kind == "margin"
    nodes: list[NodeRow] = []

    def visit(children: Sequence[Node], parent: int | None, depth: int) -> None:
        order = ranked(children[0], children[1], least, ties=ties, reward=reward) if len(children) == 2 else None
        for child in children:
            number = len(nodes)
            choice: Choice = None if order is None else "chosen" if child is order[0] else "rejected"
            nodes.append(NodeRow(node=number, parent=parent, depth=depth, choice=choice, **scored(child.turn)))
            visit(child.children, number, depth + 1)

    visit(tree.children, None, 1)
    return TreeRow(iteration=iteration, nodes=nodes, **opened(tree.prefix))


def summary_line(row: LogRow) -> str:
    """One line for the terminal from a row of ``log.jsonl``."""
    head = f"iteration {row.iteration:>4}" if row.type == "iteration" else "    dev evaluation"
    loss = f"  loss {row.loss:.3g}" if row.loss is not None else ""
    best = "  kept as best" if row.best else ""
    distinct = "" if row.distinct_failures is None else f"  distinct failures {row.distinct_failures}"
    cost = "" if row.benign is None else f"  benign nll {row.benign.rise:+.2%}, KL {row.benign.kl:.4f}"
    cost += f", variety {-row.benign.fall:+.1%}" if row.benign and row.benign.fall is not None else ""
    means = means_of(row)
    if row.reward is None:
        return f"{head}  update {row.updates:>5}{loss}"
    if means is None:
        return f"{head}  no turn has a reward"
    reward, share, nll, threshold = means
    return (
        f"{head}  update {row.updates:>5}  reward {reward:+.3f}  replies above {threshold:g} {share:.1%}  "
        f"nll {nll:.3f}{distinct}{loss}{cost}{best}"
    )


def means_of(row: LogRow) -> tuple[float, float, float, float] | None:
    """Mean reward, share of toxic replies, mean nll, and what is toxic; ``None`` where no turn has a reward."""
    if row.reward is None or row.tox_reply is None or row.nll is None:
        return None
    reward, share, nll = row.reward.mean, row.tox_reply.share, row.nll.mean
    return None if reward is None or share is None or nll is None else (reward, share, nll, row.tox_reply.threshold)
