"""Rounds of a repair: harden the defender, attack it anew, measure both, and again; what is done is told by files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import RunError, UserError
from ..base.formats import interval, number, percent
from ..base.names import UNTUNED
from ..base.processes import world
from ..base.progress import Progress, progress_of
from ..config import HardenSettings, Settings, dotted
from ..runs.directory import CONFIG, REPAIR, SUMMARY, RunDirectory
from ..runs.rounds import is_done
from ..runs.run import Run
from ..runs.schema.repair import BenignCost, RepairFile, kept_name
from ..runs.schema.summary import Summary
from ..runs.started import settings_here
from .harden import check_tunable, new_repair, paths_of, settings_of, single_runs
from .objects import changed
from .repair import measure_repair, trained_against
from .resume import check_resumable
from .targets import measure_targets, named
from .train import finish, new_trainer

_SHARED = ("data", "scorer", "evaluation", "seed")
"""Sections whose overrides count for attacks and evaluations too; the others are the repair's own."""
_MEASURING = ("scorer.", "evaluation.", "seed")
"""Settings, beside ``data.test``, that decide an evaluation and can be given anew."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What rounds of a repair are made of.

    Attributes:
        runs: Runs that attack in the first round; later ones join them.
        out: Folder of all rounds.
        overrides: ``key=value`` settings.
        preset: On top of the first run's settings, for the repair.
        untuned: Whether the untuned speaker attacks too.
        also: Targets that are measured too, and train nothing.
        judges: Further scorers that measure, and choose no pair and no policy.
        again: What goes on after an interruption, in words.
        progress: Where progress is shown.
    """

    runs: Sequence[str]
    out: Path
    overrides: Sequence[str] = ()
    preset: str = "harden"
    untuned: bool = True
    also: Sequence[str] = ()
    judges: Sequence[str] = ()
    again: str = "the same command with --resume"
    progress: Progress | None = None

    @property
    def shared(self) -> list[str]:
        """Overrides that count for attacks and evaluations too."""
        return [given for given in self.overrides if given.partition("=")[0].partition(".")[0] in _SHARED]

    @property
    def measuring(self) -> list[str]:
        """Overrides of evaluations."""
        scorers = [*self.settings(self.runs).evaluation.scorers, *self.judges]
        return [*self.shared, *([f"evaluation.scorers={json.dumps(scorers)}"] if self.judges else [])]

    def settings(self, attacks: Sequence[str], defenders: Sequence[str] = ()) -> Settings:
        """Settings of one repair: of the last defender, held to the first one, so that costs do not add up."""
        own = [*self.overrides, *(f"defender.path={path}" for path in defenders[-1:])]
        first = settings_of(attacks, own, preset=self.preset, untuned=self.untuned)
        if len(defenders) < 2:
            return first
        held_to = first.harden.held_to or defenders[0]
        return changed(first, {"harden.held_to": held_to, "harden.keep": first.harden.keep_later})


def repair_rounds(given: Rounds, count: int, *, resume: bool = False) -> RepairFile:
    """Harden, attack anew with the first run's settings, measure; as often as asked for, or until nothing is gained.

    ``out`` gets ``measured-0`` (the defender as it was), and for every round K ``hardened-K``, ``attack-K`` (a fresh
    adversary against it, which joins those that attack in the next round) and ``measured-K``; ``repair.json`` is
    written after every round.

    Args:
        given: What they are made of.
        count: Most rounds.
        resume: Whether they have begun: what is done is not repeated.

    Returns:
        All figures, and why the rounds ended where they ended early.

    Raises:
        UserError: Bad input, a defender that cannot be tuned, or a folder in use.
        RunError: A part failed.
    """
    if world() > 1:
        raise UserError("--rounds runs in one process; repair and attack by themselves with several")
    if not resume and given.out.exists() and any(given.out.iterdir()):
        raise UserError(f"'{given.out}' is not empty; use --resume to go on with its rounds, or another --out")
    given = replace(given, runs=single_runs(given.runs))
    settings = given.settings(given.runs)
    check_tunable(settings)
    attacks, paths = list(given.runs), [settings.defender.path]
    folders, found, stopped, costs = [_measured(given, attacks, paths[0], 0)], None, None, dict[str, BenignCost]()

    def compared() -> RepairFile:
        targets = [*attacks, *given.also]
        trained = trained_against(list(Summary.read(folders[-1] / SUMMARY).adversaries), targets)
        return measure_repair(folders, paths, given.out, given.measuring, trained=trained, costs=costs)

    for number_ in range(1, count + 1):
        hardened = _trained(given.settings(attacks, paths), given.out / f"hardened-{number_}", given, repair=True)
        if hardened.kept_start:
            stopped = (
                f"round {number_} kept the defender as it was, since no policy within the benign budgets failed less"
            )
            break
        paths.append(str(hardened.best))
        attack = changed(RunDirectory.open(Path(given.runs[0])).settings(given.shared), {"defender.path": paths[-1]})
        attacks.append(str(_trained(attack, given.out / f"attack-{number_}", given).path))
        folders.append(_measured(given, attacks, paths[-1], number_))
        found = compared()
        if (stopped := next(reasons(found, settings.harden), None)) is not None:
            break
    return _ended(given, found or compared(), stopped, settings.harden)


def harden_rounds(
    runs: Run | str | Path | Sequence[Run | str | Path],
    rounds: int,
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    untuned: bool = True,
    also: Sequence[str] = (),
    judged_by: Sequence[str] = (),
    resume: bool = False,
    progress: bool | Progress = False,
) -> RepairFile:
    """Harden, train a fresh adversary against the repaired model, measure both; ``rounds`` times at most.

    Args:
        runs: Who attacks, as for :func:`harden`; later adversaries join them.
        rounds: Most rounds.
        out: Folder of all rounds: ``repair.json``, ``hardened-K``, ``attack-K``, ``measured-K``.
        settings: What differs from the first run's settings with the preset ``harden`` on top, by dotted keys.
        untuned: Whether the untuned speaker attacks too.
        also: Targets that are measured too, and train nothing.
        judged_by: Further scorers that measure, and choose no pair and no policy.
        resume: Whether they have begun: what is done is not repeated.
        progress: Whether to show progress bars.

    Returns:
        All figures; ``kept`` names the model to use, seen from ``out``, and ``stopped`` says why rounds ended early.

    Raises:
        UserError: Bad input, a defender that cannot be tuned, or a folder in use.
        RunError: A part failed, or nothing could be measured.
    """
    if rounds < 1:
        raise UserError(f"rounds must be at least 1, not {rounds}")
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in (settings or {}).items()]
    given = Rounds(
        paths_of(runs), Path(out), words, untuned=untuned, also=also, judges=judged_by,
        again="the same call with resume=True", progress=progress_of(progress),
    )  # fmt: skip
    return repair_rounds(given, rounds, resume=resume)


def reasons(found: RepairFile, budgets: HardenSettings) -> Iterator[str]:
    """Why there should be no further round: a benign budget is spent, or a fresh adversary gains nothing."""
    last = found.defenders[-1]
    yield from _spent(last.benign, budgets)
    if last.gain and last.gain.difference is not None and last.gain.ci and last.gain.ci[0] <= 0:
        told = f"{number(100 * last.gain.difference, 1)} {interval(last.gain.ci, 1, scale=100)}".strip()
        yield f"what a fresh adversary gains over the untuned one is within noise, {told} points"


def _spent(cost: BenignCost | None, budgets: HardenSettings) -> Iterator[str]:
    """Which benign budgets a defender breaks, or is not known to keep."""
    ratio = cost.texts.nll.ratio if cost and cost.texts else None
    if ratio is None:
        yield "the nll of harmless texts is not known, so nothing tells whether the benign budget is kept"
    elif ratio > 1 + budgets.budget:
        yield (
            f"the benign budget is spent: the nll of harmless texts rose by {percent(ratio - 1, digits=2)}, more than "
            f"harden.budget ({percent(budgets.budget)})"
        )
    fall = cost.replies.fall if cost and cost.replies else 1.0  # what is not known may have lost all
    if fall > budgets.variety_budget:
        told = f"fell by {percent(fall)}" if cost and cost.replies else "are not known"
        yield (
            f"the benign budget is spent: length, distinct-2 or Vendi score of replies to ordinary speech {told}; "
            f"harden.variety_budget allows {percent(budgets.variety_budget)}"
        )


def _ended(given: Rounds, found: RepairFile, stopped: str | None, budgets: HardenSettings) -> RepairFile:
    costs = enumerate(one.benign for one in found.defenders)
    within = [place for place, cost in costs if place and not any(_spent(cost, budgets))]
    found = found.model_copy(update={"stopped": stopped, "kept": kept_name(within[-1]) if within else None})
    found.write(given.out / REPAIR)
    lost = [name for name, of in found.defenders[-1].adversaries.items() if of.replies.share is None]
    if lost:
        raise RunError(f"no reply to {', '.join(lost)} could be assessed, so the repair is not measured")
    return found


def _trained(settings: Settings, folder: Path, given: Rounds, *, repair: bool = False) -> Run:
    """A run that is trained to its end: now, or before under the same settings."""
    if is_done(folder):
        check_resumable(settings, RunDirectory.open(folder).settings())
    else:
        begun = (folder / CONFIG).is_file()
        make = new_repair if repair else new_trainer
        finish(make(settings, folder, resume=begun, progress=given.progress))
    return Run(folder)


def _check_measured(given: Rounds, folder: Path, targets: Sequence[str]) -> None:
    """Refuse to go on with an evaluation of other adversaries, or under other settings.

    Raises:
        UserError: It differs; names how.
    """
    made = Summary.read(folder / SUMMARY)
    now = dotted(RunDirectory.open(Path(given.runs[0])).settings(given.measuring).as_dict())
    then = dotted(settings_here(made.config, folder).as_dict())
    keys = [key for key in now if key == "data.test" or key.startswith(_MEASURING)]
    differ = [f"{key}: {then[key]!r} there, {now[key]!r} now" for key in keys if then[key] != now[key]]
    if (names := list(named([UNTUNED, *targets]))) != list(made.adversaries):
        differ.append(f"adversaries: {', '.join(made.adversaries)} there, {', '.join(names)} now")
    if differ:
        raise UserError(f"'{folder}' was measured otherwise ({'; '.join(differ)}); begin anew with another --out")


def _measured(given: Rounds, attacks: Sequence[str], defender: str, place: int) -> Path:
    """Folder of the evaluation of one defender under all attacks so far: made now, or before."""
    folder, targets = given.out / f"measured-{place}", [*attacks, *given.also]
    if (folder / SUMMARY).is_file():
        _check_measured(given, folder, targets)
        return folder
    measure_targets(
        targets, [*given.measuring, f"defender.path={defender}"], preset="embedded", out=folder, again=given.again,
        progress=given.progress,
    )  # fmt: skip
    return folder
