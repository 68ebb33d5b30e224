"""Output that cannot fail: what a terminal lacks, or a reader who has gone, changes neither exit code nor result."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_PLAIN = {0x2500 + i: "+" for i in range(128)} | str.maketrans("─━│┃▒–⏎·’", "--||#-|.'", "") | {ord("…"): "..."}
"""What we write beyond ASCII, in it."""


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What stands in for characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101
    return error.object[error.start : error.end].translate(_PLAIN).encode("ascii", "replace").decode(), error.end


codecs.register_error("astprompter", _plainer)


class Output:
    """A text stream that shows as much as it can.

    Attributes:
        fault: Why what was written did not all arrive; ``None`` where it did, or where its reader left of himself.
        buffer: None: a command line library that finds one writes past this class.
    """

    buffer = None

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks become others that it has."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "astprompter").decode(encoding))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """From here on everything goes nowhere, what Python itself writes at its end too."""
        if error.errno != errno.EPIPE:
            self.fault = self.fault or error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        """What else a stream has."""
        return getattr(self._stream, name)


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """Put :class:`Output` before both standard streams; a process may have been started without them."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Output(stream) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


def fault() -> str:
    """Why the standard output did not arrive where it was sent; empty where it did."""
    if sys.stdout is not None:
        sys.stdout.flush()
    lost = getattr(sys.stdout, "fault", None)
    return (lost.strerror or str(lost)) if lost else ""
