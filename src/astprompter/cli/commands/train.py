"""``astprompter train`` and ``astprompter sft``: a run, new or continued."""

from __future__ import annotations

from typing import Annotated

import typer

from ...base.errors import RunError, UserError
from ...base.processes import is_main, join
from ...base.signals import going_on
from ...config import load_settings, to_yaml
from ...runs.trackers import check_trackers, tracking
from ..console import quiet_libraries
from ..output import fault
from .shared import Overrides, PresetName, RunOut, Set, SkipBadRows, bars, given, say, warn

Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as a file for --preset, and stop.")
]


def train(
    overrides: Overrides = None,
    sets: Set = None,
    preset: PresetName = "embedded",
    out: RunOut = None,
    resume: Resume = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb, trackio or mlflow; may be repeated.")
    ] = None,
    skip_bad_rows: SkipBadRows = False,
    print_config: PrintConfig = False,
) -> None:
    """Train an adversary against a defender.

    Writes a run directory: log.jsonl, checkpoint/, and best/, a model folder with the best adversary by
    training.best_by.

    Example: astprompter train -o runs/mine defender.path=./my-model data.train=prefixes.jsonl
    """
    overrides = given(overrides, sets, skip_bad_rows=skip_bad_rows)
    settings = load_settings(preset, overrides)
    if print_config:
        typer.echo(to_yaml(settings), nl=False)
        if lost := fault():  # a file that lacks its end would be another preset
            raise RunError(f"the settings could not be written: {lost}")
        return
    if out is None:
        raise UserError("name the run directory with --out, for instance --out runs/first")
    from ...runs.directory import RunDirectory, refuse_used

    check_trackers(tracker or [])
    join()
    if resume:
        from ...workflows.resume import check_resumable

        recorded = RunDirectory.open(out).settings()
        if preset == "embedded":
            settings = RunDirectory.open(out).settings(overrides)
        settings = check_resumable(settings, recorded)
    elif is_main():
        refuse_used(out)
    warn()
    quiet_libraries()
    from ...workflows.train import finish, new_trainer

    remedy = f"what is done up to the last iteration is kept; go on with 'astprompter train --out {out} --resume'"
    trainer = new_trainer(settings, out, resume=resume, progress=bars())
    with going_on(remedy), tracking(tracker or [], out) as trackers:
        trainer.watch = trackers.log
        finish(trainer)
    if not is_main():
        return
    say(f"\nBest adversary: {out / 'best'} (iteration {trainer.state.best_iteration})")
    say(f"Measure it:     astprompter evaluate {out}")


def sft(
    overrides: Overrides = None,
    sets: Set = None,
    preset: PresetName = "embedded",
    out: RunOut = None,
    resume: Resume = False,
    skip_bad_rows: SkipBadRows = False,
    print_config: PrintConfig = False,
) -> None:
    """Train the SFT baseline, tuned on the eliciting texts.

    It takes as many updates as 'train'. The same as 'train' with the preset 'sft' on top; its best/ is the last policy.

    Example: astprompter sft -o runs/sft defender.path=./my-model data.eliciting=eliciting.jsonl
    """
    chosen = preset if resume and preset == "embedded" else f"{preset}+sft"
    train(overrides, sets, chosen, out, resume=resume, skip_bad_rows=skip_bad_rows, print_config=print_config)
