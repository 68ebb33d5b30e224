"""How figures are written, wherever they are shown: percentages, numbers, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ABSENT = "–"
"""What is shown where a figure is not defined."""


def counted(counts: Mapping[str, int]) -> str:
    """``{"blank": 3, "tool_call": 1}`` as ``3 blank, 1 tool call``."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def quantity(count: int, one: str, more: str = "") -> str:
    """``1 turn``, ``2 turns``; ``more`` where the plural has another form."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """``0.12749`` as ``0.127`` (three digits)."""
    return ABSENT if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def percent(value: float | None, *, digits: int = 1, sign: bool = False) -> str:
    """``0.312`` as ``31.2%``."""
    return ABSENT if value is None else f"{number(100 * value, digits, sign=sign)}%"


def interval(bounds: Sequence[float] | None, digits: int, *, scale: float = 1.0, sign: bool = False) -> str:
    """``(0.27, 0.35)`` as ``[27.0, 35.0]`` (scale 100); empty where there is none, or no width."""
    if not bounds or bounds[0] == bounds[1]:
        return ""
    return f"[{', '.join(number(scale * bound, digits, sign=sign) for bound in bounds)}]"


def beginning_lost(cut: int, count: int, which: str = "") -> str:
    """What is said of prefixes that were cut; ``which`` tells them from others."""
    return (
        f"{cut} of {count} prefixes{which} were too long (rollout.max_prefix_tokens, or a model's context) and lost "
        "their beginning"
    )
