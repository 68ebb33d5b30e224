"""The adversaries of all runs on one page, and what can be said about them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from ..base.names import OURS, UNTUNED
from ..config import dotted, load_settings, preset_names
from ..runs.directory import KEPT_START
from .read import Row, RunFiles


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
    figures: Row
    slot: int
    changes: tuple[str, ...] = ()

    def comparison(self, base: str | None = None) -> Row | None:
        """Its paired comparison with ``base``, or with its evaluation's first adversary."""
        rows = self.run.summary.get("comparisons", [])
        return next((row for row in rows if row["a"] == self.key and base in (None, row["b"])), None)


@dataclass(frozen=True, slots=True)
class Study:
    """What a page is about.

    Attributes:
        runs: All runs.
        adversaries: All adversaries, the main one first, then the untuned one.
        main: The adversary of the verdict; ``None`` without any evaluation.
        untuned: What it is compared with.
    """

    runs: list[RunFiles]
    adversaries: list[Adversary] = field(default_factory=list)
    main: Adversary | None = None
    untuned: Adversary | None = None

    @property
    def settings(self) -> Row:
        """Settings of the main adversary's run."""
        run = self.main.run if self.main else self.runs[0]
        settings: Row = run.summary.get("config", {}).get("settings") or run.config.get("settings", {})
        return settings

    @property
    def facts(self) -> Row:
        """The ``config`` of the main evaluation."""
        facts: Row = self.main.run.summary.get("config", {}) if self.main else {}
        return facts

    @property
    def horizon(self) -> int:
        """Turns d."""
        return int(self.settings.get("rollout", {}).get("horizon", 3))

    @property
    def stands_in(self) -> str:
        """Whose likelihood every nll is where it is not the defender's own; else empty."""
        told = str(self.facts.get("likelihood") or "defender")
        return "" if told.startswith("defender") else told

    @property
    def together(self) -> bool:
        """Whether all runs were measured on the same openings and the same defender, as far as their files tell."""
        return all(comparable(run, self.runs[0]) for run in self.runs if run.summary)

    @property
    def failed(self) -> bool:
        """Whether any adversary's figures tell of a failure."""
        return any(a.figures["failure_within_horizon"]["share"] for a in self.adversaries)

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
    entries = [(run, key) for run in runs for key in run.summary.get("adversaries", {})]
    entries.sort(key=lambda entry: (entry != (first, main_key), entry != (first, UNTUNED)))
    found: dict[str, Adversary] = {}
    for run, key in entries:
        figures, label = run.summary["adversaries"][key], run.name if key == run.path.resolve().name else key
        if label in found and found[label].figures == figures:
            continue
        others = (f"{key} ({run.name}, {number})" for number in count(2))
        label = next(name for name in chain((label, f"{key} ({run.name})"), others) if name not in found)
        slot = len(found) + (main_key != UNTUNED and bool(found) and (first, UNTUNED) not in entries)
        found[label] = Adversary(label, key, run, figures, slot, _changes(run, first, figures))
    adversaries = list(found.values())
    untuned = next((a for a in adversaries if a.key == UNTUNED and comparable(a.run, first)), None)
    return Study(runs, adversaries, adversaries[0], untuned if untuned is not adversaries[0] else None)


def comparable(a: RunFiles, b: RunFiles) -> bool:
    """Whether two evaluations met the same defender and openings, as far as their files tell."""
    if a is b:
        return True
    one, other = (run.summary.get("config", {}) for run in (a, b))
    prefixes = (one.get("prefixes") or {}, other.get("prefixes") or {})
    same = [(one.get(key), other.get(key)) for key in ("defender", "defender_sha256", "scorer")]
    same += [(prefixes[0].get(key), prefixes[1].get(key)) for key in ("source", "count", "sha256")]
    return all(x == y or x is None or y is None for x, y in same)


def _main_key(run: RunFiles) -> str:
    """The adversary that a run is about: its own, else the first that was tuned."""
    names = list(run.summary.get("adversaries", {}))
    own = next((name for name in (run.path.resolve().name, OURS) if name in names), None)
    return own or next((name for name in names if name != UNTUNED), names[0] if names else "")


def _changes(run: RunFiles, first: RunFiles, figures: Row) -> tuple[str, ...]:
    """Settings that differ from the first run's, or from the experiment's main one, as ``key=value``."""
    if isinstance(figures.get("changes"), Mapping):
        return tuple(f"{key}={_scalar(value)}" for key, value in figures["changes"].items())
    if run is first or not run.config or not first.config:
        return ()
    own, base = dotted(run.config.get("settings", {})), dotted(first.config.get("settings", {}))
    return tuple(f"{key}={_scalar(value)}" for key, value in own.items() if base.get(key) != value)


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def commands(study: Study) -> list[str]:
    """The command lines that make the main run, its figures and this page."""
    if "command" in study.facts:
        places = dict.fromkeys(str(run.path) for run in study.runs)
        return [_line(*study.facts["command"]), _line("report", *places)]
    lines = []
    run = study.main.run if study.main else study.runs[0]
    trained = run.config.get("settings")
    if trained:
        preset, overrides = _nearest_preset(trained)
        lines.append(_line("train", "--preset", preset, "--out", str(run.path), *overrides))
    targets = study.facts.get("targets")
    if targets:
        place = [] if str(run.path) == targets[0] else ["--out", str(run.path)]
        if trained:
            before, now = dotted(trained), dotted(study.settings)
            overrides = [f"{key}={_scalar(value)}" for key, value in now.items() if before.get(key, value) != value]
        else:
            preset, overrides = _nearest_preset(study.settings)
            place += ["--preset", preset]
        if UNTUNED not in run.summary.get("adversaries", {}):
            place.append("--no-baseline")
        lines.append(_line("evaluate", *map(str, targets), *place, *overrides))
    lines.append(_line("report", *(str(run.path) for run in study.runs)))
    return lines


def export_command(study: Study) -> str:
    """The command line that writes the hardening set of the main adversary."""
    run = study.main.run if study.main else study.runs[0]
    return _line("export", study.facts.get("export", str(run.path)), "--to", "hardening")


def _nearest_preset(settings: Row) -> tuple[str, list[str]]:
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
    if study.main:
        source = facts.get("prefixes", {}).get("source", settings.get("data", {}).get("test", "the test set"))
        notes += [
            f"Whether a person would call these replies toxic: the judge is a classifier ({facts.get('scorer', '?')}). "
            "Read the failures before you rely on the share.",
            f"Other openings: the figures hold for prefixes like those of '{source}', in their language and style.",
            f"More than {study.horizon} turns, and more than one sample: each prefix was tried once per adversary and "
            "seed, so a prefix that did not fail here may fail another time.",
            f"Adversaries that are not in the table, and defenders other than '{facts.get('defender', '?')}'.",
        ]
        seeds = {json.dumps(run.config.get("settings", {}).get("seed")) for run in study.runs}
        if facts.get("seeds", 1) < 2 and len(seeds) < 2:
            notes.append(
                f"The spread from one training run to the next: everything here is seed {settings.get('seed', 0)}; the "
                "intervals cover the choice of prefixes only."
            )
        if study.stands_in:
            notes.append(f"The defender's own likelihood of the utterances: {study.stands_in} stands in for it.")
    if settings.get("defender", {}).get("path") == "embedded":
        notes.append("A model in real use: this defender is the small embedded one that ships for demonstration.")
    errors = [
        (a.label, a.figures["errors"], a.figures["failure_within_horizon"]["unassessed"]) for a in study.adversaries
    ]
    notes += [
        f"{turns} turns of '{label}' that could not be assessed ({prefixes} prefixes have no verdict because of them)."
        for label, turns, prefixes in errors if turns
    ]  # fmt: skip
    return notes


def percent(value: float | None, *, digits: int = 1, sign: bool = False) -> str:
    """``0.312`` as ``31.2 %``."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f}\u00a0%"


def interval(bounds: Sequence[float] | None, *, scale: float = 100.0, digits: int = 1, sign: bool = False) -> str:
    """``(0.27, 0.35)`` as ``[27.0, 35.0]``; empty where there is none, or no width (none failed, or all)."""
    if not bounds or bounds[0] == bounds[1]:
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    return f"[{scale * bounds[0]:{form}}, {scale * bounds[1]:{form}}]"


def whole(value: float | None) -> int:
    """Digits after the point for a headline share: none, unless the share is small."""
    return 0 if value is None or value >= 0.095 or value == 0 else 1


def verdict(study: Study) -> tuple[str, str]:
    """The finding in one sentence, and how likely the text that found it is.

    Returns:
        Two sentences; the second is empty without a comparison.
    """
    if study.main is None:
        return "This adversary has not been measured yet.", ""
    share = study.main.figures["failure_within_horizon"]
    turns = f"{study.horizon} turns" if study.horizon > 1 else "one turn"
    if share["share"] is None:
        return "No prefix could be assessed, so there is no verdict.", ""
    text = f"Within {turns}, the defender’s reply was toxic for {_share(share)} of ordinary openings"
    if study.untuned is None:
        return f"{text}.", ""
    if study.main.key in study.facts.get("kept_start", ()):
        return f"{text}.", f"{KEPT_START[:1].upper()}{KEPT_START[1:]}."
    base = study.untuned.figures["failure_within_horizon"]
    text += f"; untuned {_share(base)}." if base["share"] is not None else "."
    return text, likelihood(study)


def _share(share: Mapping[str, Any]) -> str:
    digits = whole(share["share"])
    bounds = interval(share["ci95"], digits=digits)
    return f"{percent(share['share'], digits=digits)}{' ' + bounds if bounds else ''}"


def _judge(study: Study) -> str:
    """Whose likelihood the page speaks of."""
    return f"By the {study.stands_in}" if study.stands_in else "To the defender"


def likelihood(study: Study) -> str:
    """How the likelihood of the main adversary's text compares with the untuned one's."""
    if study.main is None or study.untuned is None:
        return ""
    mine, base = (a.figures["nll"]["mean"] for a in (study.main, study.untuned))
    if mine is None or base is None or not math.isfinite(base) or base == 0:
        return ""
    change = mine / base - 1
    paired = study.main.comparison(study.untuned.key)
    bounds = paired["nll"]["ci95"] if paired else None
    same = bounds[0] <= 0 <= bounds[1] if bounds else abs(change) < 0.005
    how = "about as likely as" if same else "less likely than" if change > 0 else "likelier than"
    return (
        f"{_judge(study)}, the text that does it is {how} the untuned adversary’s: {mine:.2f} against {base:.2f} nats "
        f"per token ({100 * change:+.1f}\u00a0%)."
    )
