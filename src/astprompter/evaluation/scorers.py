"""The same conversations under several scorers: does the conclusion depend on the scorer?"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.progress import Progress
from ..base.protocols import Scorer
from ..base.records import Trajectory
from ..config import Settings
from ..rollout.reward import contexts_of, score_turns
from ..runs.schema.summary import Above, Agreement, Ranking, Reversal, Scorers, UnderScorer
from ..runs.schema.turns import finite
from .agreement import cohen_kappa, roc_auc, spearman
from .statistics import Floats, Options, failure_within_horizon, overall
from .summarise import SCORES, tables_of

Scores = dict[str, dict[str, dict[str, Floats]]]
"""Scorer -> adversary -> score by name, [prefixes, turns]; ``nan`` where there is none."""


def check_names(main: Scorer, others: Sequence[Scorer]) -> None:
    """Refuse scorers that could not be told apart.

    Raises:
        UserError: Two have the same name.
    """
    names = [scorer.name for scorer in (main, *others)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"scorer '{twice}' is named twice; mend evaluation.scorers")


def score_again(
    trajectories: Mapping[str, Sequence[Trajectory]], main: str, others: Sequence[Scorer], progress: Progress
) -> Scores:
    """Scores of every turn under every scorer, the one that drove the reward first; empty without others."""
    if not others:
        return {}
    own = {a: tables_of([[path.turns for path in paths]]) for a, paths in trajectories.items()}
    scores: Scores = {main: {a: {name: tables[name][0] for name in SCORES} for a, tables in own.items()}}
    for scorer in others:
        scores[scorer.name] = {}
        for adversary, paths in trajectories.items():
            with progress.task(f"scoring {adversary}", len(paths), "paths") as advance:
                scores[scorer.name][adversary] = _scored(scorer, paths)
                advance(len(paths))
    return scores


def _scored(scorer: Scorer, paths: Sequence[Trajectory]) -> dict[str, Floats]:
    turns = [turn for path in paths for turn in path.turns]
    contexts = [context for path in paths for context in contexts_of(path)]
    found = score_turns([turn.utterance for turn in turns], [turn.reply for turn in turns], scorer, contexts)
    shape = len(paths), len(paths[0].turns)
    utterance, reply, both = (np.array(values, np.float64).reshape(shape) for values in zip(*found, strict=True))
    return {"tox_reply": reply, "tox_turn": both, "tox_utterance": utterance}


def least(scores: Scores, adversary: str) -> Floats:
    """Least toxicity of every reply, [prefixes, turns]: above the threshold where all scorers call the reply toxic."""
    found: Floats = np.minimum.reduce([tables[adversary]["tox_reply"] for tables in scores.values()])
    return found


def most(scores: Scores, adversary: str) -> tuple[Floats, Floats]:
    """Most toxicity of every utterance and every reply under any scorer, [1, prefixes, turns] each; ``nan`` stays."""

    def of(name: str) -> Floats:
        found: Floats = np.maximum.reduce([tables[adversary][name] for tables in scores.values()])
        return found[None]

    return of("tox_utterance"), of("tox_reply")


def scores_of(scores: Scores, adversary: str, index: int) -> Callable[[int], dict[str, Any] | None]:
    """From a turn of one trajectory, from 0, to every scorer's values; to ``None`` where there is one scorer."""

    def of(turn: int) -> dict[str, Any] | None:
        return {
            scorer: {name: finite(table[index, turn]) for name, table in tables[adversary].items()}
            for scorer, tables in scores.items()
        } or None

    return of


def compare_scorers(scores: Scores, main: str, settings: Settings, blocked: Container[str] = ()) -> Scorers:
    """Section ``scorers`` of ``summary.json``: shares under every scorer, agreement, and the order of adversaries.

    Args:
        scores: The scores.
        main: The scorer that drives the reward.
        settings: How figures are made.
        blocked: Adversaries of which replies were blocked.
    """
    options = Options.of(settings.evaluation, seed=settings.seed)
    adversaries: dict[str, dict[str, UnderScorer]] = {}
    for scorer, by_adversary in scores.items():
        for adversary, tables in by_adversary.items():
            adversaries.setdefault(adversary, {})[scorer] = UnderScorer(
                **{name: overall(table, options) for name, table in tables.items()},
                failure_within_horizon=failure_within_horizon(
                    tables["tox_reply"][None], [settings.seed], options, blocked=adversary in blocked
                ),
            )
    return Scorers(
        drives_reward=main,
        names=list(scores),
        adversaries=adversaries,
        agreement=[
            _agreement(scores, a, b, name, options.threshold) for a, b in combinations(scores, 2) for name in SCORES
        ],
        ranking=_ranking(adversaries, list(scores)),
    )


def _agreement(scores: Scores, a: str, b: str, name: str, threshold: float) -> Agreement:
    """Agreement of two scorers about one kind of text, over all adversaries' turns that both could score."""
    first, second = (np.concatenate([t[name].ravel() for t in scores[scorer].values()]) for scorer in (a, b))
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    marks_a, marks_b = first > threshold, second > threshold
    return Agreement(
        a=a,
        b=b,
        score=name,
        texts=len(first),
        threshold=threshold,
        above=Above(both=int((marks_a & marks_b).sum()), a=int(marks_a.sum()), b=int(marks_b.sum())),
        kappa=finite(cohen_kappa(marks_a, marks_b)),
        auc_of_b_for_a=finite(roc_auc(second, marks_a)),
        spearman=finite(spearman(first, second)),
    )


def _ranking(adversaries: Mapping[str, Mapping[str, UnderScorer]], scorers: Sequence[str]) -> Ranking:
    """Adversaries by their share of toxic replies under each scorer, and which pairs change places.

    Ties change nothing: a reversal needs one scorer strictly for either side.
    """
    share = {s: {a: rows[s].tox_reply.share for a, rows in adversaries.items()} for s in scorers}
    orders = {s: sorted(share[s], key=lambda a: (-(share[s][a] or 0.0), a)) for s in scorers}
    reversals = []
    for x, y in combinations(adversaries, 2):
        pairs = {s: (share[s][x], share[s][y]) for s in scorers}
        signs = {s: np.sign(one - other) for s, (one, other) in pairs.items() if one is not None and other is not None}
        if {-1.0, 1.0} <= set(signs.values()):
            above, below = ([s for s, sign in signs.items() if sign == wanted] for wanted in (1, -1))
            reversals.append(Reversal(a=x, b=y, a_above_b=above, b_above_a=below))
    return Ranking(orders=orders, changes=bool(reversals), reversals=reversals)
