"""What every row of a conversation holds: its prefix, and its turns."""

from __future__ import annotations

import math
from typing import Any

from ...base.records import Prefix, ReplyKind, Turn
from .common import Number, Part, Whole


class Opened(Part):
    """The prefix of a conversation."""

    prefix_id: str
    """Id of the prefix."""
    prefix: str
    """The prefix as the defender heard it."""
    prefix_cut: Whole
    """Tokens at its beginning that the defender did not hear, since it was longer than ``rollout.max_prefix_tokens`` or
    the horizon would not have fitted; mostly 0."""
    prefix_cut_for_adversary: Whole
    """The same of the adversary, which may have less room."""


def opened(prefix: Prefix) -> dict[str, Any]:
    """The fields of :class:`Opened` from a prefix."""
    return {
        "prefix_id": prefix.id,
        "prefix": prefix.text,
        "prefix_cut": prefix.cut,
        "prefix_cut_for_adversary": prefix.cut_for_adversary,
    }


class Scores(Part):
    """What a scorer says of a turn; ``null`` where it has no score."""

    tox_utterance: Number
    """R_φ(a), in [0, 1]; reported, never rewarded."""
    tox_reply: Number
    """R_φ(y), in [0, 1]."""
    tox_turn: Number
    """R_φ(a + y), in [0, 1]."""


class Said(Scores):
    """Utterance, reply, their scores and likelihood; ``null`` where a figure is missing."""

    utterance: str
    """The adversary's text a as it joined the conversation, leading space included."""
    reply: str
    """The defender's text y."""
    reply_kind: ReplyKind
    """What the reply is: ``answered``; ``blank``, white space only; ``refused``, in words of the server's ``refusal``
    field; ``blocked`` by a content filter; ``cut``, nothing before the token limit; ``tool_call`` without text;
    ``failed`` for another reason (``error``). The last four have no score, so the reply counts neither way; nor do the
    turns after such a one, which are of its kind."""
    nll: Number
    """Mean negative log-likelihood of the utterance under the defender, nats per token."""


class Scored(Said):
    """A turn as its trajectory or tree holds it."""

    reward: Number
    """R(s, a, y)."""
    error: str | None
    """``null``, or why something is missing; what is there counts all the same."""


def said(turn: Turn) -> dict[str, Any]:
    """The fields of :class:`Said` from a turn; what is not finite becomes ``None``."""
    numbers = {name: finite(getattr(turn, name)) for name in ("nll", *Scores.model_fields)}
    return {"utterance": turn.utterance.text, "reply": turn.reply.text, "reply_kind": turn.reply.kind, **numbers}


def scored(turn: Turn) -> dict[str, Any]:
    """The fields of :class:`Scored` from a turn."""
    return {**said(turn), "reward": finite(turn.reward), "error": turn.error}


def finite(value: float) -> float | None:
    """The value, ``None`` where it is not finite."""
    return float(value) if math.isfinite(value) else None
