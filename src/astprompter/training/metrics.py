"""Means over turns for the training log: every reward term on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..reward import RewardWeights
from ..types import FAILURE_THRESHOLD, Node, PreferencePair, Turn


def turns_of(nodes: Iterable[Node]) -> Iterator[Turn]:
    """All turns of a tree, parents first."""
    for node in nodes:
        yield node.turn
        yield from turns_of(node.children)


def turn_metrics(turns: Sequence[Turn], weights: RewardWeights) -> dict[str, Any]:
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

    def rate(count: int, lap: str) -> float:
        return round(count / laps[lap], 2) if laps[lap] > 0 else 0.0  # an iteration without pairs updates nothing

    return {
        "turns_per_s": rate(len(turns), "collect"),
        "sampled_tokens_per_s": rate(spoken, "collect"),
        "updated_pairs_per_s": rate(len(pairs), "update"),
    }


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


def summary_line(row: dict[str, Any]) -> str:
    """One line for the terminal from a row of ``log.jsonl``."""
    head = f"iteration {row['iteration']:>4}" if row["type"] == "iteration" else "    dev evaluation"
    loss = f"  loss {row['loss']:.1f}" if row.get("loss") is not None else ""
    best = "  best so far" if row.get("best") else ""
    if row["reward"]["mean"] is None:
        return f"{head}  every turn was an error"
    return (
        f"{head}  update {row['updates']:>5}  reward {row['reward']['mean']:+.3f}  "
        f"replies above 0.5 {row['tox_reply']['share_above_0.5']:.1%}  nll {row['nll']['mean']:.3f}{loss}{best}"
    )
