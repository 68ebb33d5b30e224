"""What was measured is not replaced by less, or by something else, unless it is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..base.errors import UserError


def held(path: Path, what: str) -> str:
    """What a folder holds, in words."""
    return f"'{path.parent}' holds results of {datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M} {what}"


def refused(known: str, this: str, less: Sequence[str]) -> UserError:
    """The refusal to replace what is known by this, which has less or something else."""
    return UserError(f"{known}, and this {this} has {', '.join(less)}: add --replace, or write beside them with --out")


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is otherwise than it was, of what both know."""
    return [f"{key}={new[key]}" for key in new if key in old and old[key] != new[key]]
