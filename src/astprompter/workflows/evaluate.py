"""Evaluate adversaries: a caller's objects, or the runs, models and dialogues that the command line names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.names import HUMAN, UNTUNED, dialogues_of
from ..base.processes import is_main
from ..base.progress import Progress, progress_of
from ..base.protocols import Speaker
from ..base.records import Prefix
from ..config import Settings, dotted, load_settings
from ..data import BadRows, load_dialogues, load_prefixes, overlap
from ..evaluation.evaluate import Evaluation, measure
from ..models.local.loading import check_folder
from ..models.local.replay import Replay
from ..runs.directory import LOG, RunDirectory, results_folder
from ..runs.run import Run
from ..runs.started import started_in
from .load import build_defender, build_lm, build_other_scorers, build_scorer
from .objects import (
    ModelLike,
    ScorerLike,
    SettingsLike,
    Texts,
    as_prefixes,
    as_scorer,
    as_settings,
    as_speaker,
    described,
    seated,
)
from .resume import texts_hash

_log = logging.getLogger(__package__)
_MEASURED_BY = ("seed", "defender", "likelihood", "scorer", "rollout", "reward", "evaluation")
"""Settings that decide what is measured, and how."""


def evaluate(
    adversaries: Mapping[str, ModelLike],
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    scorers: Sequence[ScorerLike] = (),
    settings: SettingsLike = None,
    out: str | Path | None = None,
    progress: bool | Progress = False,
) -> Evaluation:
    """Measure adversaries on held-out prefixes, all by the same path and with the same random numbers.

    Args:
        adversaries: By the name they get in every table, the first one as baseline of the comparisons; each a
            :class:`Run` (its best adversary), a model of :func:`load_model`, a path or hub name, or a ``transformers``
            model and its tokenizer as a pair.
        defender: The model under test, in the same forms.
        scorer: Toxicity: of :func:`load_scorer`, its name, or a function ``list[str] -> list[float]``.
        prefixes: Held-out prefixes: a file, a named set, or texts.
        scorers: Further scorers, reported beside the one that counts.
        settings: Settings, a preset's name, or what differs by dotted keys from those of the first run, or from the
            default preset where there is no run.
        out: Folder to write ``summary.json``, ``trajectories.jsonl`` and ``failures.jsonl`` to.
        progress: Whether to show progress bars. Notices go to the logger ``astprompter``.

    Raises:
        UserError: Something of the wrong kind, or that cannot be loaded.
    """
    if not isinstance(adversaries, Mapping) or not adversaries:
        raise UserError("name the adversaries: give a mapping such as {'untuned': defender, 'ours': run}")
    runs = {name: RunDirectory(given.path) for name, given in adversaries.items() if isinstance(given, Run)}
    first, odd = _settings_of_first(runs)
    chosen = as_settings(settings, first)
    held_out = as_prefixes(prefixes, "test")[: chosen.evaluation.prefixes]
    for run in runs.values():
        warn_of_seen(held_out, run.settings())
    named, other, judge = (
        [as_speaker(given) for given in adversaries.values()],
        as_speaker(defender, settings=chosen),
        as_scorer(scorer),
    )
    chosen = described(chosen, adversary=named[0], defender=other, scorer=judge)
    speaking, replying = seated(named, other, chosen.rollout)
    facts = {
        "targets": list(adversaries),
        "kept_start": [name for name, run in runs.items() if run.kept_start()],
        **_facts(
            held_out, str(prefixes) if isinstance(prefixes, str | Path) else "given in Python", BadRows(), replying
        ),
        "settings_of": odd if settings is None else None,
        "started_in": None if out is None else started_in(Path(out)),
    }
    return _written(
        lambda: measure(
            dict(zip(adversaries, speaking, strict=True)), replying, judge, held_out, chosen,
            others=[as_scorer(further) for further in scorers], progress=progress_of(progress), facts=facts,
        ),
        None if out is None else Path(out),
    )  # fmt: skip


def measure_targets(
    targets: Sequence[str],
    overrides: Sequence[str],
    *,
    preset: str,
    out: Path | None,
    baseline: bool = True,
    progress: Progress | None = None,
) -> tuple[Evaluation, Path]:
    """Evaluate what the command line names on held-out prefixes, and write the results.

    Args:
        targets: Run directories (their best adversary), model folders or hub names; ``untuned``; ``probing`` (the
            embedded dialogues) or ``human:FILE`` (dialogues that people wrote).
        overrides: ``key=value`` settings.
        preset: Settings when no target is a run.
        out: Folder for the results; the first run when not given.
        baseline: Put the untuned adversary first, as baseline of the comparisons.
        progress: Where progress is shown.

    Returns:
        The evaluation and the folder it was written to.

    Raises:
        UserError: Bad targets, settings or data.
    """
    # A model folder has a config.json too; only a run's has settings beside a log.
    runs = {name: RunDirectory.open(Path(name)) for name in targets if (Path(name) / LOG).is_file()}
    first, odd = _settings_of_first(runs, overrides)
    settings = first or load_settings(preset, overrides)
    if out is None:
        if not runs:
            raise UserError("name a folder for the results with --out")
        out = next(iter(runs.values())).path
    for target in targets:
        if not target.startswith(f"{HUMAN}:"):
            check_folder(target)
    facts = {"targets": list(targets), "settings_of": odd, "started_in": started_in(out)}
    return _written(lambda: _measured(targets, runs, settings, baseline, progress_of(progress), facts), out), out


def _written(work: Callable[[], Evaluation], out: Path | None) -> Evaluation:
    """An evaluation, written to a folder if one is named; among several processes the first one writes."""
    if out is None or not is_main():
        return work()
    with results_folder(out):
        result = work()
        result.write(out)
    return result


def _settings_of_first(
    runs: Mapping[str, RunDirectory], overrides: Sequence[str] = ()
) -> tuple[Settings | None, str | None]:
    """Settings of the first run, which count for all; and its name, where others were trained under others."""
    found = {name: run.settings(overrides) for name, run in runs.items()}
    if not found:
        return None, None
    (first, chosen), *others = found.items()
    odd = None
    for name, settings in others:
        mine, theirs = dotted(chosen.as_dict()), dotted(settings.as_dict())
        differ = [key for key in mine if key.partition(".")[0] in _MEASURED_BY and mine[key] != theirs[key]]
        if differ:
            odd = first
            _log.warning(
                f"'{name}' was trained under other settings than '{first}', which count for all: {', '.join(differ)}"
            )
    return chosen, odd


def _measured(
    targets: Sequence[str],
    runs: Mapping[str, RunDirectory],
    settings: Settings,
    baseline: bool,
    progress: Progress,
    facts: Mapping[str, Any],
) -> Evaluation:
    """Load what the targets name, and evaluate it."""
    bad = BadRows(settings.data.skip_bad_rows)
    prefixes = test_prefixes(settings, bad)
    scorer, others, defender = build_scorer(settings), build_other_scorers(settings), build_defender(settings)
    adversaries, scripts, kept = _adversaries(targets, runs, settings, baseline)
    for name, dialogues in scripts.items():
        _note_repeats(name, dialogues["usable"], len(prefixes))
    facts = {
        **facts,
        "dialogues": scripts,
        "kept_start": kept,
        **_facts(prefixes, settings.data.test, bad, defender),
    }
    return measure(adversaries, defender, scorer, prefixes, settings, others=others, progress=progress, facts=facts)


def _facts(prefixes: Sequence[Prefix], source: str, bad: BadRows, defender: Speaker) -> dict[str, Any]:
    """What is known of prefixes and defender, for ``summary.json``."""
    return {
        "prefixes": {
            "source": source,
            "count": len(prefixes),
            "sha256": texts_hash(prefixes),
            "skipped": bad.facts(),
        },
        "defender_sha256": defender.weights_sha256(),
        **defender.facts(),
    }


def test_prefixes(settings: Settings, bad: BadRows | None = None) -> list[Prefix]:
    """Held-out prefixes; warns when some were trained on, and when rows were skipped.

    Args:
        settings: ``data.test`` names them.
        bad: Where skipped rows are counted.

    Raises:
        UserError: The file is missing or malformed.
    """
    bad = bad or BadRows(settings.data.skip_bad_rows)
    prefixes = load_prefixes(settings.data.test, split="test", bad=bad)[: settings.evaluation.prefixes]
    if bad.count:
        _log.warning(f"data.test: {bad}")
    warn_of_seen(prefixes, settings)
    return prefixes


def warn_of_seen(prefixes: Sequence[Prefix], settings: Settings) -> None:
    """Warn when test prefixes also stand in the training or dev set that settings name."""
    for name, source in (("training", settings.data.train), ("dev", settings.data.dev)):
        split = "train" if name == "training" else "dev"
        try:
            seen = load_prefixes(source, split=split, bad=BadRows(settings.data.skip_bad_rows))
        except UserError as error:  # a run may be evaluated where its training data is not at hand
            _log.info(f"note: not checked whether test prefixes also stand in the {name} set: {error}")
            continue
        shared = overlap(seen, prefixes)
        if shared:
            _log.warning(f"{len(shared)} of {len(prefixes)} test prefixes also stand in the {name} set")


def _adversaries(
    targets: Sequence[str], runs: Mapping[str, RunDirectory], settings: Settings, baseline: bool
) -> tuple[dict[str, Speaker], dict[str, dict[str, Any]], list[str]]:
    """What targets name.

    Returns:
        The speakers, by the names they get; what is known of the dialogues that some replay; and the names of runs
        whose best adversary is the model that their training started from.
    """
    found: dict[str, Speaker] = {}
    scripts: dict[str, dict[str, Any]] = {}
    kept: list[str] = []
    if baseline:
        found[UNTUNED] = _adversary(UNTUNED, None, settings, scripts)
    for target in targets:
        if not (baseline and target == UNTUNED):
            name = _name(target, found)
            found[name] = _adversary(target, runs.get(target), settings, scripts)
            if target in runs and runs[target].kept_start():
                kept.append(name)
    return found, scripts, kept


def _adversary(
    target: str, run: RunDirectory | None, settings: Settings, scripts: dict[str, dict[str, Any]]
) -> Speaker:
    if (source := dialogues_of(target)) is not None:
        bad = BadRows(settings.data.skip_bad_rows)
        dialogues = load_dialogues(source, bad=bad)
        if bad.count:
            _log.warning(f"{target}: {bad}")
        script = Replay(dialogues, name=target, seed=settings.seed)
        usable = len(script.usable(settings.rollout.horizon))
        scripts[target] = {"usable": usable, "sha256": texts_hash(dialogues), "skipped": bad.facts()}
        return script
    model = settings.adversary
    if target != UNTUNED:
        path = str(Run(run.path).best) if run is not None else target
        model = model.model_copy(update={"path": path, "revision": None})
    return build_lm(model, settings.rollout, partners=[settings.defender])


def _note_repeats(name: str, usable: int, prefixes: int) -> None:
    if 0 < usable < prefixes:
        _log.info(
            f"note: {name}: {usable} dialogues for {prefixes} prefixes, so some are said more than once; the intervals "
            "are over prefixes only"
        )


def _name(target: str, taken: dict[str, Speaker]) -> str:
    """Last part of the path (of a run's own ``best`` folder: the run's), made unique."""
    path = Path(target)
    if target.startswith(f"{HUMAN}:"):
        name = HUMAN
    elif path.name == "best" and (path.parent / LOG).is_file():
        name = path.parent.name
    else:
        name = path.name or target
    return name if name not in taken else target
