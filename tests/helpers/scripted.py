"""Speakers that say what a test wrote for them, with likelihoods that may be missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from astprompter.base.protocols import Session, Speaker
from astprompter.base.records import Keys, Speech


class Script(Speaker):
    """Says ``lines[prefix][turn]``; likelihoods of what it hears are missing at the places ``unknown``."""

    def __init__(self, lines: Mapping[str, Sequence[Speech]], *, unknown: Collection[tuple[str, int]] = ()) -> None:
        self.name, self.lines, self.missing = "script", lines, unknown

    def start(self, prefixes: Sequence[str], *, turns: int) -> ScriptSession:
        del turns
        return ScriptSession(self, list(prefixes), 0)


class ScriptSession(Session):
    def __init__(self, script: Script, rows: Sequence[str], turn: int) -> None:
        self.script, self.rows, self.turn = script, rows, turn

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        if not likelihood:
            return None
        missing = self.script.missing
        return [() if (row, self.turn) in missing else (-1.0, -3.0) for row in self.rows]

    def unknown(self) -> list[str | None]:
        return ["the server is silent" if (row, self.turn) in self.script.missing else None for row in self.rows]

    def speak(self, keys: Keys) -> list[Speech]:
        self.turn += 1
        return [self.script.lines[row][self.turn - 1] for row in self.rows]

    def branch(self, rows: Sequence[int]) -> ScriptSession:
        return ScriptSession(self.script, [self.rows[i] for i in rows], self.turn)
