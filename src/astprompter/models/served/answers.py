"""What the body of an answer says: its JSON, its message, and whether a content filter refused the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_FILTERED = frozenset({
    "content_filter", "responsibleaipolicyviolation",  # Azure's error.code and error.innererror.code
    "content_policy_violation", "moderation_blocked", "invalid_prompt",  # OpenAI's
    "data_inspection_failed",
})  # fmt: skip
"""Codes, in small letters, by which a server says that a content filter refused the text."""


class BadAnswerError(Exception):
    """The server answered, but not in the form that was asked for; worth another try."""


def json_of(content: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        BadAnswerError: It is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadAnswerError("answer is not JSON") from None


def filtered(content: bytes) -> bool:
    """Whether an error answer says that a content filter refused the text."""
    try:
        return not _FILTERED.isdisjoint(_codes(json_of(content)))
    except BadAnswerError:
        return False


def _codes(found: Any) -> Iterator[str]:
    """Codes of an error answer, from the outside to the inside."""
    while isinstance(found, dict):
        yield from (str(found.get(name)).lower() for name in ("code", "type"))
        found = next((found[name] for name in ("error", "innererror") if isinstance(found.get(name), dict)), None)


def message_of(content: bytes) -> str:
    """What an error answer says: its JSON message if it has one, else its first characters."""
    try:
        found = json_of(content)
    except BadAnswerError:
        return content[:2000].decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        while isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)
