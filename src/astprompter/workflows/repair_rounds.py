"""Rounds of a repair: harden the defender, attack it anew, measure both, and again; what is done is told by files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UserError
from ..base.formats import interval, number, percent
from ..base.processes import world
from ..base.progress import Progress
from ..config import Settings
from ..runs.directory import CONFIG, REPAIR, SUMMARY, RunDirectory
from ..runs.rounds import is_done
from ..runs.run import Run
from ..runs.schema.repair import RepairFile
from ..runs.schema.summary import Summary
from .harden import check_tunable, new_repair, settings_of
from .objects import changed
from .repair import measure_repair, trained_against
from .targets import measure_targets
from .train import finish, new_trainer

_SHARED = ("data", "scorer", "evaluation", "seed")
"""Sections whose overrides count for attacks and evaluations too; the others are the repair's own."""


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

    def settings(self, attacks: Sequence[str], defender: str | None = None) -> Settings:
        """Settings of one repair."""
        own = [*self.overrides, *([] if defender is None else [f"defender.path={defender}"])]
        return settings_of(attacks, own, preset=self.preset, untuned=self.untuned)


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
    settings = given.settings(given.runs)
    check_tunable(settings)
    attacks, paths = list(given.runs), [settings.defender.path]
    folders, found, stopped = [_measured(given, attacks, paths[0], 0)], None, None
    for number_ in range(1, count + 1):
        hardened = _trained(given.settings(attacks, paths[-1]), given.out / f"hardened-{number_}", given, repair=True)
        if hardened.kept_start:
            stopped = f"round {number_} kept the defender as it was, since no policy within harden.budget failed less"
            break
        paths.append(str(hardened.best))
        attack = changed(RunDirectory.open(Path(given.runs[0])).settings(given.shared), {"defender.path": paths[-1]})
        attacks.append(str(_trained(attack, given.out / f"attack-{number_}", given).path))
        folders.append(_measured(given, attacks, paths[-1], number_))
        found = _compared(given, folders, paths, attacks)
        if (stopped := next(reasons(found, settings.harden.budget), None)) is not None:
            break
    return _ended(given, found or _compared(given, folders, paths, attacks), paths, stopped, settings.harden.budget)


def reasons(found: RepairFile, budget: float) -> Iterator[str]:
    """Why there should be no further round: the benign budget is spent, or a fresh adversary gains nothing."""
    last = found.defenders[-1]
    if (ratio := _ratio(found, -1)) > 1 + budget:
        yield (
            f"the benign budget is spent: the nll of harmless texts rose by {percent(ratio - 1, digits=2)}, more than "
            f"harden.budget ({percent(budget)})"
        )
    if last.gain and last.gain.difference is not None and last.gain.ci and last.gain.ci[0] <= 0:
        told = f"{number(100 * last.gain.difference, 1)} {interval(last.gain.ci, 1, scale=100)}".strip()
        yield f"what a fresh adversary gains over the untuned one is within noise, {told} points"


def _ratio(found: RepairFile, place: int) -> float:
    """Nll of harmless texts over that of the first defender; 1 where it is not known."""
    cost = found.defenders[place].benign
    return (cost.texts.nll.ratio if cost and cost.texts else None) or 1.0


def _ended(
    given: Rounds, found: RepairFile, paths: Sequence[str], stopped: str | None, budget: float
) -> RepairFile:  # fmt: skip
    within = [i for i in range(1, len(found.defenders)) if _ratio(found, i) <= 1 + budget]
    kept = Path(paths[within[-1]]).relative_to(given.out).as_posix() if within else None
    found = found.model_copy(update={"stopped": stopped, "kept": kept})
    found.write(given.out / REPAIR)
    return found


def _trained(settings: Settings, folder: Path, given: Rounds, *, repair: bool = False) -> Run:
    """A run that is trained to its end: now, or before."""
    if not is_done(folder):
        begun = (folder / CONFIG).is_file()
        make = new_repair if repair else new_trainer
        finish(make(settings, folder, resume=begun, progress=given.progress))
    return Run(folder)


def _measured(given: Rounds, attacks: Sequence[str], defender: str, place: int) -> Path:
    """Folder of the evaluation of one defender under all attacks so far: made now, or before."""
    folder, targets = given.out / f"measured-{place}", [*attacks, *given.also]
    if (folder / SUMMARY).is_file() and Summary.read(folder / SUMMARY).config.targets == targets:
        return folder
    measure_targets(
        targets, [*given.measuring, f"defender.path={defender}"], preset="embedded", out=folder, again=given.again,
        progress=given.progress,
    )  # fmt: skip
    return folder


def _compared(given: Rounds, folders: Sequence[Path], paths: Sequence[str], attacks: Sequence[str]) -> RepairFile:
    names = list(Summary.read(folders[-1] / SUMMARY).adversaries)
    trained = trained_against(names, [*attacks, *given.also])
    return measure_repair(folders, paths, given.out, given.measuring, trained=trained)
