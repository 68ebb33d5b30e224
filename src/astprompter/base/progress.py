"""How long work tells that it moves: the library calls, the command line draws. Notices go through ``logging``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Show a task of ``total`` units while the context is open."""


class Silent:
    """Shows nothing: the library's default."""

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """Do nothing with the units."""
        del description, total, unit
        yield lambda count: None
