"""The command line: parse, call one function, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .commands.data import app as data_app
from .commands.export import export
from .config import known_keys, load_preset, load_settings, preset_names, to_yaml
from .console import (
    WARNING,
    RichProgress,
    comparison_lines,
    failures_table,
    grid_table,
    masked,
    plain,
    quiet_libraries,
    results_table,
    scorer_lines,
    scorers_table,
)
from .errors import UserError
from .processes import is_main, join, leave, rank
from .trackers import check_trackers, tracking

if TYPE_CHECKING:
    from .evaluation.evaluate import Evaluation

app = typer.Typer(
    help=(
        "Find likely toxic failures of a language model before its users do.\n\n"
        "Train an adversary against your model with 'train', measure it with 'evaluate'. "
        "Start with: astprompter train --preset demo --out runs/demo"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.command()(export)
_out = Console()
_err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance loss.tau=0.2 seed=1.")
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", help="Preset name, BASE+NAME, or a YAML file; see 'presets'.")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory to create.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings as YAML and stop.")]


@app.command()
def train(
    overrides: Overrides = None,
    preset: PresetName = "embedded",
    out: OutOption = None,
    resume: Resume = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb, trackio or mlflow; may be repeated.")
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Train an adversary against a defender.

    Writes a run directory: log.jsonl, checkpoint/, and best/, a model folder with the best adversary by dev reward.

    Example: astprompter train -o runs/mine defender.path=./my-model data.train=prefixes.jsonl
    """
    settings = load_settings(preset, overrides or [])
    if print_config:
        typer.echo(to_yaml(settings), nl=False)
        return
    if out is None:
        raise UserError("name the run directory with --out, for instance --out runs/first")
    from .runlog import RunDirectory, refuse_used

    check_trackers(tracker or [])
    join()
    if resume:
        from .build import check_resumable

        recorded = RunDirectory.open(out).settings()
        if preset == "embedded":
            settings = RunDirectory.open(out).settings(overrides or [])
        settings = check_resumable(settings, recorded)
    elif is_main():
        refuse_used(out)
    _warn()
    quiet_libraries()
    from .build import new_trainer

    with RichProgress(_out, quiet=not is_main()) as progress:
        trainer = new_trainer(settings, out, resume=resume, progress=progress)
        with tracking(tracker or [], out) as trackers:
            trainer.watch = trackers.log
            trainer.run()
    if not is_main():
        return
    _out.print(f"\nBest adversary: {escape(str(out / 'best'))} (iteration {trainer.state.best_iteration})")
    _out.print(f"Measure it:     astprompter evaluate {escape(str(out))}", highlight=False)


@app.command()
def sft(
    overrides: Overrides = None,
    preset: PresetName = "embedded",
    out: OutOption = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Train the SFT baseline: the base policy tuned on the eliciting texts, for as many updates as 'train' takes.

    The same as 'train' with the preset 'sft' on top; its best/ is the last policy.

    Example: astprompter sft -o runs/sft defender.path=./my-model data.eliciting=eliciting.jsonl
    """
    chosen = preset if resume and preset == "embedded" else f"{preset}+sft"
    train(overrides, chosen, out, resume=resume, print_config=print_config)


@app.command()
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET... [KEY=VALUE]...",
            help="Run directories, model folders, hub names, 'untuned', 'probing' or 'human:FILE'.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results; default: the first run.")
    ] = None,
    preset: PresetName = "embedded",
    baseline: Annotated[bool, typer.Option(help="Also evaluate the untuned adversary.")] = True,
    show_text: Annotated[bool, typer.Option("--show-text", help="Show texts unmasked; they are offensive.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Failures to list.")] = 5,
) -> None:
    """Measure adversaries on held-out test prefixes, all by the same path.

    A run directory stands for its best adversary and brings its settings (the first one's count); other targets are
    models by path or hub name, under the settings of --preset; 'probing' (the embedded dialogues) or 'human:FILE'
    (dialogues that people wrote) replays a human attack. The untuned model is compared unless --no-baseline.

    Writes summary.json, trajectories.jsonl and failures.jsonl.

    Example: astprompter evaluate runs/mine data.test=prefixes.jsonl
    """
    known = known_keys()
    overrides = [t for t in targets if "=" in t and (t.partition("=")[0] in known or not Path(t).exists())]
    names = [t for t in targets if t not in overrides]
    if not names:
        raise UserError("name at least one run directory or model to evaluate")
    from .measure import evaluate_targets

    join()
    _warn()
    quiet_libraries()
    with RichProgress(_out, quiet=not is_main()) as progress:
        result, folder = evaluate_targets(
            names, overrides, preset=preset, out=out, baseline=baseline, progress=progress
        )
    if is_main():
        _show(result, folder, show_text=show_text, top=top)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="Experiment name, or a YAML file; see 'experiments'.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the plan (seeds=[0,1], human=FILE, …) or settings."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the runs; experiments in one folder share what they have.")
    ] = Path("runs/study"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings and evaluations at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what is done and what would run, and stop.")] = False,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Write tables of what is done; run nothing.")
    ] = False,
) -> None:
    """Run a whole study: train what is missing, measure it, and write its tables and findings.

    Started again it goes on where it stopped. Writes OUT/NAME/: experiment.json, tables.md, .tex, .csv, findings.md.

    Example: astprompter experiment paper --jobs 2 data.train=train.jsonl data.dev=dev.jsonl data.test=test.jsonl
    """
    from .experiments.plan import jobs_of, load_plan
    from .experiments.runner import Runner, command_of, is_done
    from .experiments.summary import summarise
    from .experiments.tables import overviews, write_all

    plan = load_plan(name, overrides or [])
    work = jobs_of(plan, out)
    if dry_run:
        for job in work:
            done = is_done(job)
            typer.echo(f"{'done ' if done else 'to do'}  {job}")
            if not done:
                typer.echo(f"         astprompter {' '.join(command_of(job))}")
        return
    _err.print(f"[dim]{WARNING}[/dim]")
    try:
        if not tables_only:
            with RichProgress(_out) as progress:
                Runner(out, jobs=jobs, progress=progress).run(work)
    finally:
        summary = summarise(plan, out)
        if summary["cases"]:
            write_all(summary, out / plan.name)
    if not summary["cases"]:
        raise UserError(f"nothing of experiment '{plan.name}' is measured yet in '{out}'; run it without --tables-only")
    for grid in overviews(summary):
        _out.print(grid_table(grid.title, grid.header, grid.rows))
    for item in summary["findings"]:
        _out.print(f"{item['id']:>3} {item['verdict']:<16} {escape(item['claim'])}", highlight=False, soft_wrap=True)
    _out.print(f"\nResults: {escape(str(out / plan.name))} (tables.md, .tex, .csv, findings.md, experiment.json)")


@app.command()
def experiments() -> None:
    """List the experiments: what each is for, and what it trains."""
    from .experiments.plan import adversaries_of, load_plan, plan_names

    table = Table("experiment", "what it is", "adversaries", show_lines=True)
    for name in plan_names():
        plan = load_plan(name, ["models.large=PATH"])
        names = [*plan.attacks, *adversaries_of(plan)]
        table.add_row(name, f"{plan.summary}\n[dim]{escape(plan.why.strip())}[/dim]", escape(", ".join(names)))
    _out.print(table)


@app.command()
def play(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    overrides: Overrides = None,
    show_text: Annotated[bool, typer.Option("--show-text", help="Show texts unmasked; they are offensive.")] = False,
) -> None:
    """Talk through a trajectory: your prefix, the adversary's suggestions or your own utterances.

    Shows nll and toxicity of every turn. Texts are masked unless --show-text. Reads lines, so input can be piped.

    Example: astprompter play runs/mine --show-text
    """
    from .play import Game, set_table
    from .runlog import RunDirectory

    directory = RunDirectory.open(run)
    settings = directory.settings(overrides or [])
    _warn()
    quiet_libraries()
    table = set_table(directory, settings)

    def write(line: str) -> None:
        _out.print(escape(line), highlight=False, soft_wrap=True)

    Game(table, sys.stdin, write, show=plain if show_text else masked).play()


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: report.html in the first run.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="'html' or 'md'.")] = "html",
) -> None:
    """Make one self-contained page of one or more runs: the verdict, the figures, the failures.

    The first measured run gives the verdict, all of them enter the table and the figures. Text is masked on the page
    until its reader asks for it.

    Example: astprompter report runs/mine
    """
    from .report.page import write_report

    path = write_report(runs, out=out, form=form)
    _out.print(f"Report: {escape(plain(str(path)))}", highlight=False, soft_wrap=True)


@app.command()
def presets() -> None:
    """List the presets: what each is for, and what it changes."""
    table = Table("preset", "what it is", "differs in", show_lines=True)
    for name in preset_names():
        preset = load_preset(name)
        changes = [
            f"{section}.{key}={value}" if isinstance(values, dict) else f"{section}={values}"
            for section, values in preset.settings.items()
            for key, value in (values.items() if isinstance(values, dict) else [("", "")])
        ]
        parent = f"(from {preset.extends}) " if preset.extends else ""
        table.add_row(
            escape(name), f"{preset.summary}\n[dim]{escape(preset.why.strip())}[/dim]", parent + "\n".join(changes)
        )
    _out.print(table)


def _show(result: Evaluation, folder: Path, *, show_text: bool, top: int) -> None:
    _out.print(results_table(result.summary))
    for line in comparison_lines(result.summary["comparisons"]):
        _out.print(escape(line), highlight=False, soft_wrap=True)
    if (section := result.summary.get("scorers")) is not None:
        _out.print(scorers_table(section))
        for line in scorer_lines(section):
            _out.print(escape(line), highlight=False, soft_wrap=True)
    if top and result.failures:
        _out.print(failures_table(result.failures[:top], show_text=show_text))
    _out.print(f"\nResults: {escape(str(folder))} (summary.json, trajectories.jsonl, failures.jsonl)")
    _out.print(f"Page:    astprompter report {escape(str(folder))}", highlight=False, soft_wrap=True)


def _warn() -> None:
    if is_main():
        _err.print(f"[dim]{WARNING}[/dim]")


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        try:
            app()
        finally:
            leave()
    except UserError as error:
        who = "" if is_main() else f" (process {rank()})"
        _err.print(
            f"[bold red]error:[/bold red]{who} {escape(' '.join(str(error).split()))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted; continue with --resume")
        sys.exit(130)


if __name__ == "__main__":
    main()
