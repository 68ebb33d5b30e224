"""What there is to train: a run, or the rounds of a set that are not done yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UserError
from ..base.processes import barrier, is_main
from ..config import Settings
from ..runs.directory import CONFIG, ROUNDS, refuse_used
from ..runs.rounds import is_done, is_set, rounds_of, settings_in
from ..runs.schema.rounds import RoundsFile
from ..runs.started import started_in
from .objects import changed
from .resume import check_resumable


@dataclass(frozen=True, slots=True)
class Training:
    """A run that is to be trained.

    Attributes:
        settings: Its settings.
        folder: Its run directory.
        resume: Whether it has begun.
    """

    settings: Settings
    folder: Path
    resume: bool


def parts_of(settings: Settings, out: Path, rounds: int | None, *, resume: bool) -> list[Training]:
    """The rounds of a set that are to be trained, in their order; what is to go on is told by files alone.

    Every round has the same settings and start. What differs is what it is paid for: to the archive of round k the
    failures of rounds 1 to k − 1 belong.

    Args:
        settings: Settings of all rounds.
        out: Folder of the set.
        rounds: How many there are to be; what the set began with where not given. A set may grow.
        resume: Whether the set has begun.

    Raises:
        UserError: Bad settings, a folder in use, or other settings than the set began with.
    """
    if resume and not is_set(out):
        raise UserError(f"'{out}' is no set of adversaries that could go on; leave out --rounds, or --resume")
    known = RoundsFile.read(out / ROUNDS).rounds if resume else 0
    count = known if rounds is None else rounds
    if count < max(2, known):
        raise UserError(f"--rounds {count}: a set has at least {max(2, known)} rounds")
    if settings.training.objective != "preference" or not settings.novelty.weight:
        raise UserError("--rounds needs novelty.weight, which pays for failures unlike earlier ones; try 1.5")
    if resume:
        recorded = settings_in(out)
        check_resumable(settings, recorded)
        if settings.training.updates != recorded.training.updates:
            raise UserError("a set cannot be trained longer: later rounds have learnt from what earlier ones found")
    elif is_main():
        refuse_used(out)
    if is_main() and count != known:
        out.mkdir(parents=True, exist_ok=True)
        RoundsFile(rounds=count, settings=settings.as_dict(), started_in=started_in(out)).write(out / ROUNDS)
    folders, found = rounds_of(out, count), []
    for k, folder in enumerate(folders):
        if not is_done(folder):
            earlier = [*settings.novelty.earlier, *map(str, folders[:k])]
            found.append(Training(changed(settings, {"novelty.earlier": earlier}), folder, (folder / CONFIG).is_file()))
    barrier()  # all processes have looked before one of them changes anything
    return found
