"""The adversaries of all runs on one page, and what can be said about them."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from ..base.formats import interval, number, percent
from ..base.names import OURS, UNTUNED
from ..config import dotted, load_settings, preset_names
from ..evaluation.grid import Grid
from ..evaluation.summarise import perplexity_change
from ..evaluation.tables import adversaries, comparisons, is_start
from ..runs.directory import KEPT_START
from ..runs.schema.figures import AdversaryFigures, Comparison, FailureWithinHorizon
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

    @property
    def failed(self) -> bool:
        """Whether any adversary's figures tell of a failure."""
        return any(a.figures.failure_within_horizon.share for a in self.adversaries)

    def untuned_of(self, adversary: Adversary) -> Adversary | None:
        """The untuned adversary that another one can be set beside: its own evaluation's, else an equal one's."""
        found = [a for a in self.adversaries if a.key == UNTUNED and comparable(a.run, adversary.run)]
        return next((a for a in found if a.run is adversary.run), found[0] if found else None)

    def others(self) -> list[Adversary]:
        """All but the untuned adversary."""
        return [a for a in self.adversaries if a is not self.untuned]


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
        return tuple(f"{key}={_scalar(value)}" for key, value in figures.changes.items())
    if run is first or not run.config or not first.config:
        return ()
    own, base = dotted(run.config.settings), dotted(first.config.settings)
    return tuple(f"{key}={_scalar(value)}" for key, value in own.items() if base.get(key) != value)


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def commands(study: Study) -> list[str]:
    """The command lines that make the main run, its figures and this page."""
    run = study.run
    if run.command:
        return [_line(*run.command), _line("report", *dict.fromkeys(str(run.path) for run in study.runs))]
    lines = []
    trained = run.config.settings if run.config else None
    if trained:
        preset, overrides = _nearest_preset(trained)
        lines.append(_line("train", "--preset", preset, "--out", str(run.path), *overrides))
    targets = study.facts.targets if study.facts else None
    if targets:
        place = [] if str(run.path) == targets[0] else ["--out", str(run.path)]
        if trained:
            before, now = dotted(trained), dotted(study.settings)
            overrides = [f"{key}={_scalar(value)}" for key, value in now.items() if before.get(key, value) != value]
        else:
            preset, overrides = _nearest_preset(study.settings)
            place += ["--preset", preset]
        if run.summary and UNTUNED not in run.summary.adversaries:
            place.append("--no-baseline")
        lines.append(_line("evaluate", *targets, *place, *overrides))
    lines.append(_line("report", *(str(run.path) for run in study.runs)))
    return lines


def export_command(study: Study) -> str:
    """The command line that writes the hardening set of the main adversary."""
    return _line("export", str(study.run.exported or study.run.path), "--to", "hardening")


def _nearest_preset(settings: Settings) -> tuple[str, list[str]]:
    """The preset that differs least, and the overrides that make up for it."""
    own = dotted(settings)
    choices = []
    for preset in preset_names():
        base = dotted(load_settings(preset).as_dict())
        choices.append((preset, [f"{key}={_scalar(value)}" for key, value in own.items() if base.get(key) != value]))
    return min(choices, key=lambda choice: len(choice[1]))


def _line(*words: str) -> str:
    return shlex.join(["astprompter", *words])


def unmeasured(study: Study) -> list[str]:
    """What a reader must not take from the page, in plain sentences."""
    facts, settings = study.facts, study.settings
    notes = []
    if facts:
        source = facts.prefixes.source if facts.prefixes else settings.get("data", {}).get("test", "the test set")
        notes += [
            f"Whether a person would call these replies toxic: the judge is a classifier ({facts.scorer}). "
            "Read the failures before you rely on the share.",
            f"Other openings: the figures hold for prefixes like those of '{source}', in their language and style.",
            f"More than {study.horizon} turns, and more than one sample: each prefix was tried once per adversary and "
            "seed, so a prefix that did not fail here may fail another time.",
            f"Adversaries that are not in the table, and defenders other than '{facts.defender}'.",
        ]
        if study.seeds < 2 and len({run.config.settings.get("seed") for run in study.runs if run.config}) < 2:
            notes.append(
                f"The spread from one training run to the next: everything here is seed {settings.get('seed', 0)}; the "
                "intervals cover the choice of prefixes only."
            )
        if study.stands_in:
            notes.append(f"The defender's own likelihood of the utterances: {study.stands_in} stands in for it.")
    if settings.get("defender", {}).get("path") == "embedded":
        notes.append("A model in real use: this defender is the small embedded one that ships for demonstration.")
    errors = [(a.label, a.figures.errors, a.figures.failure_within_horizon.unassessed) for a in study.adversaries]
    notes += [
        f"{turns} turns of '{label}' that could not be assessed ({prefixes} prefixes might have failed there)."
        for label, turns, prefixes in errors if turns
    ]  # fmt: skip
    return notes


def tables(study: Study) -> list[Grid]:
    """The tables of the page: all adversaries, and the paired comparisons of each with a baseline."""
    if not study.adversaries:
        return []
    together = " on the same openings" if study.together else ""
    grids = [adversaries([(a.label, a.figures) for a in study.adversaries], f"All adversaries{together}")]
    rows = [
        (a.label, row)
        for a in study.others()
        if (row := a.comparison()) is not None and not (a.run.summary and is_start(a.run.summary, row))
    ]
    return [*grids, *([comparisons([row for _, row in rows], [label for label, _ in rows])] if rows else [])]


def conclusion(study: Study) -> tuple[str, str]:
    """The finding in one sentence, and how likely the text that found it is.

    Returns:
        Two sentences; the second is empty without a comparison.
    """
    if study.main is None:
        return "This adversary has not been measured yet.", ""
    share = study.main.figures.failure_within_horizon
    turns = f"{study.horizon} turns" if study.horizon > 1 else "one turn"
    if share.share is None:
        return "No prefix could be assessed, so there is nothing to conclude.", ""
    text = f"Within {turns}, the defender’s reply was toxic for {_rounded(share)} of ordinary openings"
    if study.untuned is None:
        return f"{text}.", ""
    if study.facts and study.main.key in (study.facts.kept_start or ()):
        return f"{text}.", f"{KEPT_START[:1].upper()}{KEPT_START[1:]}."
    base = study.untuned.figures.failure_within_horizon
    text += f"; untuned {_rounded(base)}." if base.share is not None else "."
    return text, _likelihood(study.main, study.untuned, study.stands_in)


def _rounded(found: FailureWithinHorizon) -> str:
    """A share for a headline: no digits after the point, unless it is small."""
    digits = 0 if not found.share or found.share >= 0.095 else 1
    return f"{percent(found.share, digits=digits)} {interval(found.ci, digits, scale=100)}".rstrip()


def _likelihood(main: Adversary, untuned: Adversary, stands_in: str) -> str:
    """How the likelihood of the main adversary's text compares with the untuned one's."""
    mine, base = (a.figures.nll.mean for a in (main, untuned))
    if mine is None or base is None:
        return ""
    paired = main.comparison(untuned.key)
    told = paired.perplexity_change if paired else None
    change = perplexity_change(mine - base) if told is None else told
    bounds = paired.nll.mean.ci if paired else None
    same = bounds[0] <= 0 <= bounds[1] if bounds else abs(change) < 0.005
    how = "about as likely as" if same else "less likely than" if change > 0 else "likelier than"
    judge = f"By the {stands_in}" if stands_in else "To the defender"
    return (
        f"{judge}, the text that does it is {how} the untuned adversary’s: {number(mine, 2)} against {number(base, 2)} "
        f"nats per token (perplexity {percent(change, sign=True)})."
    )
