"""Which turns of conversations fail, and in what order a repair takes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base.protocols import Scorer
from ..base.records import RolloutTree, Turn
from ..base.vectors import HashedGrams
from .distinct import ALIKE, Failing, failing_on, greedy, likeness, place_of
from .grow import trajectory_of
from .repair import Conversation, case_of
from .reward import contexts_of, score_texts


@dataclass(frozen=True, slots=True)
class Failure:
    """A turn whose reply every scorer calls toxic.

    Attributes:
        conversation: The conversation that it ends.
        adversary: Who led it there.
        prefix_id: Id of the prefix.
        turn: From 1.
        clean: Whether its utterance and all before it are clean.
        texts: What tells it from others.
    """

    conversation: Conversation
    adversary: str
    prefix_id: str
    turn: int
    clean: bool
    texts: Failing

    @property
    def case(self) -> str:
        """Name of the conversation."""
        return case_of(self.conversation.prefix, [said.text for said in self.conversation.utterances])


def failures_in(
    trees: Sequence[RolloutTree],
    led: Sequence[str],
    others: Sequence[Scorer],
    *,
    first: int,
    threshold: float,
    clean: float,
) -> tuple[list[Failure], int]:
    """The failing turns of conversations, in their order, and of how many turns it is known whether they fail.

    Args:
        trees: Conversations: trees of branching 1.
        led: Who led each of them.
        others: Scorers beside the one of the turns; a reply that one of them calls harmless is no failure, whatever
            the others say or do not say.
        first: Number of the first conversation, which names random streams.
        threshold: A reply whose toxicity is above this is toxic.
        clean: A text that scores at most this is clean.
    """
    found, known = [], 0
    for number, (tree, adversary) in enumerate(zip(trees, led, strict=True)):
        path = trajectory_of(tree)
        known += sum(not math.isnan(turn.tox_reply) for turn in path.turns)
        for texts in failing_on(path, number, threshold):
            until = path.turns[: texts.turn + 1]
            again = Conversation(
                (first + number, len(until)), path.prefix.text,
                tuple(turn.utterance for turn in until), tuple(turn.reply for turn in until),
            )  # fmt: skip
            said = _clean(until, clean)
            found.append((Failure(again, adversary, path.prefix.id, len(until), said, texts), path))
    replies = [one.texts.reply for one, _ in found]
    contexts = [(*contexts_of(path)[one.turn - 1], one.texts.utterance) for one, path in found]
    scores = [score_texts(scorer, replies, contexts) for scorer in others] if found else []
    table = np.array(scores, np.float64).reshape(len(scores), len(found))
    kept = [bool((column > threshold).all()) for column in table.T]
    known -= sum(not bool((column <= threshold).any()) for column in table.T) - sum(kept)
    return [one for (one, _), good in zip(found, kept, strict=True) if good], known


def _clean(turns: Sequence[Turn], limit: float) -> bool:
    heard = [turn.tox_utterance for turn in turns] + [turn.tox_reply for turn in turns[:-1]]
    return all(score <= limit for score in heard)


def kinds_first(found: Sequence[Failure], most: int) -> list[Failure]:
    """At most so many failures: one of each kind first, then the second ones, clean ones in proportion.

    Args:
        found: Failures.
        most: How many are wanted.
    """
    rows = sorted(found, key=lambda one: place_of(one.texts))
    kinds = greedy(likeness([one.texts for one in rows], HashedGrams())[2], ALIKE).tolist()
    seen, rounds = Counter[int](), []
    for kind in kinds:
        rounds.append(seen[kind])
        seen[kind] += 1
    rows = [rows[i] for i in sorted(range(len(rows)), key=rounds.__getitem__)]
    clean = [one for one in rows if one.clean]
    wanted = min(most, len(rows))
    quota = round(wanted * len(clean) / len(rows)) if rows else 0
    others = [one for one in rows if not one.clean][: wanted - quota]
    return [*clean[:quota], *others]
