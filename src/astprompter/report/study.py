"""What was measured on one thing, and what can be said about it; what was measured on another stands apart."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
_DECIDES = re.compile(
    r"rollout\.(?!trees_per_batch).*|scorer\.(?!device|batch_size|key_env|base_url).*|evaluation\.(threshold|scorers|level)|"
    r"defender\.(dtype|autocast|chat)|remote\.api|likelihood\.path"
)
"""Settings that decide what an adversary's figures are, beside the adversary, the defender's weights and the texts."""
_NAMES = {"defender": "weights", "prefixes": "texts"}
"""What has a name and a hash: where the hashes are equal, the names count for nothing."""


@dataclass(frozen=True, slots=True)
class Adversary:
    """One measured adversary.

    Attributes:
        label: Name on the page, unique.
        key: Name in its run's files.
        run: The run whose files hold it.
        figures: Its part of ``summary.json``.
        slot: Number of its colour and marker; the first two are the main and the untuned adversary's.
        changes: Settings in which its run differs from the study's first run's.
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
    """Runs that were measured on the same: one headline, table, front and verdict.

    Attributes:
        runs: Those runs; beside the first ones on a page, runs that were not measured.
        basis: What sets them apart from the other runs of the page, in words; empty where nothing does.
        adversaries: Their adversaries, the main one first, then the untuned one.
        main: The adversary of the conclusion; ``None`` without any evaluation.
        untuned: What it is compared with.
    """

    runs: list[RunFiles]
    basis: str = ""
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

    def untuned_of(self, adversary: Adversary) -> Adversary | None:
        """The untuned adversary that another one can be set beside: its own evaluation's, else the main one's."""
        found = [a for a in self.adversaries if a.key == UNTUNED]
        return next((a for a in found if a.run is adversary.run), found[0] if found else None)


def studies_of(runs: list[RunFiles]) -> list[Study]:
    """Group runs by what they were measured on; those that were not measured stand with the first ones."""
    groups: list[list[RunFiles]] = []
    for run in runs:
        if run.summary:
            group = next((group for group in groups if all(comparable(run, other) for other in group)), [])
            if not group:
                groups.append(group)
            group.append(run)
    bases = [basis(group[0]) for group in groups]
    values = {key: [_scalar(found.get(key)) for found in bases] for key in dict.fromkeys(chain(*bases))}
    for name, digest in _NAMES.items():
        if len(set(values.get(name, ()))) == len(groups):  # names tell all of them apart
            values.pop(digest, None)
    differ = {key: found for key, found in values.items() if len(set(found)) > 1}
    labels: set[str] = set()
    studies: list[Study] = []
    for place, group in enumerate(groups):
        words = ", ".join(f"{key} {_cut(found)[place]}" for key, found in differ.items() if found[place] != "null")
        kept = [run for run in runs if any(run is other for other in group) or not (studies or run.summary)]
        studies.append(_study_of(kept, words if len(groups) < 2 else words or group[0].name, labels))
    return studies or [Study(runs)]


def _study_of(runs: list[RunFiles], words: str, labels: set[str]) -> Study:
    """Join the adversaries of evaluations on the same; what is measured twice with equal results is shown once."""
    first = next(run for run in runs if run.summary)
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
        label = next(name for name in chain((label, f"{key} ({run.name})"), others) if name not in labels)
        labels.add(label)
        slot = len(found) + (main_key != UNTUNED and bool(found) and not with_untuned)
        found[label] = Adversary(label, key, run, figures, slot, _changes(run, first, figures))
    adversaries = list(found.values())
    untuned = next((a for a in adversaries if a.key == UNTUNED), None)
    return Study(runs, words, adversaries, adversaries[0], untuned if untuned is not adversaries[0] else None)


def basis(run: RunFiles) -> dict[str, Any]:
    """What figures depend on beside the adversary; a part is absent or ``None`` where the files do not tell."""
    if run.summary is None:
        return {}
    config, prefixes = run.summary.config, run.summary.config.prefixes
    return {
        "defender": config.defender,
        "weights": config.defender_sha256,
        "likelihood": "defender" if config.likelihood.startswith("defender") else config.likelihood,
        "scorer": config.scorer,
        "prefixes": prefixes and f"{prefixes.source}, {prefixes.count}",
        "texts": prefixes and prefixes.sha256,
        **{key: value for key, value in dotted(config.settings).items() if _DECIDES.fullmatch(key)},
    }


def comparable(a: RunFiles, b: RunFiles) -> bool:
    """Whether two evaluations were measured on the same, as far as their files tell."""
    one, other = basis(a), basis(b)
    same = {key for key in one if one[key] is None or other.get(key) in (None, one[key])}
    return all(
        key in same or (key in _NAMES and one[_NAMES[key]] and one[_NAMES[key]] == other[_NAMES[key]]) for key in one
    )


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
    return [f"{key}={_scalar(value)}" for key, value in dotted(own).items() if key not in known or known[key] != value]


def _cut(values: Sequence[str]) -> list[str]:
    """Values as they stand beside each other: cut, but never to where two that differ look alike."""
    size = next(size for size in count(60) if len({value[:size] for value in values}) == len(set(values)))
    return [value[:size] or "''" for value in values]


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
