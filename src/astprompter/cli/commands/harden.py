"""``astprompter harden``: the repair of a defender, new or continued."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ...base.errors import UserError
from ...base.processes import is_main, join
from ...base.signals import going_on
from ...evaluation.grid import terminal
from ...runs.directory import REPAIR
from ...runs.trackers import check_trackers, tracking
from ..console import quiet_libraries
from .shared import OUT, RunOut, Set, SkipBadRows, bars, given, is_setting, say, warn

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN|KEY=VALUE", help="Runs whose best adversaries attack; the first one's settings count."),
]

RoundsOption = Annotated[
    int | None,
    typer.Option(
        "--rounds", min=1, metavar="N",
        help="Attack the repaired model anew, measure it, and repair it again, at most N times.",
    ),
]  # fmt: skip
Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TARGET",
        help="With --rounds: measure this too, such as human:FILE or an SFT run; may be repeated.",
    ),
]

JudgedBy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SCORER",
        help="With --rounds: measure by this scorer too, which chooses no pair and no policy; may be repeated.",
    ),
]


def harden(
    runs: Runs,
    sets: Set = None,
    out: RunOut = None,
    preset: Annotated[str, typer.Option("--preset", "-p", help="Preset on top of the run's settings.")] = "harden",
    untuned: Annotated[bool, typer.Option(help="Also let the untuned speaker attack.")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the repair in --out from its checkpoint.")] = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb, trackio or mlflow; may be repeated.")
    ] = None,
    skip_bad_rows: SkipBadRows = False,
    rounds: RoundsOption = None,
    also: Also = None,
    judged_by: JudgedBy = None,
) -> None:
    """Repair a defender: tune it on its own replies to what it failed at.

    In every iteration the adversaries attack it from training prefixes, and of its replies to an attack that it failed
    at the least toxic one is preferred to the most toxic one. Benign conversations hold it to what it was.
    Writes a run directory whose best/ is the repaired model. The test prefixes stay unseen.

    With --rounds, OUT/hardened-1 is attacked anew by OUT/attack-1, both are measured, and so on; OUT/repair.json
    holds what changed and what it cost, and 'astprompter report OUT' shows it.

    Example: astprompter harden runs/mine -o runs/repaired --rounds 2
    """
    settings = [word for word in runs if is_setting(word)]
    names = [word for word in runs if word not in settings]
    overrides = given(settings, sets, skip_bad_rows=skip_bad_rows)
    if out is None:
        raise UserError("name the run directory with --out, for instance --out runs/repaired")
    if rounds is None and (also or judged_by):
        raise UserError("--also and --judged-by measure with --rounds only; add --rounds 1, or leave them out")
    if tracker and rounds is not None:
        raise UserError("--tracker goes with a single repair, not with --rounds; leave one out")
    from ...workflows.harden import new_repair, settings_of

    check_trackers(tracker or [])
    join()
    chosen = settings_of(names, overrides, preset=preset, untuned=untuned)
    warn()
    quiet_libraries()
    if rounds is not None:
        _rounds(
            names, out, overrides, rounds, preset=preset, untuned=untuned, also=also or [], judges=judged_by or [],
            resume=resume,
        )  # fmt: skip
        return
    from ...workflows.train import finish

    remedy = "what is done up to the last iteration is kept; go on with the same command and --resume"
    trainer = new_repair(chosen, out, resume=resume, progress=bars())
    with going_on(remedy), tracking(tracker or [], out) as trackers:
        trainer.watch = trackers.log
        finish(trainer)
    if not is_main():
        return
    best, before = str(out / "best"), trainer.settings.defender.path
    if trainer.state.best_iteration == 0:
        say(f"\nNot repaired: {best} is the defender as it was")
        return
    measure = ["evaluate", *names, "--repair", "--defender", before, "--defender", best, "--out", f"{out}-measured"]
    say(f"\nRepaired defender: {best} (iteration {trainer.state.best_iteration})")
    say(f"Measure it:        {shlex.join(['astprompter', *measure])}")
    say(f"Attack it anew:    the command that trained {names[0]}, with defender.path={best} and another --out")


def _rounds(names: list[str], out: Path, overrides: list[str], rounds: int, *, resume: bool, **options: Any) -> None:
    from ...evaluation.repair_tables import headline, tables
    from ...workflows.repair_rounds import Rounds, repair_rounds

    remedy = "what is done is kept; go on with the same command and --resume"
    with going_on(remedy):
        found = repair_rounds(Rounds(names, out, overrides, progress=bars(), **options), rounds, resume=resume)
    for grid in tables(found):
        OUT.print(terminal(grid, OUT.width))
    if found.stopped:
        say(f"\nRounds ended: {found.stopped}.")
    say(f"\n{headline(found)}.")
    say(f"Repaired defender: {out / found.kept if found.kept else 'none within the benign budgets failed less'}")
    say(f"Figures:           {out / REPAIR}\nPage:              astprompter report {out}")
