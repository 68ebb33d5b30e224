"""Where branches are counted (``coverage run``): those of fast tests, which have a bar of their own, apart."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
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
    config, own, of_threads = os.environ.pop(_CONFIG, None), sys.gettrace(), threading.gettrace()
    if config:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if config:
            os.environ[_CONFIG] = config
            sys.settrace(own)
            threading.settrace(of_threads)  # type: ignore[arg-type]


def stop_counting() -> None:
    """Count no longer in a process that was forked from one that counted nothing then."""
    if _CONFIG in os.environ:
        return
    import posix

    if current := _current():
        current._auto_save = False
        current.stop()
    os._exit = posix._exit  # type: ignore[attr-defined]


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
