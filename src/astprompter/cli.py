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
    quiet_libraries,
    results_table,
    scorer_lines,
    scorers_table,
)
from .errors import UserError

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
PresetName = Annotated[str, typer.Option("--preset", "-p", help="Preset name, or a YAML file; see 'presets'.")]


@app.command()
def train(
    overrides: Overrides = None,
    preset: PresetName = "embedded",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory to create.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings as YAML and stop.")] = False,
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

    if resume:
        from .build import check_resumable

        recorded = RunDirectory.open(out).settings()
        if overrides or preset != "embedded":
            check_resumable(settings, recorded)
        settings = recorded
    else:
        refuse_used(out)
    _err.print(f"[dim]{WARNING}[/dim]")
    quiet_libraries()
    from .build import new_trainer

    with RichProgress(_out) as progress:
        trainer = new_trainer(settings, out, resume=resume, progress=progress)
        trainer.run()
    _out.print(f"\nBest adversary: {escape(str(out / 'best'))} (iteration {trainer.state.best_iteration})")
    _out.print(f"Measure it:     astprompter evaluate {escape(str(out))}", highlight=False)


@app.command()
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET... [KEY=VALUE]...", help="Run directories, model folders or hub names."),
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
    models by path or hub name, under the settings of --preset. The untuned model is always compared.

    Writes summary.json, trajectories.jsonl and failures.jsonl.

    Example: astprompter evaluate runs/mine data.test=prefixes.jsonl
    """
    known = known_keys()
    overrides = [t for t in targets if "=" in t and (t.partition("=")[0] in known or not Path(t).exists())]
    names = [t for t in targets if t not in overrides]
    if not names:
        raise UserError("name at least one run directory or model to evaluate")
    from .measure import evaluate_targets

    _err.print(f"[dim]{WARNING}[/dim]")
    quiet_libraries()
    with RichProgress(_out) as progress:
        result, folder = evaluate_targets(
            names, overrides, preset=preset, out=out, baseline=baseline, progress=progress
        )
    _show(result, folder, show_text=show_text, top=top)


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
        table.add_row(name, f"{preset.summary}\n[dim]{escape(preset.why.strip())}[/dim]", parent + "\n".join(changes))
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


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        _err.print(
            f"[bold red]error:[/bold red] {escape(' '.join(str(error).split()))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted; continue with --resume")
        sys.exit(130)


if __name__ == "__main__":
    main()
