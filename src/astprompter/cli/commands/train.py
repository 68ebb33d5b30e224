"""``astprompter train`` and ``astprompter sft``: a run, new or continued."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import RunError, UserError
from ...base.processes import is_main, join
from ...base.signals import going_on
from ...config import Settings, load_settings, to_yaml
from ...runs.trackers import check_trackers, tracking
from ..console import quiet_libraries
from ..output import fault
from .shared import Overrides, PresetName, RunOut, Set, SkipBadRows, bars, given, say, tell, warn

Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as a file for --preset, and stop.")
]

Rounds = Annotated[
    int | None,
    typer.Option(
        metavar="K", min=2, help="Train a set of K adversaries, each paid for failures unlike those of the ones before "
        "it (novelty.weight); every one is a run below --out."
    ),
]  # fmt: skip


def train(
    overrides: Overrides = None,
    sets: Set = None,
    preset: PresetName = "embedded",
    out: RunOut = None,
    resume: Resume = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb, trackio or mlflow; may be repeated.")
    ] = None,
    rounds: Rounds = None,
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
    from ...runs.directory import refuse_used
    from ...runs.rounds import is_set, settings_in

    check_trackers(tracker or [])
    join()
    if resume:
        from ...workflows.resume import check_resumable

        recorded = settings_in(out)
        if preset == "embedded":
            settings = settings_in(out, overrides)
        settings = check_resumable(settings, recorded)
    elif is_main():
        refuse_used(out)
    warn()
    quiet_libraries()
    remedy = f"what is done up to the last iteration is kept; go on with 'astprompter train --out {out} --resume'"
    if rounds is not None or (resume and is_set(out)):
        from ...workflows.rounds import parts_of

        parts = parts_of(settings, out, rounds, resume=resume)
        with going_on(remedy):
            for part in parts:
                if is_main():
                    tell(f"{part.folder.name}:")
                _run(part.settings, part.folder, remedy, tracker or [], resume=part.resume)
    else:
        _run(settings, out, remedy, tracker or [], resume=resume)
    if is_main():
        say(f"Measure it:     astprompter evaluate {out}")


def _run(settings: Settings, out: Path, remedy: str, tracker: list[str], *, resume: bool) -> None:
    """Train, and say what came of it."""
    from ...workflows.train import finish, new_trainer

    trainer = new_trainer(settings, out, resume=resume, progress=bars())
    with going_on(remedy), tracking(tracker, out) as trackers:
        trainer.watch = trackers.log
        finish(trainer)
    if is_main():
        say(f"\nBest adversary: {out / 'best'} (iteration {trainer.state.best_iteration})")


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
