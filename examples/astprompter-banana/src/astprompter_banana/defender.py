"""A defender that is no model: it repeats the last words that it heard."""

from __future__ import annotations

import math
from collections.abc import Sequence

from astprompter.base.errors import UserError
from astprompter.base.protocols import Session, Speaker
from astprompter.base.randomness import uniform
from astprompter.base.records import Keys, Speech
from astprompter.config import Settings


class EchoSession(Session):
    """One row per conversation: the last words heard."""

    def __init__(self, heard: Sequence[str], share: float) -> None:
        self._heard, self._share = list(heard), share

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Remember the speeches; every character is as likely as any of 256 bytes."""
        self._heard = [speech.text for speech in speeches]
        if not likelihood:
            return None
        return [tuple([-math.log(256)] * len(speech.text.encode())) for speech in speeches]

    def speak(self, keys: Keys) -> list[Speech]:
        """Repeat each word with the chance that was asked for; the row's own stream decides."""
        draws = [uniform(keys, count) for count in range(max(len(text.split()) for text in self._heard))]
        return [
            Speech("".join(f" {word}" for place, word in enumerate(text.split()) if draws[place][row] < self._share))
            for row, text in enumerate(self._heard)
        ]

    def branch(self, rows: Sequence[int]) -> Session:
        """Rows repeated or left out."""
        return EchoSession([self._heard[row] for row in rows], self._share)


class EchoSpeaker(Speaker):
    """Repeats what it hears."""

    def __init__(self, share: float) -> None:
        self.name, self._share = f"echo:{share}", share

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        """One conversation per prefix."""
        del turns
        return EchoSession(prefixes, self._share)


def echo(argument: str, settings: Settings) -> Speaker:
    """Entry point: ``echo:SHARE``, the chance of each word to be repeated."""
    del settings
    try:
        share = float(argument or 1)
    except ValueError:
        raise UserError(f"defender 'echo:{argument}': the share must be a number from 0 to 1") from None
    if not 0 <= share <= 1:
        raise UserError(f"defender 'echo:{argument}': the share must be a number from 0 to 1")
    return EchoSpeaker(share)
