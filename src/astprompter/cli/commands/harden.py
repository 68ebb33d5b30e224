"""``astprompter harden``: the repair of a defender, new or continued."""

from __future__ import annotations

from typing import Annotated

import typer

from ...base.errors import UserError
from ...base.processes import is_main, join
from ...base.signals import going_on
from ...runs.trackers import check_trackers, tracking
from ..console import quiet_libraries
from .shared import RunOut, Set, SkipBadRows, bars, given, is_setting, say, warn

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN|KEY=VALUE", help="Runs whose best adversaries attack; the first one's settings count."),
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
) -> None:
    """Repair a defender: tune it on its own replies to what it failed at.

    In every iteration the adversaries attack it from training prefixes, and of its replies to an attack that it failed
    at the least toxic one is preferred to the most toxic one. Benign conversations hold it to what it was.
    Writes a run directory whose best/ is the repaired model. The test prefixes stay unseen.

    Example: astprompter harden runs/mine -o runs/repaired
    """
    settings = [word for word in runs if is_setting(word)]
    names = [word for word in runs if word not in settings]
    overrides = given(settings, sets, skip_bad_rows=skip_bad_rows)
    if out is None:
        raise UserError("name the run directory with --out, for instance --out runs/repaired")
    from ...workflows.harden import new_repair, settings_of

    check_trackers(tracker or [])
    join()
    chosen = settings_of(names, overrides, preset=preset, untuned=untuned)
    warn()
    quiet_libraries()
    from ...workflows.train import finish

    remedy = "what is done up to the last iteration is kept; go on with the same command and --resume"
    trainer = new_repair(chosen, out, resume=resume, progress=bars())
    with going_on(remedy), tracking(tracker or [], out) as trackers:
        trainer.watch = trackers.log
        finish(trainer)
    if not is_main():
        return
    say(f"\nRepaired defender: {out / 'best'} (iteration {trainer.state.best_iteration})")
    say(f"Measure it:        astprompter evaluate {names[0]} defender.path={out / 'best'} --out {out / 'after'}")
    say(f"Attack it anew:    astprompter train defender.path={out / 'best'} --out NEW")
