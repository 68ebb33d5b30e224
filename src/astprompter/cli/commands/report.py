"""``astprompter report``: one page of one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.display import plain
from .shared import say


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: report.html in the first run.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="'html' or 'md'.")] = "html",
) -> None:
    """Make one self-contained page of one or more runs.

    It holds the verdict, the figures and the failures. The first measured run gives the verdict, all of them enter the
    table and the figures. Text is masked on the page until its reader asks for it.

    Example: astprompter report runs/mine
    """
    from ...report.page import write_report

    path = write_report(runs, out=out, form=form, note=lambda message: say(plain(message)))
    say(f"Report: {plain(str(path))}")
