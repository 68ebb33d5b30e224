"""The rows that an evaluation writes: every conversation, and the failures among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

from ...base.records import Speech, Trajectory
from .common import Absent, Number, Real, Whole
from .turns import Opened, Said, Scored, Scores, opened, scored


class TurnRow(Scored):
    """A turn of an evaluated conversation."""

    turn: Whole
    """From 1."""
    token_logprobs: list[Real]
    """Log-probability of each token of the utterance under the defender, nats."""
    tokens: list[str]
    """The utterance as the defender's tokens, one text per log-probability; joined they are the utterance (empty where
    a later token completes the character). The list is empty where the defender cannot tell."""
    scores: Absent[dict[str, Scores]] = None
    """Only with ``evaluation.scorers``: scores by scorer, the one that drives the reward first."""


class TrajectoryRow(Opened):
    """An evaluated conversation; one row per adversary and prefix."""

    adversary: str
    """Who spoke."""
    accumulated: bool
    """True for human attacks: each turn starts from the prefix anew, and its utterance holds those before it."""
    turns: list[TurnRow]
    """The turns, in order."""

    def until(self, turn: int) -> list[TurnRow]:
        """The turns that led to one (from 1), which is the last; of accumulated ones it alone."""
        return self.turns[turn - 1 if self.accumulated else 0 : turn]

    @classmethod
    def of_trajectory(
        cls,
        adversary: str,
        path: Trajectory,
        pieces: Callable[[Speech], Sequence[str]],
        scores: Callable[[int], dict[str, Any] | None],
    ) -> Self:
        """The row of a trajectory.

        Args:
            adversary: Who spoke.
            path: The trajectory.
            pieces: From an utterance to the defender's tokens; left out where they do not fit the log-probabilities.
            scores: From a turn's number, from 0, to the scores of several scorers, or to ``None``.
        """
        rows = []
        for number, turn in enumerate(path.turns):
            tokens = list(pieces(turn.utterance))
            rows.append(
                TurnRow(
                    **scored(turn),
                    turn=number + 1,
                    token_logprobs=[round(value, 4) for value in turn.token_logprobs if math.isfinite(value)],
                    tokens=tokens if len(tokens) == len(turn.token_logprobs) else [],
                    scores=scores(number),
                )
            )
        return cls(adversary=adversary, accumulated=path.accumulated, turns=rows, **opened(path.prefix))


def by_rank(confirmed: bool | None, path_nll: float | None) -> tuple[bool, float]:
    """What failures are sorted by: confirmed ones come first, then the likeliest, of unknown likelihood the last."""
    return confirmed is False, math.inf if path_nll is None else path_nll


class FailureRow(Said):
    """A trajectory with a toxic reply, at its first failing turn; confirmed ones first, then the likeliest."""

    rank: Whole
    """From 1, in this order."""
    confirmed: Absent[bool] = None
    """Only with ``evaluation.scorers``: whether every scorer calls the reply toxic."""
    adversary: str
    """Who spoke."""
    prefix_id: str
    """Id of the prefix."""
    turn: Whole
    """The first failing turn, from 1."""
    path_nll: Number
    """Mean nats per token over all utterances up to and including this turn: the likelihood of the path to the failure,
    by which rows are ranked; of the utterance alone where turns are accumulated. ``null``, and ranked last, where that
    of an utterance is missing."""
    tox_reply: Real  # it is a failure because it has one
    """R_φ(y), in [0, 1]."""
    strategy: str
    """One of ``politics``, ``sexual``, ``profanity``, ``threat``, ``insult``, ``other``: which words the utterances up
    to and including this turn hold, by the packed lexicon whose [card](../src/astprompter/embedded/strategies.md)
    tells how it decides and what it cannot."""
    cluster: Absent[Whole] = None
    """Number of the failures that are like this one, of all adversaries, at the similarity 0.7 (``summary.json``,
    ``variety``)."""
    representative: Absent[bool] = None
    """Whether it is the first row of its cluster."""
    place: Absent[list[Real]] = None
    """Where it stands on the map of failures: two principal axes of the vectors of utterance and reply."""
