"""Conversations of the estimator: components speak, the defender answers several times, and what fails is weighed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..base.protocols import Context, Scorer, Session, Speaker
from ..base.randomness import derive, uniform
from ..base.records import Keys, Speech
from ..rollout.reward import score_texts
from .speaker import BlendedModel, BlendedSession

Floats = npt.NDArray[np.float64]
_ADVERSARY, _DEFENDER, _CHOICE = 1_000, 2_000, 3_000
"""Names of streams; utterances and first replies are those of an evaluation with the same keys."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a conversation.

    Attributes:
        utterance: What was said.
        replies: The replies, the first one first.
        scores: Toxicity of each; ``nan`` where it could not be assessed.
        ratios: ℓ of the utterance under every proposal [Q].
        natural: log p̃ of the utterance, end of text included.
        goes_on: Number of the reply with which the conversation goes on; ``None`` where it stops.
    """

    utterance: str
    replies: tuple[str, ...]
    scores: tuple[float, ...]
    ratios: tuple[float, ...]
    natural: float
    goes_on: int | None

    def shares(self, threshold: float) -> tuple[float, float, float]:
        """Shares of replies that failed, that could not be assessed, and that did neither."""
        failed = sum(score > threshold for score in self.scores)
        unknown = sum(map(math.isnan, self.scores))
        count = len(self.scores)
        return failed / count, unknown / count, (count - failed - unknown) / count


def converse(
    speaker: BlendedModel,
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[str],
    voices: npt.NDArray[np.int64],
    keys: Keys,
    *,
    replies: int,
    threshold: float,
) -> list[list[Said]]:
    """Hold one conversation per row until every reply of a turn failed, or none could be assessed, or the horizon.

    Args:
        speaker: Says the utterances.
        defender: Answers each ``replies`` times, independently.
        scorer: Toxicity of replies.
        prefixes: Openings.
        voices: Who speaks at which turn: a proposal or ``NATURALLY`` [rows, turns].
        keys: One random key per row; a conversation depends on its own key alone.
        replies: m.
        threshold: A reply whose toxicity is above this failed.

    Returns:
        The turns of every conversation.
    """
    found: list[list[Said]] = [[] for _ in prefixes]
    horizon = voices.shape[1]
    speaking, answering = speaker.start(prefixes, turns=horizon), defender.start(prefixes, turns=horizon)
    names = np.arange(len(prefixes))
    for turn in range(horizon):
        keys = derive(keys, 0)
        answers, turns = _take_turn(
            speaking, answering, scorer, [prefixes[name] for name in names.tolist()],
            [found[name] for name in names.tolist()],
            keys, voices[names, turn], replies=replies, threshold=threshold,
        )  # fmt: skip
        for name, said in zip(names, turns, strict=True):
            found[name].append(said)
        chosen = [(row, said.goes_on) for row, said in enumerate(turns) if said.goes_on is not None]
        if turn == horizon - 1 or not chosen:
            break
        rows = [row for row, _ in chosen]
        if len(rows) < len(names):
            speaking = speaking.branch(rows)
        if replies > 1 or len(rows) < len(names):
            answering = answers.session.branch([row * replies + number for row, number in chosen])
        speaking.hear([answers.speeches[row * replies + number] for row, number in chosen])
        names, keys = names[rows], keys[rows]
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """A session of ``replies`` rows for each conversation, and what it said."""

    session: Session
    speeches: list[Speech]


def _take_turn(
    speaking: BlendedSession, answering: Session, scorer: Scorer, prefixes: Sequence[str],
    before: Sequence[Sequence[Said]], keys: Keys, voices: npt.NDArray[np.int64], *, replies: int, threshold: float,
) -> tuple[_Answers, list[Said]]:  # fmt: skip
    utterances, ratios, natural = speaking.speak_as(derive(keys, _ADVERSARY), voices)
    answering.hear(utterances)
    rows = np.repeat(np.arange(len(keys)), replies)
    if replies > 1:
        answering = answering.branch(rows.tolist())
    numbers = np.tile(np.arange(replies), len(keys))
    speeches = answering.speak(derive(keys[rows], _DEFENDER + numbers))
    heard = [
        (prefix, *_texts(turns), said.text) for prefix, turns, said in zip(prefixes, before, utterances, strict=True)
    ]
    scores = scores_of(scorer, [utterances[row] for row in rows], speeches, [heard[row] for row in rows])
    choices = uniform(derive(keys, _CHOICE), 0)
    turns = []
    for row, utterance in enumerate(utterances):
        own = slice(row * replies, (row + 1) * replies)
        clean = [number for number, score in enumerate(scores[own]) if score <= threshold]
        turns.append(
            Said(
                utterance.text, tuple(speech.text for speech in speeches[own]), tuple(map(float, scores[own])),
                tuple(map(float, ratios[row])), float(natural[row]),
                clean[int(choices[row] * len(clean))] if clean else None,
            )
        )  # fmt: skip
    return _Answers(answering, speeches), turns


def _texts(turns: Sequence[Said]) -> list[str]:
    """What was said, in order; of the replies those that were gone on with."""
    return [text for said in turns for text in (said.utterance, said.replies[said.goes_on or 0])]


def scores_of(
    scorer: Scorer, utterances: Sequence[Speech], replies: Sequence[Speech], heard: Sequence[Context]
) -> Floats:
    """Toxicity of replies in one call, ``nan`` for those that could not be assessed: [rows].

    Args:
        scorer: Toxicity.
        utterances: What each reply answers.
        replies: The replies.
        heard: All that was said before each reply.
    """
    texts = [None if a.error or not y.assessable else y.text for a, y in zip(utterances, replies, strict=True)]
    return np.array(score_texts(scorer, texts, heard))


def score_utterances(scorer: Scorer, utterances: Sequence[Speech], heard: Sequence[Context]) -> Floats:
    """Toxicity of utterances, ``nan`` where there is none: [rows]."""
    return np.array(score_texts(scorer, [None if said.error else said.text for said in utterances], heard))
