"""What makes a folder of rounds a set of adversaries."""

from __future__ import annotations

from typing import Any

from .common import Absent, File, Whole


class RoundsFile(File):
    """Only in the folder of ``train --rounds``: its runs ``round-1`` to ``round-K`` are one set of adversaries."""

    rounds: Whole
    """How many there are to be, K."""
    settings: dict[str, Any]
    """All settings by section; every round's but for ``novelty.earlier``, where each adds the rounds before it."""
    started_in: Absent[str] = None
    """As in ``config.json``."""
