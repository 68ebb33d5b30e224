"""Progress bars of long work, drawn by tqdm: in a terminal and in a notebook. Notices go through ``logging``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from .processes import is_main

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


class Bars:
    """Shows bars with rates and time left, on the standard error stream or as widgets of a notebook."""

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar while the context is open."""
        from tqdm.auto import tqdm

        with tqdm(desc=description, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:
            _shown.append(tqdm)
            try:
                yield bar.update
            finally:
                _shown.pop()


_shown: list[Any] = []
"""Kinds of the bars that are open."""


def above_bars() -> AbstractContextManager[None]:
    """While it is open no bar is drawn, so that what is printed stands above them."""
    return _shown[-1].external_write_mode() if _shown else nullcontext()


def progress_of(wanted: bool | Progress | None) -> Progress:
    """What a caller asked for: bars for ``True``, nothing for ``False`` and ``None``; one of several processes shows.

    Args:
        wanted: Whether to show bars, or where to show progress.
    """
    if wanted is True:
        return Bars() if is_main() else Silent()
    return wanted or Silent()
