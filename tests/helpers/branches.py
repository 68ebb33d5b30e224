"""Where branches are counted (``coverage run``): those of fast tests, which have a bar of their own, apart."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_CONFIG = "COVERAGE_PROCESS_CONFIG"  # by which processes that are started count too
_EVERY = "COUNT_SLOW" in os.environ
_counted: Any = None  # who counts now, and whose branches


def _current() -> Any:
    coverage = sys.modules.get("coverage")
    return coverage and coverage.Coverage.current()


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing, neither here nor in processes that are started meanwhile: counting costs a third more time."""
    current = _current()
    if not current:
        yield
        return
    config = os.environ.pop(_CONFIG, None)
    current.stop()
    try:
        yield
    finally:
        current.start()
        if config:
            os.environ[_CONFIG] = config


@contextlib.contextmanager
def counted(kind: str) -> Iterator[None]:
    """Count what follows as of ``"fast"`` tests; of ``"slow"`` ones only with ``COUNT_SLOW`` in the environment."""
    global _counted  # noqa: PLW0603
    if kind == "slow" and not _EVERY:
        with uncounted():
            yield
        return
    current = _current()
    if current and (current, kind) != _counted:  # in a process that was forked, another one counts
        current.switch_context(kind)
        _counted = (current, kind)
    yield
