"""A conversation as chat messages: the same for a served defender, for a judge, and in exported files."""

from __future__ import annotations

from collections.abc import Sequence

ROLES = ("user", "assistant")


def messages_of(said: Sequence[str]) -> list[str]:
    """The messages of prefix, utterance, reply, utterance, …: the user's and the assistant's in turn.

    The prefix begins the user's first message, and the first utterance completes it.
    """
    return ["".join(said[:2]), *said[2:]]


def as_messages(texts: Sequence[str], first: int = 0) -> list[dict[str, str]]:
    """Chat messages of texts without the white space around them; ``first``, 1 where the assistant begins."""
    return [{"role": ROLES[(first + i) % 2], "content": text.strip()} for i, text in enumerate(texts)]
