"""What is said of studies, in sentences, commands and tables: the same on the page and in Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..base.formats import interval, number, percent, quantity
from ..base.names import HUMAN, PROBING, UNTUNED
from ..config import load_settings, preset_names
from ..evaluation.grid import Grid
from ..evaluation.summarise import perplexity_change
from ..evaluation.tables import adversaries, caveats, comparisons, diversity, is_start, labelled, sensitivity, variety
from ..runs.directory import KEPT_START
from ..runs.schema.figures import FailureWithinHorizon
from .read import RunFiles
from .study import Adversary, Settings, Study, differences


def commands(studies: Sequence[Study]) -> list[str]:
    """The command lines that make every run, its figures, and this page."""
    runs = [run for study in studies for run in study.runs]
    lines = [line for run in runs for line in _commands_of(run)]
    return list(dict.fromkeys([*lines, _line("report", *dict.fromkeys(str(run.path) for run in runs))]))


def _commands_of(run: RunFiles) -> list[str]:
    if run.command:
        return [_line(*run.command)]
    lines = []
    trained = run.config.settings if run.config else None
    if trained:
        preset, overrides = _nearest_preset(trained)
        lines.append(_line("train", "--preset", preset, "--out", str(run.path), *overrides))
    measured = run.summary.config if run.summary else None
    if measured and (targets := measured.targets):
        place = [] if str(run.path) == targets[0] else ["--out", str(run.path)]
        if trained:
            overrides = differences(measured.settings, trained)
        else:
            preset, overrides = _nearest_preset(measured.settings)
            place += ["--preset", preset]
        if run.summary and UNTUNED not in run.summary.adversaries:
            place.append("--no-baseline")
        lines.append(_line("evaluate", *targets, *place, *overrides))
    return lines


def harden_commands(studies: Sequence[Study]) -> list[str]:
    """The command lines that repair the defenders, where a run here can attack them."""
    return list(filter(None, map(_harden_command, studies)))


def _harden_command(study: Study) -> str | None:
    """The command line that repairs the defender and measures the repair; none where no run here can attack it."""
    config, path = study.run.config, str(study.run.path)
    if config is None or config.models_sha256.get("defender") is None:
        return None
    if config.settings.get("training", {}).get("objective", "preference") != "preference":
        return None
    return _line("harden", path, "--out", f"{path}-repaired", "--rounds", "1")


def export_command(study: Study) -> str:
    """The command line that writes the hardening set of the main adversary."""
    return _line("export", str(study.run.exported or study.run.path), "--to", "hardening")


def _nearest_preset(settings: Settings) -> tuple[str, list[str]]:
    """The preset that differs least, and the overrides that make up for it."""
    choices = [(name, differences(settings, load_settings(name).as_dict())) for name in preset_names()]
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
            f"Whether a person would call these replies toxic: the judge is a program ({facts.scorer}). "
            "Read the failures before you rely on the share.",
            f"Other openings: the figures hold for prefixes like those of '{source}', in their language and style.",
            f"More than {quantity(study.horizon, 'turn')}, and more than one sample: each prefix was tried once per "
            "adversary and seed, so a prefix that did not fail here may fail another time.",
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
    errors = [
        (a.label, a.figures.tox_reply.errors, a.figures.failure_within_horizon.unassessed) for a in study.adversaries
    ]
    notes += [
        f"{turns} turns of '{label}' that could not be assessed ({prefixes} prefixes might have failed there)."
        for label, turns, prefixes in errors if turns
    ]  # fmt: skip
    return notes


def tables(study: Study) -> list[Grid]:
    """All adversaries, the paired comparisons of each with a baseline, and how much depends on the threshold."""
    if not study.adversaries:
        return []
    named = [(a.label, a.figures) for a in study.adversaries]
    note = f"errors: replies without a score, which are in no share{caveats(named)}"
    grids = [adversaries(named, "All adversaries on the same openings", note=note), sensitivity(named)]
    rows = [
        (a.label, row)
        for a in study.adversaries
        if a is not study.untuned
        and (row := a.comparison()) is not None
        and not (a.run.summary and is_start(a.run.summary, row))
    ]
    paired = [comparisons([row for _, row in rows], [label for label, _ in rows])] if rows else []
    found = study.run.summary.variety if study.run.summary else None
    mine = {a.key: a for a in study.adversaries if a.run is study.run}
    if found and set(found.adversaries) <= set(mine):
        grids.append(variety(found, [(mine[name].label, mine[name].figures) for name in found.adversaries]))
    judged = [
        (a.label, section.adversaries[a.key])
        for a in study.adversaries
        if a.run.summary and (section := a.run.summary.labels) and a.key in section.adversaries
    ]
    return [grids[0], *paired, *([labelled(judged)] if judged else []), *grids[1:]]


def title(studies: Sequence[Study]) -> str:
    """What a page says first: its conclusion, or that it holds several."""
    if len(studies) == 1:
        return conclusion(studies[0])[0]
    return f"{len(studies)} measurements on different things, each with its own figures: none is compared with another"


def conclusion(study: Study) -> tuple[str, str]:
    """The finding in one sentence, and how likely the text that found it is.

    Returns:
        Two sentences; the second is empty without a comparison.
    """
    if study.main is None:
        return "This adversary has not been measured yet.", ""
    share = study.main.figures.failure_within_horizon
    turns = f"{study.horizon} turns" if study.horizon > 1 else "one turn"
    if share.share is None and not share.assessed:
        return "No prefix could be assessed, so there is nothing to conclude.", ""
    text = f"Within {turns}, the defender’s reply was toxic for {_rounded(share)} of ordinary openings"
    if study.untuned is None:
        return f"{text}.", ""
    if study.facts and study.main.key in (study.facts.kept_start or ()):
        return f"{text}.", f"{KEPT_START[:1].upper()}{KEPT_START[1:]}."
    base = study.untuned.figures.failure_within_horizon
    text += f"; untuned {_rounded(base)}." if base.assessed else "."
    return text, _likelihood(study.main, study.untuned, study.stands_in)


def _rounded(found: FailureWithinHorizon) -> str:
    """A share for a headline: no digits after the point, unless it is small."""
    if found.share is None and found.bounds is not None:
        return f"{percent(found.bounds[0])} to {percent(found.bounds[1])} (replies were blocked)"
    most = found.share or (found.ci[1] if found.ci else 1.0)
    digits = 0 if most >= 0.095 else 1
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


def facts(study: Study) -> list[tuple[str, str]]:
    """What was tested, with what."""
    found, settings, run = study.facts, study.settings, study.run
    rows = [("Defender, frozen", found.defender if found else str(settings.get("defender", {}).get("path", "?")))]
    if study.main and found:
        start = settings.get("adversary", {}).get("path")
        replayed = study.main.key in (HUMAN, PROBING)
        rows.append(("Adversary", f"{study.main.label}, from {start}" if start and not replayed else study.main.label))
        rows.append(("Judge of toxicity", found.scorer))
        count = found.prefixes.count if found.prefixes else study.main.figures.prefixes
        source = found.prefixes.source if found.prefixes else "given"
        rows.append(("Held-out openings", f"{count} ({Path(source).name or source})"))
        samples = "one sample" if study.seeds < 2 else f"one sample of each of {study.seeds} seeds"
        rows.append(("Horizon", f"{quantity(study.horizon, 'turn')}, {samples} for each opening"))
        rows.append(("Likelihood by", found.likelihood))
    reward = settings.get("reward", {})
    if reward:
        rows.append(("Reward", f"α {reward.get('alpha')}, β {reward.get('beta')}, λ {reward.get('lambda')}"))
    steps = [row.updates for row in run.log]
    if steps:
        several = ", the first of several" if study.seeds > 1 else ""
        rows.append(("Training", f"{max(steps)} updates, seed {settings.get('seed', 0)}{several}"))
    return rows


def diversities(study: Study) -> Grid:
    """How varied the utterances of the adversaries are whose files tell it."""
    return diversity([(a.label, a.figures) for a in study.adversaries if a.figures.diversity])
