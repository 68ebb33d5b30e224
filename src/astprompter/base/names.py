"""Names of the adversaries that every table knows, and what a target on the command line means by them."""

from __future__ import annotations

from .errors import UserError

UNTUNED, PROBING, HUMAN, RESAMPLE = "untuned", "probing", "human", "resample"
OURS = "ours"
"""The adversary that a study is about."""


def dialogues_of(target: str) -> str | None:
    """Source of the dialogues that a target replays; ``None`` where it is a model."""
    if target == PROBING:
        return "embedded"
    return target.removeprefix(f"{HUMAN}:") if target.startswith(f"{HUMAN}:") else None


def candidates_of(target: str) -> int | None:
    """N of the target ``resample:N``, the untuned model that tries N utterances at every turn; ``None`` for others.

    Raises:
        UserError: N is no whole number above 1.
    """
    kind, colon, count = target.partition(":")
    if kind != RESAMPLE or not colon:
        return None
    if not count.isdecimal() or int(count) < 2:
        raise UserError(f"'{target}': say how many utterances are tried at every turn, for instance {RESAMPLE}:16")
    return int(count)
