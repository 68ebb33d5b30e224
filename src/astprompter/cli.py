"""The command line: its commands, and how it ends when something is wrong."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from .commands.data import app as data
from .commands.evaluate import evaluate
from .commands.experiment import experiment, experiments
from .commands.export import export
from .commands.play import play
from .commands.presets import presets
from .commands.report import report
from .commands.shared import ERR
from .commands.train import sft, train
from .errors import UserError, words_of
from .processes import is_main, leave, rank

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
for command in (train, sft, evaluate, experiment, experiments, play, report, export, presets):
    app.command()(command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        try:
            app()
        finally:
            leave()
    except UserError as error:
        who = "" if is_main() else f" (process {rank()})"
        ERR.print(f"[bold red]error:[/bold red]{who} {escape(words_of(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        ERR.print("interrupted; continue with --resume")
        sys.exit(130)


if __name__ == "__main__":
    main()
