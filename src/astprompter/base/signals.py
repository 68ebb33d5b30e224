"""Ctrl-C and SIGTERM: the first one unwinds whatever runs, a second one ends the process at once.

Nothing is saved on the way out, because nothing needs to be: what a run has is on disk after every iteration, and every
file is written so that death at any moment leaves a whole one. The iteration under way is made again by ``--resume``.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from .errors import OutageError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the process to stop.

    It is no ``Exception``, so that nothing takes it for an error to mend, and no ``KeyboardInterrupt``, which the
    command line library would answer by itself.

    Attributes:
        number: The signal.
        remedy: How to go on, in words.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number, self.remedy = number, "run the command again"

    @property
    def code(self) -> int:
        """Exit code, as a shell reports it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` at the first signal that comes while the context is open.

    A signal that whoever started the process has it ignore (``nohup``, a shell's background job) stays ignored. Outside
    the main thread nothing changes.
    """

    def stop(number: int, frame: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # raised outside the main thread
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is stop:
                signal.signal(each, handler)


@contextlib.contextmanager
def going_on(remedy: str | Callable[[], str]) -> Iterator[None]:
    """Say, to whoever interrupts what is inside, and where a server's outage does, what is kept and how to go on."""
    try:
        yield
    except (Interrupted, OutageError) as stop:
        said = remedy if isinstance(remedy, str) else remedy()
        if isinstance(stop, OutageError):
            raise OutageError(f"{stop}; {said}") from None
        stop.remedy = said
        raise
