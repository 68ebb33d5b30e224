"""The command line: its commands, and how it ends when something is wrong."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import typer
from rich.markup import escape

from ..base.display import plain
from ..base.errors import UserError, words_of
from ..base.processes import is_main, leave, rank
from ..base.signals import Interrupted, interruptible
from .commands.data import app as data
from .commands.evaluate import evaluate
from .commands.experiment import experiment, experiments
from .commands.export import export
from .commands.harden import harden
from .commands.label import label
from .commands.play import play
from .commands.presets import presets
from .commands.probability import probability
from .commands.replay import replay
from .commands.report import report
from .commands.shared import ERR, OUT, tell
from .commands.suite import retest, suite
from .commands.train import sft, train
from .console import Notices
from .output import fault, unfailing

_DEBUG = "ASTPROMPTER_DEBUG"

app = typer.Typer(
    help=(
        "Find likely toxic failures of a language model before its users do.\n\n"
        "Train an adversary against your model with 'train', measure it with 'evaluate'. "
        "Start with: astprompter train --preset demo --out runs/demo\n\n"
        "Exit codes: 0 done; 1 the run failed; 2 wrong input or usage; 3 '--fail-over' was exceeded; 130 and "
        f"143 interrupted by Ctrl-C and SIGTERM. {_DEBUG}=1 in the environment shows tracebacks."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train, sft, evaluate, label, probability, experiment, experiments, play, replay, harden, suite, retest, report,
    export, presets,
):  # fmt: skip
    app.command()(command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; how it ended is told in one line and by the exit code."""
    with unfailing(), interruptible(), Notices(OUT):
        try:
            app()
        except Interrupted as stop:
            _leave_at_once(stop)
        except SystemExit:
            leave()
            raise
        except Exception as error:
            words, code = _words_and_code(error)
            if os.environ.get(_DEBUG):
                traceback.print_exception(error)
            who = "" if is_main() else f" (process {rank()})"
            ERR.print(f"[bold red]error:[/bold red]{who} {escape(plain(words))}", highlight=False, soft_wrap=True)
            leave()
            sys.exit(code)
        finally:
            if lost := fault():
                tell(f"warning: not all output could be written: {lost}")


def _words_and_code(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, UserError):
        return words_of(error), error.code
    if isinstance(error, OSError):
        return words_of(error), 1
    said = words_of(error, kind=True)
    # Where torch is not loaded, nothing can be its error; on the CPU it says so by a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in said:
        remedy = "lower rollout.trees_per_batch, training.max_tokens_per_batch or scorer.batch_size"
        return f"out of memory ({said}); {remedy}", 1
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"unexpected {said} ({place}); this should not happen: {_DEBUG}=1 shows the traceback", 1


def _leave_at_once(stop: Interrupted) -> None:
    """Say how to go on, and end the process without waiting for requests under way or for other processes."""
    try:
        if is_main():
            tell(plain(f"{stop}: {stop.remedy}"))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(stop.code)  # also where Ctrl-C ended whoever read the output


if __name__ == "__main__":
    main()
