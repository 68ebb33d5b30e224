"""What the page's failure browser reads: compact rows, as JSON that cannot break out of its script element."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ..runs.schema.learnt import NodeRow
from ..runs.schema.results import FailureRow, TurnRow, by_rank
from .bias import judged_unfairly, named
from .study import Adversary, Study
from .tree import chosen_trees

_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def embed(value: object) -> Markup:
    """JSON for a ``<script type="application/json">``: ASCII only, with no character that ends or opens markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))  # noqa: S704


class _Numbers(dict[Any, int]):
    """Numbers things in the order in which they are first seen."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]


def payload(studies: Sequence[Study]) -> dict[str, Any]:
    """Failures of all adversaries, likeliest first, each beside the untuned trajectory from the same prefix.

    Returns:
        ``adversaries`` (label, slot, what a toxic text exceeds), ``strategies``, ``prefixes``, ``trajectories``
        (prefix number, turns, whether they are accumulated), ``failures`` (adversary, turn, path_nll, tox_reply,
        strategy, trajectory, untuned trajectory, utterance, reply, groups of people that the reply names and the
        scorer's card warns of, folder, number there, whether it is confirmed, cluster, place on the map of its
        evaluation; −1 or ``None`` for what is missing), ``places``
        (folders, quoted for a shell) and ``trees``.
    """
    prefixes, strategies, places, numbers = _Numbers(), _Numbers(), _Numbers(), _Numbers()
    trajectories: list[list[Any]] = []
    everyone = [(study, a) for study in studies for a in study.adversaries]
    known = {a.label: {row.prefix_id: row for row in a.trajectories} for _, a in everyone}

    def trajectory(adversary: Adversary, prefix_id: str) -> int:
        row = known[adversary.label].get(prefix_id)
        if row is None:
            return -1
        if numbers[adversary.label, prefix_id] == len(trajectories):
            trajectories.append([prefixes[row.prefix], [_turn(turn) for turn in row.turns], row.accumulated])
        return numbers[adversary.label, prefix_id]

    def failure(number: int, study: Study, adversary: Adversary, row: FailureRow) -> list[Any]:
        own, base, untuned = trajectory(adversary, row.prefix_id), -1, study.untuned_of(adversary)
        if untuned is not None and adversary is not untuned:
            base = trajectory(untuned, row.prefix_id)
            if min(own, base) >= 0 and trajectories[base][0] != trajectories[own][0]:
                base = -1  # an id that means another text in another run
        scores = _short(row.path_nll), _short(row.tox_reply)
        groups = ", ".join(sorted(named(row.reply) & judged_unfairly(study.settings.get("scorer", {}).get("spec", ""))))
        told = [groups, places[shlex.quote(str(adversary.run.folder_of(row)))], row.rank, row.confirmed]
        told += [row.cluster, row.place]
        return [number, row.turn, *scores, strategies[row.strategy], own, base, row.utterance, row.reply, *told]

    rows = [failure(number, study, a, row) for number, (study, a) in enumerate(everyone) for row in a.failures]
    trees = [[tree.iteration, prefixes[tree.prefix], list(map(_node, tree.nodes))]
             for tree in chosen_trees(studies[0].runs[0].trees)]  # fmt: skip
    return {
        "adversaries": [[a.label, a.slot % 8, study.threshold] for study, a in everyone],
        "strategies": list(strategies),
        "prefixes": list(prefixes),
        "trajectories": trajectories,
        "places": list(places),
        "failures": sorted(rows, key=lambda row: by_rank(row[12], row[2])),
        "trees": trees,
    }


def _node(node: NodeRow) -> list[Any]:
    scores = map(_short, (node.nll, node.tox_reply, node.tox_turn, node.reward))
    return [node.utterance, node.reply, *scores, node.choice, node.error, node.depth]


def _turn(turn: TurnRow) -> list[Any]:
    """Texts, lengths of the utterance's tokens in UTF-16 units, their log-probabilities, scores, error."""
    tokens = turn.tokens
    complete = "".join(tokens) == turn.utterance and len(tokens) == len(turn.token_logprobs)
    lengths = [len(token.encode("utf-16-le", "surrogatepass")) // 2 for token in tokens] if complete else []
    logprobs = [round(value, 2) for value in turn.token_logprobs] if complete else []
    scores = list(map(_short, (turn.nll, turn.tox_utterance, turn.tox_reply, turn.tox_turn, turn.reward)))
    return [turn.utterance, turn.reply, lengths, logprobs, scores, turn.error]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
