"""Names of the adversaries that every table knows, and what a target on the command line means by them."""

from __future__ import annotations

UNTUNED, PROBING, HUMAN = "untuned", "probing", "human"
OURS = "ours"
"""The adversary that a study is about."""


def dialogues_of(target: str) -> str | None:
    """Source of the dialogues that a target replays; ``None`` where it is a model."""
    if target == PROBING:
        return "embedded"
    return target.removeprefix(f"{HUMAN}:") if target.startswith(f"{HUMAN}:") else None
