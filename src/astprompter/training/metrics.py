"""Means over turns for the training log: every reward term on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..base.records import FAILURE_THRESHOLD, Node, PreferencePair, RolloutTree, Turn
from ..config import RewardSettings
from ..rollout.pairs import ranked

_NODE_VALUES = ("nll", "tox_utterance", "tox_reply", "tox_turn", "reward")


def turns_of(nodes: Iterable[Node]) -> Iterator[Turn]:
    """All turns of a tree, parents first."""
    for node in nodes:
        yield node.turn
        yield from turns_of(node.children)


def turn_metrics(turns: Sequence[Turn], weights: RewardSettings) -> dict[str, Any]:
    """Mean of every score and reward term; error turns are counted and left out."""
    good = [turn for turn in turns if turn.error is None]
    terms = [weights.terms(tox_reply=t.tox_reply, tox_turn=t.tox_turn, nll=t.nll) for t in good]
    errors: dict[str, int] = {}
    for turn in turns:
        if turn.error is not None:
            errors[turn.error] = errors.get(turn.error, 0) + 1
    rows: dict[str, Any] = {
        "turns": len(turns),
        "errors": errors,
        "reward": {
            "mean": mean([turn.reward for turn in good]),
            "tox_reply_term": mean([term[0] for term in terms]),
            "tox_turn_term": mean([term[1] for term in terms]),
            "nll_term": mean([term[2] for term in terms]),
        },
        "nll": {"mean": mean([turn.nll for turn in good])},
    }
    for name in ("tox_utterance", "tox_reply", "tox_turn"):
        values = [getattr(turn, name) for turn in good]
        rows[name] = {
            "mean": mean(values),
            "share_above_0.5": mean([float(value > FAILURE_THRESHOLD) for value in values]),
        }
    return rows


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; ``None`` without values."""
    return math.fsum(values) / len(values) if values else None


def rates(turns: Sequence[Turn], pairs: Sequence[PreferencePair], laps: dict[str, float]) -> dict[str, float]:
    """Work per second of an iteration, from its wall seconds by stage."""
    spoken = sum(len(turn.utterance.token_ids or ()) + len(turn.reply.token_ids or ()) for turn in turns)
    amounts = {
        "turns_per_s": (len(turns), laps["collect"]),
        "sampled_tokens_per_s": (spoken, laps["collect"]),
        "updated_pairs_per_s": (len(pairs), laps["update"]),
    }
    return {name: round(count / seconds, 2) if seconds else 0.0 for name, (count, seconds) in amounts.items()}


def pair_row(iteration: int, pair: PreferencePair) -> dict[str, Any]:
    """Row of ``pairs.jsonl``."""
    return {
        "iteration": iteration + 1,
        "source": pair.source,
        "depth": pair.depth,
        "margin": None if math.isnan(pair.margin) else pair.margin,
        "prompt_ids": list(pair.prompt_ids),
        "chosen": pair.chosen_text,
        "rejected": pair.rejected_text,
    }


def tree_row(iteration: int, tree: RolloutTree, *, min_margin: float) -> dict[str, Any]:
    """Row of ``trees.jsonl``: the nodes parents first, each with its place in the pair of its siblings."""
    nodes: list[dict[str, Any]] = []

    def visit(children: Sequence[Node], parent: int | None, depth: int) -> None:
        order = ranked(children[0], children[1], min_margin) if len(children) == 2 else None
        for child in children:
            turn, number = child.turn, len(nodes)
            choice = None if order is None else "chosen" if child is order[0] else "rejected"
            values = {name: _finite(getattr(turn, name)) for name in _NODE_VALUES}
            nodes.append(
                {
                    "node": number, "parent": parent, "depth": depth, "choice": choice,
                    "utterance": turn.utterance.text, "reply": turn.reply.text, **values, "error": turn.error,
                }
            )  # fmt: skip
            visit(child.children, number, depth + 1)

    visit(tree.children, None, 1)
    return {"iteration": iteration, "prefix_id": tree.prefix.id, "prefix": tree.prefix.text, "nodes": nodes}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summary_line(row: dict[str, Any]) -> str:
    """One line for the terminal from a row of ``log.jsonl``."""
    head = f"iteration {row['iteration']:>4}" if row["type"] == "iteration" else "    dev evaluation"
    loss = f"  loss {row['loss']:.3g}" if row.get("loss") is not None else ""
    best = "  kept as best" if row.get("best") else ""
    if "reward" not in row:
        return f"{head}  update {row['updates']:>5}{loss}"
    if row["reward"]["mean"] is None:
        return f"{head}  every turn was an error"
    return (
        f"{head}  update {row['updates']:>5}  reward {row['reward']['mean']:+.3f}  "
        f"replies above 0.5 {row['tox_reply']['share_above_0.5']:.1%}  nll {row['nll']['mean']:.3f}{loss}{best}"
    )
