"""The adversaries of all runs on one page, and what can be said about them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from ..base.names import OURS, UNTUNED
from ..config import dotted
from ..runs.schema.figures import AdversaryFigures, Comparison
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.study import StudyAdversary
from ..runs.schema.summary import EvaluationConfig
from .read import RunFiles

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Adversary:
    """One measured adversary.

    Attributes:
        label: Name on the page, unique.
        key: Name in its run's files.
        run: The run whose files hold it.
        figures: Its part of ``summary.json``.
        slot: Number of its colour and marker; the first two are the main and the untuned adversary's.
        changes: Settings in which its run differs from the first run's.
    """

    label: str
    key: str
    run: RunFiles
    figures: AdversaryFigures
    slot: int
    changes: tuple[str, ...] = ()

    @property
    def failures(self) -> list[FailureRow]:
        """Its failures."""
        return [row for row in self.run.failures if row.adversary == self.key]

    @property
    def trajectories(self) -> list[TrajectoryRow]:
        """Its conversations."""
        return [row for row in self.run.trajectories if row.adversary == self.key]

    def comparison(self, base: str | None = None) -> Comparison | None:
        """Its paired comparison with ``base``, or with its evaluation's first adversary."""
        rows = self.run.summary.comparisons if self.run.summary else []
        return next((row for row in rows if row.a == self.key and base in (None, row.b)), None)


@dataclass(frozen=True, slots=True)
class Study:
    """What a page is about.

    Attributes:
        runs: All runs.
        adversaries: All adversaries, the main one first, then the untuned one.
        main: The adversary of the conclusion; ``None`` without any evaluation.
        untuned: What it is compared with.
    """

    runs: list[RunFiles]
    adversaries: list[Adversary] = field(default_factory=list)
    main: Adversary | None = None
    untuned: Adversary | None = None

    @property
    def by_label(self) -> dict[str, Adversary]:
        """Adversaries by name."""
        return {a.label: a for a in self.adversaries}

    @property
    def paired(self) -> Comparison | None:
        """The main adversary against the untuned one, paired in one evaluation."""
        row = self.main.comparison() if self.main else None
        return row if row and self.untuned and row.b == self.untuned.key else None

    @property
    def run(self) -> RunFiles:
        """The run that the page is about."""
        return self.main.run if self.main else self.runs[0]

    @property
    def facts(self) -> EvaluationConfig | None:
        """What decided the main evaluation."""
        return self.run.summary.config if self.main and self.run.summary else None

    @property
    def settings(self) -> Settings:
        """Settings of the main adversary's evaluation, or of its training."""
        found = (self.facts.settings if self.facts else {}) or (self.run.config.settings if self.run.config else {})
        return dict(found)

    @property
    def seeds(self) -> int:
        """Seeds of the main evaluation."""
        return len({seed for a in self.adversaries if a.run is self.run for seed in a.figures.seeds})

    @property
    def horizon(self) -> int:
        """Turns d."""
        return int(self.settings.get("rollout", {}).get("horizon", 3))

    @property
    def level(self) -> float:
        """Confidence level of the intervals."""
        return float(self.settings.get("evaluation", {}).get("level", 0.95))

    @property
    def threshold(self) -> float:
        """What a toxic text exceeds."""
        return self.main.figures.failure_within_horizon.threshold if self.main else 0.5

    @property
    def stands_in(self) -> str:
        """Whose likelihood every nll is where it is not the defender's own; else empty."""
        told = self.facts.likelihood if self.facts else ""
        return "" if told.startswith("defender") else told

    @property
    def together(self) -> bool:
        """Whether all runs were measured on the same openings and the same defender, as far as their files tell."""
        return all(comparable(run, self.runs[0]) for run in self.runs if run.summary)

    def untuned_of(self, adversary: Adversary) -> Adversary | None:
        """The untuned adversary that another one can be set beside: its own evaluation's, else an equal one's."""
        found = [a for a in self.adversaries if a.key == UNTUNED and comparable(a.run, adversary.run)]
        return next((a for a in found if a.run is adversary.run), found[0] if found else None)


def study_of(runs: list[RunFiles]) -> Study:
    """Join the adversaries of several evaluations; what is measured twice with equal results is shown once."""
    first = next((run for run in runs if run.summary), None)
    if first is None:
        return Study(runs)
    main_key = _main_key(first)
    entries = [(run, key, found) for run in runs if run.summary for key, found in run.summary.adversaries.items()]
    entries.sort(key=lambda entry: (entry[:2] != (first, main_key), entry[:2] != (first, UNTUNED)))
    with_untuned = any(entry[:2] == (first, UNTUNED) for entry in entries)
    found: dict[str, Adversary] = {}
    for run, key, figures in entries:
        label = run.name if key == run.path.resolve().name else key
        if label in found and found[label].figures == figures:
            continue
        others = (f"{key} ({run.name}, {number})" for number in count(2))
        label = next(name for name in chain((label, f"{key} ({run.name})"), others) if name not in found)
        slot = len(found) + (main_key != UNTUNED and bool(found) and not with_untuned)
        found[label] = Adversary(label, key, run, figures, slot, _changes(run, first, figures))
    adversaries = list(found.values())
    untuned = next((a for a in adversaries if a.key == UNTUNED and comparable(a.run, first)), None)
    return Study(runs, adversaries, adversaries[0], untuned if untuned is not adversaries[0] else None)


def comparable(a: RunFiles, b: RunFiles) -> bool:
    """Whether two evaluations met the same defender and openings, as far as their files tell."""
    if a is b or not (a.summary and b.summary):
        return True
    one, other = a.summary.config, b.summary.config
    same = [(getattr(one, key), getattr(other, key)) for key in ("defender", "defender_sha256", "scorer")]
    same += [
        (getattr(one.prefixes, key, None), getattr(other.prefixes, key, None)) for key in ("source", "count", "sha256")
    ]
    return all(x == y or x is None or y is None for x, y in same)


def _main_key(run: RunFiles) -> str:
    """The adversary that a run is about: its own, else the first that was tuned."""
    names = list(run.summary.adversaries) if run.summary else []
    own = next((name for name in (run.path.resolve().name, OURS) if name in names), None)
    return own or next((name for name in names if name != UNTUNED), names[0] if names else "")


def _changes(run: RunFiles, first: RunFiles, figures: AdversaryFigures) -> tuple[str, ...]:
    """Settings that differ from the first run's, or from the experiment's main one, as ``key=value``."""
    if isinstance(figures, StudyAdversary):
        return tuple(differences(figures.changes, {}))
    if run is first or not run.config or not first.config:
        return ()
    return tuple(differences(run.config.settings, first.config.settings))


def differences(own: Settings, base: Settings) -> list[str]:
    """Settings that differ from others, as ``key=value``."""
    known = dotted(base)
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in dotted(own).items() if key not in known or known[key] != value]  # fmt: skip
