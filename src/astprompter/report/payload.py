"""What the page's failure browser reads: compact rows, as JSON that cannot break out of its script element."""

from __future__ import annotations

import json
from typing import Any

from ..runs.schema.results import FailureRow, TrajectoryRow, TurnRow
from ..runs.schema.run import TreeRow
from .study import Adversary, Study
from .tree import chosen_trees

_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def embed(value: object) -> str:
    """JSON for a ``<script type="application/json">``: ASCII only, with no character that ends or opens markup."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def payload(study: Study) -> dict[str, Any]:
    """Failures of all adversaries, likeliest first, each beside the untuned trajectory from the same prefix.

    Returns:
        ``adversaries`` (label, slot), ``threshold``, ``strategies``, ``prefixes``, ``trajectories`` (prefix number,
        turns, whether they are accumulated), ``failures`` (adversary, turn, path_nll, tox_reply, strategy, trajectory,
        untuned trajectory, utterance, reply; −1 for what is missing) and ``trees``.
    """
    builder = _Builder(study)
    rows = [row for a in study.adversaries for row in builder.failures(a)]
    rows.sort(key=lambda row: row[2])
    trees = [builder.tree(tree) for tree in chosen_trees(study.runs[0].trees)]
    return {
        "adversaries": [[a.label, a.slot % 8] for a in study.adversaries],
        "threshold": study.threshold,
        "strategies": builder.strategies,
        "prefixes": builder.prefixes,
        "trajectories": builder.trajectories,
        "failures": rows,
        "trees": trees,
    }


class _Builder:
    """Numbers prefixes, strategies and trajectories, each kept once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.labels = {a.label: number for number, a in enumerate(study.adversaries)}
        self.strategies: list[str] = []
        self.prefixes: list[str] = []
        self.trajectories: list[list[Any]] = []
        self._numbers: dict[tuple[int, str, str], int] = {}
        self._prefix_numbers: dict[str, int] = {}
        self._sources: dict[int, dict[tuple[str, str], TrajectoryRow]] = {}

    def failures(self, adversary: Adversary) -> list[list[Any]]:
        """Rows of one adversary."""
        return [self._failure(adversary, row) for row in adversary.run.failures if row.adversary == adversary.key]

    def _failure(self, adversary: Adversary, row: FailureRow) -> list[Any]:
        if row.strategy not in self.strategies:
            self.strategies.append(row.strategy)
        own = self._trajectory(adversary, row.prefix_id)
        untuned = self.study.untuned_of(adversary)
        base = -1
        if untuned is not None and adversary is not untuned:
            base = self._trajectory(untuned, row.prefix_id)
            if base >= 0 and own >= 0 and self.trajectories[base][0] != self.trajectories[own][0]:
                base = -1  # an id that means another text in another run
        return [
            self.labels[adversary.label], row.turn, _short(row.path_nll), _short(row.tox_reply),
            self.strategies.index(row.strategy), own, base, row.utterance, row.reply,
        ]  # fmt: skip

    def _trajectory(self, adversary: Adversary, prefix_id: str) -> int:
        key = (id(adversary.run), adversary.key, prefix_id)  # the pairs of an experiment share its path
        if key not in self._numbers:
            rows = self._sources.get(key[0])
            if rows is None:
                rows = {(row.adversary, row.prefix_id): row for row in adversary.run.trajectories}
                self._sources[key[0]] = rows
            row = rows.get((adversary.key, prefix_id))
            if row is None:
                return -1
            self._numbers[key] = len(self.trajectories)
            turns = [_turn(turn) for turn in row.turns]
            self.trajectories.append([self._prefix(row.prefix), turns, row.accumulated])
        return self._numbers[key]

    def _prefix(self, text: str) -> int:
        if text not in self._prefix_numbers:
            self._prefix_numbers[text] = len(self.prefixes)
            self.prefixes.append(text)
        return self._prefix_numbers[text]

    def tree(self, tree: TreeRow) -> list[Any]:
        """Iteration, prefix number and nodes of a rollout tree."""
        nodes = [
            [node.utterance, node.reply, *map(_short, (node.nll, node.tox_reply, node.tox_turn, node.reward)),
             node.choice, node.error, node.depth]
            for node in tree.nodes
        ]  # fmt: skip
        return [tree.iteration, self._prefix(tree.prefix), nodes]


def _turn(turn: TurnRow) -> list[Any]:
    """Texts, lengths of the utterance's tokens in UTF-16 units, their log-probabilities, scores, error."""
    tokens = turn.tokens
    complete = "".join(tokens) == turn.utterance and len(tokens) == len(turn.token_logprobs)
    lengths = [len(token.encode("utf-16-le", "surrogatepass")) // 2 for token in tokens] if complete else []
    logprobs = [round(value, 2) for value in turn.token_logprobs] if complete else []
    scores = [*map(_short, (turn.nll, turn.tox_utterance, turn.tox_reply, turn.tox_turn, turn.reward))]
    return [turn.utterance, turn.reply, lengths, logprobs, scores, turn.error]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
