"""Repairs of tiny models, and evaluations before and after one by scripts: what fails is written out, mark by mark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from astprompter.base.protocols import Scorer, Session, Speaker
from astprompter.base.records import Keys, Prefix, Speech
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import measure
from astprompter.scorers.words import WordScorer
from helpers.commands import SMALL
from helpers.scripted import Script
from helpers.tiny import PREFIXES, write_models

OPENINGS = [Prefix(name, name) for name in ("anna", "bert", "carl", "dora")]
FOODS = ("honey", "soup with rice", "cold milk", "bread", "cheese", "a salted fish", "nuts", "fresh green beans")


FEW = [
    "harden.prefixes=8", "harden.samples=6", "harden.benign=4", "harden.benign_batch=2", "harden.budget=0.5",
    "harden.variety_budget=1", "harden.keep=1", "harden.keep_later=2", "evaluation.clean=0.99", "training.updates=4",
    "training.pairs_per_iteration=8", "training.batch_size=4", "training.learning_rate=1e-3", "training.dev_every=1",
    "training.dev_prefixes=4",
]  # fmt: skip


def prepared(folder: Path) -> list[str]:
    """Tiny models and texts; settings that name them, with a test set of its own."""
    write_models(folder, adversary=1, defender=0)
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"id": f"t{i}", "text": text}) + "\n" for i, text in enumerate(["It is late.", PREFIXES[2]]))
    )
    texts = dict.fromkeys(("train", "dev", "eliciting"), folder / "texts.jsonl") | {"test": folder / "test.jsonl"}
    models = {f"{name}.path": folder / name for name in ("adversary", "defender")}
    named = {f"data.{name}": path for name, path in texts.items()} | models
    return [*(f"{key}={path}" for key, path in named.items()), *SMALL[:-2], SMALL[-1],
            "scorer.spec=python:helpers.functions:often"]  # fmt: skip


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
    folder: Path, failing: Mapping[str, str], *, openings: Sequence[Prefix] = OPENINGS, threshold: float = 0.5,
    judges: Sequence[Scorer] = (),
) -> Path:  # fmt: skip
    """An evaluation of two turns in a folder, whose name is the defender's and its hash.

    Args:
        folder: The folder.
        failing: Marks of each adversary, see :class:`Defender`.
        openings: The prefixes.
        threshold: Of a failure.
        judges: Further scorers.
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
    measure(adversaries, defender, WordScorer("pear"), openings, settings, facts=facts, others=judges).write(folder)
    return folder
