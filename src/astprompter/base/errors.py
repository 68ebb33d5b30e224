"""Errors that are told in one line, without a traceback: the user's to mend (exit code 2), or the run's own (1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input or settings.

    The message is one line that names the file, line, setting or model concerned and the remedy. Whatever it quotes,
    it can be shown: line breaks, control codes and half characters are escaped.

    Attributes:
        code: Exit code of the command line.
    """

    code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(" ".join(message.split("\n")), 8000))


class RunError(UserError):
    """What ended a run though its input was right: a server that is down, a full disk, losses that are no numbers."""

    code = 1


class OutageError(RunError):
    """A server that no longer answers as it should; once it does, the work goes on where it stopped."""


class RowError(UserError):
    """A mistake in one row of a file; the rows around it may be read without it."""


def one_line(text: str, most: int = 4096) -> str:
    """The text for a message: line breaks, control codes and half characters escaped, cut to ``most`` characters."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, else a list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(names)}."


def words_of(error: BaseException, *, kind: bool = False) -> str:
    """What an exception says, in one line; ``kind`` puts the name of its type first."""
    return " ".join((f"{type(error).__name__}: {error}" if kind else str(error)).split())
