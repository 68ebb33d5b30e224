"""What a defender is repaired with: to one attack many replies, the least toxic preferred to the most toxic one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base.progress import Progress, Silent
from ..base.protocols import Context, Scorer, Session, Speaker
from ..base.randomness import key_of
from ..base.records import Keys, Speech
from .grow import in_step

TOGETHER = 64
"""Conversations, or replies to one, that are drawn at once, unless ``rollout.trees_per_batch`` says otherwise."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that can be led again.

    Attributes:
        names: What names its random streams, beside the seed.
        prefix: The prefix, as the defender heard it.
        utterances: What the adversary said; of an attack the last one is what the defender failed at.
        replies: The defender's own replies, as many, of an attack the toxic one last; none where they are another
            defender's: then it answers anew at every turn.
    """

    names: tuple[str | int, ...]
    prefix: str
    utterances: tuple[Speech, ...]
    replies: tuple[Speech, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """New replies to the last utterance of a conversation.

    Attributes:
        said: What they answer: prefix, utterance, reply, utterance, …; the replies are the answering defender's own.
        prompt_ids: The same in the defender's tokens, frames of its chat template included; ``None`` without tokens.
        replies: The replies that are candidates: the one that was found, where it is this defender's, and new ones.
    """

    said: Context
    prompt_ids: tuple[int, ...] | None
    replies: tuple[Speech, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """The extremes among the replies to an attack.

    Attributes:
        chosen: The least toxic one, no failure by any scorer.
        rejected: The most toxic one, a failure by every scorer.
        chosen_toxicity: By the scorer that finds it most toxic.
        rejected_toxicity: By the scorer that finds it least toxic.
        candidates: Different replies that have a score.
    """

    chosen: Speech
    rejected: Speech
    chosen_toxicity: float
    rejected_toxicity: float
    candidates: int


def case_of(prefix: str, utterances: Sequence[str]) -> str:
    """Name of a conversation: a hash of what its user says."""
    said = "\x1f".join([prefix, *utterances])
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def draw_replies(
    attacks: Sequence[Conversation],
    defender: Speaker,
    *,
    samples: int,
    seed: int,
    trees_per_batch: int | None = None,
    progress: Progress | None = None,
) -> list[Drawn]:
    """``samples`` new replies of the defender to each attack, in the order of the attacks.

    Args:
        attacks: The attacks; all with replies of this defender, or all without.
        defender: Hears the conversation turn by turn, as when the attack was found.
        samples: Replies drawn for each attack; each draws from a stream of its own.
        seed: Names the streams.
        trees_per_batch: Replies drawn at once.
        progress: Where progress is shown.
    """
    drawn: dict[int, Drawn] = {}
    step = max(1, (trees_per_batch or TOGETHER) // samples)
    with (progress or Silent()).task("replying", len(attacks) * samples, "replies") as advance:
        for part in in_step([len(attack.utterances) for attack in attacks], step):
            answered = _answered([attacks[i] for i in part], defender, samples=samples, seed=seed)
            drawn.update(zip(part, answered, strict=True))
            advance(len(part) * samples)
    return [drawn[i] for i in range(len(attacks))]


def lead(part: Sequence[Conversation], defender: Speaker, *, seed: int) -> tuple[Session, list[list[str]]]:
    """Lead conversations of as many turns each until their last utterance is heard; returns also what was said."""
    turns = len(part[0].utterances)
    session = defender.start([one.prefix for one in part], turns=turns)
    said = [[one.prefix] for one in part]
    for number in range(turns):
        utterances = [one.utterances[number] for one in part]
        session.hear(utterances)
        replies: Sequence[Speech] = []
        if number < turns - 1 and all(one.replies for one in part):
            replies = [one.replies[number] for one in part]
            session.say(replies)
        elif number < turns - 1:
            replies = session.speak(_keys(seed, part, f"turn {number}"))
        for i, (row, utterance) in enumerate(zip(said, utterances, strict=True)):
            row += [utterance.text, *(reply.text for reply in replies[i : i + 1])]
    return session, said


def _answered(part: Sequence[Conversation], defender: Speaker, *, samples: int, seed: int) -> list[Drawn]:
    """New replies to attacks of as many turns each."""
    session, said = lead(part, defender, seed=seed)
    prompts: Sequence[tuple[int, ...] | None] = session.transcript() or [None] * len(part)
    branched = session.branch([row for row in range(len(part)) for _ in range(samples)])
    numbers = [number for _ in part for number in range(samples)]
    spoken = branched.speak(_keys(seed, [attack for attack in part for _ in range(samples)], *numbers))
    return [
        Drawn(tuple(row), prompt, (*attack.replies[-1:], *spoken[i * samples : (i + 1) * samples]))
        for i, (attack, row, prompt) in enumerate(zip(part, said, prompts, strict=True))
    ]


def _keys(seed: int, rows: Sequence[Conversation], *names: str | int) -> Keys:
    """A random key for each row, by the seed, its attack and a name."""
    each = names if len(names) == len(rows) else names * len(rows)
    return np.array(
        [key_of(seed, "hardening", *attack.names, name) for attack, name in zip(rows, each, strict=True)], np.uint64
    )


def repairs(drawn: Sequence[Drawn], scorers: Sequence[Scorer], *, threshold: float) -> list[Repair | str]:
    """The extremes of the replies to each attack; where there is no pair, why. Blank replies repair nothing.

    Args:
        drawn: Replies.
        scorers: A reply is a failure where all of them call it toxic, and harmless where none does.
        threshold: A reply whose toxicity is above this is toxic.
    """
    texts = [{reply.text: reply for reply in one.replies if reply.assessable and reply.text.strip()} for one in drawn]
    flat = [text for own in texts for text in own]
    contexts = [one.said for one, own in zip(drawn, texts, strict=True) for _ in own]
    table = np.array([scorer.score(flat, contexts) for scorer in scorers]).reshape(len(scorers), len(flat))
    found, start = list[Repair | str](), 0
    for own in texts:
        scores = table[:, start : start + len(own)]
        start += len(own)
        known = [(own[text], column) for text, column in zip(own, scores.T, strict=True) if np.isfinite(column).all()]
        low, chosen = min(((float(c.max()), r.text) for r, c in known), default=(math.inf, ""))
        high, rejected = max(((float(c.min()), r.text) for r, c in known), default=(0.0, ""))
        if low <= threshold < high:
            found.append(Repair(own[chosen], own[rejected], low, high, len(known)))
        else:
            found.append("without a harmless reply" if high > threshold else "without a toxic reply")
    return found
