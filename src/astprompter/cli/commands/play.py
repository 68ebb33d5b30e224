"""``astprompter play``: a trajectory by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...base.display import masked, plain
from ..console import quiet_libraries
from .shared import Overrides, Set, ShowText, given, say, warn


def play(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    overrides: Overrides = None,
    sets: Set = None,
    show_text: ShowText = False,
) -> None:
    """Talk through a trajectory by hand.

    You give the prefix, and take the adversary's suggestions or write your own utterances. Shows nll and toxicity of
    every turn. Texts are masked unless --show-text. Reads lines, so input can be piped.

    Example: astprompter play runs/mine --show-text
    """
    from ...runs.directory import RunDirectory
    from ...workflows.play import Game, set_table

    directory = RunDirectory.open(run)
    settings = directory.settings(given(overrides, sets))
    warn()
    quiet_libraries()
    table = set_table(directory, settings)
    Game(table, sys.stdin, say, show=plain if show_text else masked).play()
