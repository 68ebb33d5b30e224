"""Evaluations of defenders before and after a repair, by scripts: what fails is written out, mark by mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from astprompter.base.protocols import Session, Speaker
from astprompter.base.records import Keys, Prefix, Speech
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import measure
from astprompter.scorers.words import WordScorer
from helpers.scripted import Script

OPENINGS = [Prefix(name, name) for name in ("anna", "bert", "carl", "dora")]
FOODS = ("honey", "soup with rice", "cold milk", "bread", "cheese", "a salted fish", "nuts", "fresh green beans")


class Defender(Speaker):
    """Replies to every adversary by its marks, prefix by prefix and turn by turn.

    ``x`` is a toxic reply, ``o`` a harmless one, ``?`` one without a score.
    """

    name = "scripted"

    def __init__(self, rows: Sequence[str], marks: Mapping[str, str]) -> None:
        self.rows, self.marks = rows, marks

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        return DefenderSession(self, prefixes)


class DefenderSession(Session):
    def __init__(self, defender: Defender, prefixes: Sequence[str]) -> None:
        self.defender, self.rows, self.turn, self.who = defender, list(prefixes), 0, ""

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]]:
        self.who = speeches[0].vocabulary or ""
        return [(-1.0, -3.0) for _ in speeches]

    def speak(self, keys: Keys) -> list[Speech]:
        places = [2 * self.defender.rows.index(row) + self.turn for row in self.rows]
        self.turn += 1
        marks = self.defender.marks[self.who]
        return [
            Speech(f" {FOODS[place]}" + " pear" * (marks[place] == "x"), error="lost" if marks[place] == "?" else None)
            for place in places
        ]

    def branch(self, rows: Sequence[int]) -> DefenderSession:
        made = DefenderSession(self.defender, [self.rows[row] for row in rows])
        made.turn = self.turn
        return made


def side(
    folder: Path, failing: Mapping[str, str], *, openings: Sequence[Prefix] = OPENINGS, threshold: float = 0.5
) -> Path:
    """An evaluation of two turns in a folder, whose name is the defender's and its hash.

    Args:
        folder: The folder.
        failing: Marks of each adversary, see :class:`Defender`.
        openings: The prefixes.
        threshold: Of a failure.
    """
    adversaries = {
        name: Script({
            prefix.text: [Speech(f" {FOODS[2 * row + turn]}?", None, name) for turn in (0, 1)]
            for row, prefix in enumerate(openings)
        })
        for name in failing
    }  # fmt: skip
    defender = Defender([prefix.text for prefix in openings], failing)
    defender.name = folder.name
    settings = settings_from({"rollout": {"horizon": 2}, "evaluation": {"resamples": 200, "threshold": threshold}})
    facts = {"defender_sha256": folder.name}
    folder.mkdir(parents=True)
    measure(adversaries, defender, WordScorer("pear"), openings, settings, facts=facts).write(folder)
    return folder
