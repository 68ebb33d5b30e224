"""Evaluate what the command line names: runs, models, and the untuned adversary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.names import HUMAN, UNTUNED, dialogues_of
from ..base.processes import is_main
from ..base.progress import Progress, Silent
from ..base.protocols import Speaker
from ..base.records import Prefix
from ..config import Settings, load_settings
from ..data import BadRows, load_dialogues, load_prefixes, overlap
from ..evaluation.evaluate import Evaluation, evaluate
from ..models.local.lm import check_folder
from ..models.local.replay import Replay
from ..runs.directory import LOG, RunDirectory, results_folder
from .load import build_defender, build_lm, build_other_scorers, build_scorer
from .resume import texts_hash

_log = logging.getLogger(__package__)


def evaluate_targets(
    targets: Sequence[str],
    overrides: Sequence[str],
    *,
    preset: str,
    out: Path | None,
    baseline: bool = True,
    progress: Progress | None = None,
) -> tuple[Evaluation, Path]:
    """Evaluate runs and models on held-out prefixes and write the results.

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
    progress = progress or Silent()
    # A model folder has a config.json too; only a run's has settings beside a log.
    runs = {name: RunDirectory.open(Path(name)) for name in targets if (Path(name) / LOG).is_file()}
    settings = next(iter(runs.values())).settings(overrides) if runs else load_settings(preset, overrides)
    if out is None:
        if not runs:
            raise UserError("name a folder for the results with --out")
        out = next(iter(runs.values())).path
    for target in targets:
        if not target.startswith(f"{HUMAN}:"):
            check_folder(target)
    with results_folder(out) if is_main() else nullcontext():
        result = _measured(targets, runs, settings, baseline, progress)
        if is_main():
            result.write(out)
    return result, out


def _measured(
    targets: Sequence[str], runs: Mapping[str, RunDirectory], settings: Settings, baseline: bool, progress: Progress
) -> Evaluation:
    """Load what the targets name, and evaluate it."""
    bad = BadRows(settings.data.skip_bad_rows)
    prefixes = test_prefixes(settings, bad)
    defender, scorer, others = build_defender(settings), build_scorer(settings), build_other_scorers(settings)
    adversaries, scripts, kept = _adversaries(targets, runs, settings, baseline)
    for name, dialogues in scripts.items():
        _note_repeats(name, dialogues["usable"], len(prefixes))
    facts: dict[str, Any] = {
        "dialogues": scripts,
        "targets": list(targets),
        "kept_start": kept,
        "prefixes": {
            "source": settings.data.test,
            "count": len(prefixes),
            "sha256": texts_hash(prefixes),
            "skipped": bad.facts(),
        },
        "defender_sha256": defender.weights_sha256(),
        **defender.facts(),
    }
    return evaluate(adversaries, defender, scorer, prefixes, settings, others=others, progress=progress, facts=facts)


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
    return prefixes


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
    if run is not None and not run.best.is_dir():
        raise UserError(f"run '{target}' has no best adversary yet; let it train past its first dev evaluation")
    model = settings.adversary
    if target != UNTUNED:
        path = str(run.best) if run is not None else target
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
