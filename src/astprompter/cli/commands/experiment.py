"""``astprompter experiment`` and ``astprompter experiments``: whole studies."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import UserError
from ...base.signals import going_on
from ..console import listing
from .shared import OUT, Set, bars, given, say, warn


def experiment(
    name: Annotated[str, typer.Argument(help="Experiment name, or a YAML file; see 'experiments'.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the plan (seeds=[0,1], human=FILE, …) or settings."),
    ] = None,
    sets: Set = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the runs; experiments in one folder share what they have.")
    ] = Path("runs/study"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings and evaluations at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what is done and what would run, and stop.")] = False,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Write tables of what is done; run nothing.")
    ] = False,
) -> None:
    """Run a whole study, from training to tables.

    Trains what is missing, measures it, and writes its tables and findings. Started again it goes on where it stopped.
    Writes OUT/NAME/: experiment.json, tables.md, .tex, .csv, findings.md.

    Example: astprompter experiment paper --jobs 2 data.train=train.jsonl data.dev=dev.jsonl data.test=test.jsonl
    """
    from ...evaluation.grid import terminal
    from ...studies.done import is_done
    from ...studies.jobs import jobs_of
    from ...studies.paper.tables import overall, write_all
    from ...studies.plan import load_plan
    from ...studies.runner import Runner, command_of
    from ...studies.summary import experiment_of

    overrides = given(overrides, sets)
    plan = load_plan(name, overrides)
    work = jobs_of(plan, out)
    if dry_run:
        for job in work:
            done = is_done(job)
            typer.echo(f"{'done ' if done else 'to do'}  {job}")
            if not done:
                typer.echo(f"         astprompter {shlex.join(command_of(job))}")
        return
    warn()
    try:
        if not tables_only:
            remedy = "what is done stays; run the same command again to go on"
            with going_on(remedy):
                Runner(out, jobs=jobs, progress=bars()).run(work)
    finally:
        command = ["experiment", name, *overrides, "--out", str(out)]
        found = experiment_of(plan, out, command)
        if found.cases:
            write_all(found, out / plan.name)
    if not found.cases:
        raise UserError(f"nothing of experiment '{plan.name}' is measured yet in '{out}'; run it without --tables-only")
    for case in found.cases.values():
        OUT.print(terminal(overall(case), OUT.width))
    for item in found.findings:
        say(f"{item.id:>3} {item.verdict:<16} {item.claim}")
    if found.missing:
        say(f"\nnot complete: {len(found.missing)} jobs are still to be done, so the figures may change")
    written = ["tables.md", ".tex", ".csv", *(["findings.md"] if found.findings else []), "experiment.json"]
    say(f"\nResults: {out / plan.name} ({', '.join(written)})")


def experiments() -> None:
    """List the experiments: what each is for, and what it trains."""
    from ...studies.plan import adversaries_of, load_plan, plan_names

    entries = []
    for name in plan_names():
        plan = load_plan(name, ["models.large=PATH"])
        names = [*plan.attacks, *adversaries_of(plan)]
        entries.append((name, [plan.summary, plan.why.strip(), f"Adversaries: {', '.join(names)}"]))
    OUT.print(listing(entries))
