"""Conversations of the estimator: components speak, the defender answers several times, replies are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..base.protocols import Session, Speaker
from ..base.randomness import derive, uniform
from ..base.records import Keys, Speech
from .events import Event, fates
from .speaker import BlendedChatSession, BlendedModel, BlendedSession

_ADVERSARY, _DEFENDER, _CHOICE = 1_000, 2_000, 3_000
"""Names of streams; utterances and first replies are those of an evaluation with the same keys."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a conversation.

    Attributes:
        utterance: What was said.
        replies: The replies, the first one first; none where the utterance rules a failure out.
        scores: Toxicity of each; ``nan`` where it could not be assessed.
        ratios: ℓ of the utterance under every proposal [Q].
        natural: log p̃ of the utterance, end of text included.
        goes_on: Number of the reply with which the conversation goes on; ``None`` where it stops.
        tox_utterance: Most toxicity of the utterance under every scorer, where clean failures are asked.
        most: The same of each reply, where there are several scorers.
    """

    utterance: str
    replies: tuple[str, ...]
    scores: tuple[float, ...]
    ratios: tuple[float, ...]
    natural: float
    goes_on: int | None
    tox_utterance: float = math.nan
    most: tuple[float, ...] = ()


def converse(
    speaker: BlendedModel,
    defender: Speaker,
    event: Event,
    prefixes: Sequence[str],
    voices: npt.NDArray[np.int64],
    keys: Keys,
    *,
    replies: int,
) -> list[list[Said]]:
    """Hold one conversation per row until no reply of a turn lets it go on, or the horizon.

    One goes on from a random reply that did not fail; and where clean failures are asked, that is clean. An utterance
    that is not clean settles it without an answer.

    Args:
        speaker: Says the utterances.
        defender: Answers each ``replies`` times, independently.
        event: What counts as a failure.
        prefixes: Openings.
        voices: Who speaks at which turn: a proposal or ``NATURALLY`` [rows, turns].
        keys: One random key per row; a conversation depends on its own key alone.
        replies: m.

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
            speaking, answering, event, [prefixes[name] for name in names.tolist()],
            [found[name] for name in names.tolist()],
            keys, voices[names, turn], replies=replies,
        )  # fmt: skip
        for name, said in zip(names, turns, strict=True):
            found[name].append(said)
        chosen = [(row, said.goes_on) for row, said in enumerate(turns) if said.goes_on is not None]
        if turn == horizon - 1 or not chosen:
            break
        rows = [row for row, _ in chosen]
        if len(rows) < len(names):
            speaking = speaking.branch(rows)
        places = [answers.places[row] * replies + number for row, number in chosen]
        answering = answers.session
        if len(places) < len(answers.speeches):
            answering = answering.branch(places)
        speaking.hear([answers.speeches[place] for place in places])
        names, keys = names[rows], keys[rows]
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """A session of ``replies`` rows for each conversation that is answered, what it said, and where each stands."""

    session: Session
    speeches: list[Speech]
    places: dict[int, int]


def _take_turn(
    speaking: BlendedSession | BlendedChatSession, answering: Session, event: Event, prefixes: Sequence[str],
    before: Sequence[Sequence[Said]], keys: Keys, voices: npt.NDArray[np.int64], *, replies: int,
) -> tuple[_Answers, list[Said]]:  # fmt: skip
    utterances, ratios, natural = speaking.speak_as(derive(keys, _ADVERSARY), voices)
    heard = [(prefix, *_texts(turns)) for prefix, turns in zip(prefixes, before, strict=True)]
    told = event.clean is not None
    spoken = event.utterances(utterances, heard)[1] if told else np.zeros(len(keys))
    live = np.flatnonzero(~event.settled(spoken))
    if 0 < len(live) < len(keys):
        answering = answering.branch(live.tolist())
    answers = _answer(answering, [utterances[row] for row in live], keys[live], live, replies)
    rows = np.repeat(live, replies).tolist()
    found = event.replies(
        [utterances[row] for row in rows], answers.speeches, [(*heard[row], utterances[row].text) for row in rows]
    )
    unknown = np.isnan(spoken[rows])  # an utterance without a score is not known to be clean
    scores, most = (np.where(unknown, np.nan, own) for own in found)
    going = fates(scores, most, event.threshold, event.clean).going
    choices, turns = uniform(derive(keys, _CHOICE), 0), []
    for row, utterance in enumerate(utterances):
        place = answers.places.get(row, len(live))  # past the end, where there is no reply
        own = slice(place * replies, (place + 1) * replies)
        able = np.flatnonzero(going[own])
        turns.append(
            Said(
                utterance.text, tuple(speech.text for speech in answers.speeches[own]), tuple(scores[own].tolist()),
                tuple(map(float, ratios[row])), float(natural[row]),
                int(able[int(choices[row] * len(able))]) if len(able) else None,
                float(spoken[row]) if told else math.nan, tuple(most[own].tolist()) if event.others and told else (),
            )
        )  # fmt: skip
    return answers, turns


def _answer(
    answering: Session, utterances: Sequence[Speech], keys: Keys, rows: npt.NDArray[np.int64], replies: int
) -> _Answers:
    if not utterances:
        return _Answers(answering, [], {})
    answering.hear(utterances)
    again = np.repeat(np.arange(len(keys)), replies)
    if replies > 1:
        answering = answering.branch(again.tolist())
    numbers = np.tile(np.arange(replies), len(keys))
    places = {row: place for place, row in enumerate(rows.tolist())}
    return _Answers(answering, answering.speak(derive(keys[again], _DEFENDER + numbers)), places)


def _texts(turns: Sequence[Said]) -> list[str]:
    """What was said, in order; of the replies those that were gone on with."""
    return [text for said in turns for text in (said.utterance, said.replies[said.goes_on or 0])]
