"""What the command line names to be evaluated: runs, models and dialogues, on one defender or on several."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.names import HUMAN, UNTUNED, candidates_of, dialogues_of
from ..base.progress import Progress, progress_of
from ..base.protocols import Scorer, Speaker
from ..config import Settings, load_settings
from ..data import BadRows, load_dialogues
from ..models.local.loading import check_folder
from ..models.local.replay import Replay
from ..rollout.resampling import Resampling
from ..runs.directory import LOG, SUMMARY, RunDirectory
from ..runs.results import result_rows
from ..runs.rounds import is_set
from ..runs.run import Run
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.summary import Summary
from .evaluate import Asked, Parts, as_one, measured, settings_of_first
from .held_out import facts_of_prefixes, test_prefixes
from .kept import Kept, NothingLeftError
from .load import build_defender, build_lm, build_other_scorers, build_scorer, defender_kind
from .objects import changed
from .resume import texts_hash

_log = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True)
class Written:
    """What was measured on one defender, and where it was written.

    Attributes:
        summary: The figures.
        failed: Rows of ``failures.jsonl``.
        openings: Texts of the prefixes by their ids.
        folder: Where the results are.
    """

    summary: Summary
    failed: list[FailureRow]
    openings: dict[str, str]
    folder: Path


def measure_targets(
    targets: Sequence[str],
    overrides: Sequence[str],
    *,
    preset: str,
    out: Path | None,
    baseline: bool = True,
    defenders: Sequence[str] = (),
    retry: bool = False,
    replace: bool = False,
    again: str = "the same command",
    progress: Progress | None = None,
) -> dict[str, Written]:
    """Evaluate what the command line names on held-out prefixes, and write the results.

    Args:
        targets: Run directories (their best adversary), model folders or hub names; ``untuned``; ``probing`` (the
            embedded dialogues) or ``human:FILE`` (dialogues that people wrote); ``resample:N``, the untuned model
            that tries N utterances at every turn.
        overrides: ``key=value`` settings.
        preset: Settings when no target is a run.
        out: Folder for the results; the first run when not given.
        baseline: Put the untuned adversary first, as baseline of the comparisons.
        defenders: Models to measure on, in place of ``defender.path``; of several each has a folder below ``out``.
        retry: See :func:`~astprompter.workflows.evaluate.evaluate`.
        replace: See :func:`~astprompter.workflows.evaluate.evaluate`.
        again: What goes on after an interruption, in words.
        progress: Where progress is shown.

    Returns:
        What was measured, by the name of the defender.

    Raises:
        UserError: Bad targets, settings or data.
    """
    # A model folder has a config.json too; only a run's has settings beside a log.
    runs = runs_among(targets)
    first, odd = settings_of_first(runs, overrides)
    settings = first or load_settings(preset, overrides)
    if out is None:
        if not runs:
            raise UserError("name a folder for the results with --out")
        out = next(iter(runs.values())).path
    for name in [*targets, *(defenders or [settings.defender.path]), settings.evaluation.encoder]:
        if name and not name.startswith(f"{HUMAN}:") and defender_kind(name) is None and candidates_of(name) is None:
            check_folder(name)
    for run in runs.values():
        _ = [member.best for member in run.members]
    if twice := [name for name in defenders if defenders.count(name) > 1]:
        raise UserError(f"--defender {twice[0]} is given twice; leave one out")
    found: dict[str, Written] = {}
    later: list[Kept] = []

    def written(path: str, folder: Path) -> Written:
        """The figures of one defender; its models are free before the next one's are loaded."""
        chosen = changed(settings, {"defender.path": path})
        return _written(
            partial(_asked, targets, runs, chosen, baseline, odd), folder,
            retry=retry, replace=replace, again=again, progress=progress_of(progress), later=later,
        )  # fmt: skip

    for name, path in named(defenders or [settings.defender.path]).items():
        found[name] = written(path, _place(out / "against", name, found) if len(defenders) > 1 else out)
    Kept.close(later)
    return found


def runs_among(targets: Sequence[str]) -> dict[str, Run]:
    """The runs and sets of adversaries among targets, by name.

    Raises:
        UserError: One is a repair, or a set that lacks rounds.
    """
    runs = {name: Run(at) for name in targets if is_set(at := Path(name)) or (at / LOG).is_file()}
    for run in runs.values():
        for member in run.members:
            RunDirectory(member.path).check_attacks()
    return runs


def _written(ask: Callable[[], Asked], folder: Path, **options: Any) -> Written:
    """An evaluation in a folder: that of :func:`measured`, or what is there where nothing is left to retry."""
    try:
        result = measured(ask, folder, **options)
    except NothingLeftError:
        _log.info(f"note: nothing in '{folder}' is left to ask for again; its results stay, and the gates go by them")
        openings = {row.prefix_id: row.prefix for row in result_rows(folder, TrajectoryRow)}
        return Written(Summary.read(folder / SUMMARY), result_rows(folder, FailureRow), openings, folder)
    openings = {path.prefix.id: path.prefix.text for paths in result.trajectories.values() for path in paths}
    return Written(result.summary, result.failed, openings, folder)


def _place(folder: Path, name: str, found: Mapping[str, Written]) -> Path:
    """A folder for the results on a defender, which no other has."""
    place = folder / re.sub(r"[^\w.-]+", "-", name)
    return place.with_name(f"{place.name}-{len(found)}") if place in {one.folder for one in found.values()} else place


def _asked(
    targets: Sequence[str], runs: Mapping[str, Run], settings: Settings, baseline: bool, odd: str | None
) -> Asked:
    bad = BadRows(settings.data.skip_bad_rows)
    prefixes = test_prefixes(settings, bad)
    names = named([UNTUNED, *(name for name in targets if name != UNTUNED)] if baseline else targets)
    scripts = {
        target: _script(target, source, settings)
        for target in names.values()
        if (source := dialogues_of(target)) is not None
    }
    for target, (_, dialogues) in scripts.items():
        _note_repeats(target, dialogues["usable"], len(prefixes))
    facts = {
        "targets": list(targets), "settings_of": odd,
        "dialogues": {target: told for target, (_, told) in scripts.items()},
        "kept_start": [name for name, target in names.items() if target in runs and runs[target].kept_start],
        "prefixes": facts_of_prefixes(prefixes, settings.data.test, bad),
    }  # fmt: skip

    def load() -> Parts:
        scorer, others, defender = build_scorer(settings), build_other_scorers(settings), build_defender(settings)
        adversaries: dict[str, Speaker] = {}
        for name, target in names.items():
            if target in runs:
                members = [adversary_of(target, member, settings) for member in runs[target].members]
                adversaries[name] = as_one(name, members, prefixes, settings)
            elif target in scripts:
                adversaries[name] = scripts[target][0]
            elif (count := candidates_of(target)) is None:
                adversaries[name] = adversary_of(target, None, settings)
            else:
                adversaries[name] = _resampling(target, count, settings, defender, scorer)
        return Parts(adversaries, defender, scorer, others, prefixes, settings, facts)

    return Asked(list(names), prefixes, settings, load)


def adversary_of(target: str, run: Run | None, settings: Settings) -> Speaker:
    """The speaker that a target names.

    Args:
        target: What is named.
        run: The run, where it is one.
        settings: Settings of models and sampling.

    Raises:
        UserError: It cannot be loaded.
    """
    if (source := dialogues_of(target)) is not None:
        return _script(target, source, settings)[0]
    model = settings.adversary
    if target != UNTUNED:
        path = target if run is None else str(run.best)
        model = model.model_copy(update={"path": path, "revision": None})
    return build_lm(model, settings.rollout, partners=[settings.defender])


def _script(target: str, source: str, settings: Settings) -> tuple[Speaker, dict[str, Any]]:
    """Who replays dialogues, and what is known of these."""
    bad = BadRows(settings.data.skip_bad_rows)
    dialogues = load_dialogues(source, bad=bad)
    if bad.count:
        _log.warning(f"{target}: {bad}")
    script = Replay(dialogues, name=target, seed=settings.seed)
    usable = len(script.usable(settings.rollout.horizon))
    return script, {"usable": usable, "sha256": texts_hash(dialogues), "skipped": bad.facts()}


def _resampling(target: str, candidates: int, settings: Settings, defender: Speaker, scorer: Scorer) -> Resampling:
    start, eta = adversary_of(UNTUNED, None, settings), settings.evaluation.eta
    return Resampling(start, defender, scorer, settings.reward, candidates, eta, name=f"{target}, η {eta:g}")


def _note_repeats(name: str, usable: int, prefixes: int) -> None:
    if 0 < usable < prefixes:
        _log.info(
            f"note: {name}: {usable} dialogues for {prefixes} prefixes, so some are said more than once; the intervals "
            "are over prefixes only"
        )


def named(targets: Iterable[str]) -> dict[str, str]:
    """Targets by their names."""
    found: dict[str, str] = {}
    for target in targets:
        found[name_of(target, found)] = target
    return found


def name_of(target: str, taken: Mapping[str, object]) -> str:
    """Name of a target: last part of the path (of a run's own ``best`` folder: the run's), made unique."""
    path = Path(target)
    if target.startswith(f"{HUMAN}:"):
        name = HUMAN
    elif path.name == "best" and (path.parent / LOG).is_file():
        name = path.parent.name
    else:
        name = path.name or target
    return name if name not in taken else target
