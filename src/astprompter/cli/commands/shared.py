"""What the commands share: the two consoles, the warning, arguments that mean the same everywhere."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ...base.errors import UserError, nearest
from ...base.processes import is_main
from ...base.progress import Progress, progress_of
from ...config import known_keys
from ..console import WARNING

OUT = Console(emoji=False)  # ":100:" in a path or a text stays what it is
ERR = Console(stderr=True, emoji=False)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance loss.tau=0.2 seed=1.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, the same as KEY=VALUE alone; may be repeated."),
]
PresetName = Annotated[
    str, typer.Option("--preset", "-p", help="Preset name, BASE+NAME, or a YAML file; see 'presets'.")
]
RunOut = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory to create.")]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Skip and count rows that cannot be read (data.skip_bad_rows=true).")
]
Replace = Annotated[bool, typer.Option("--replace", help="Also replace results of more, or of something else.")]
ShowText = Annotated[bool, typer.Option("--show-text", help="Show texts unmasked; they are offensive.")]


def given(overrides: list[str] | None, sets: list[str] | None, *, skip_bad_rows: bool = False) -> list[str]:
    """All settings of a command line: ``KEY=VALUE`` alone, by ``--set``, and what ``--skip-bad-rows`` stands for."""
    return [*(overrides or []), *(sets or []), *(["data.skip_bad_rows=true"] if skip_bad_rows else [])]


def is_setting(word: str) -> bool:
    """Whether a word is ``key=…`` or ``section.key=…``, whatever files there are; a path has ``./`` before it."""
    key, sign, _ = word.partition("=")
    if not sign and "." in word and word in known_keys():
        raise UserError(f"'{word}' is a setting and has no value; did you mean {word}=VALUE? A folder: './{word}'")
    if not sign or not re.fullmatch(r"\w+(\.\w+)*", key):
        return False
    if key not in (known := known_keys()):
        raise UserError(f"unknown setting '{key}'.{nearest(key, known)} A folder of that name: './{word}'")
    return True


def share(text: str | float) -> float:
    """A share that the command line names.

    Raises:
        typer.BadParameter: It is no number from 0 to 1; ``nan`` is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise typer.BadParameter(f"'{text}' is no share; give a number from 0 to 1, for instance 0.05")
    return value


def say(text: str) -> None:
    """Print a line as it is: no markup, no colours, no wrapping of what may be a path or a command to copy."""
    OUT.print(escape(text), highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """Print a line as it is on the error stream."""
    ERR.print(escape(text), highlight=False, soft_wrap=True)


def bars() -> Progress:
    """Progress bars where somebody sees them."""
    return progress_of(sys.stderr.isatty())


def warn() -> None:
    """Show the content warning, once however many processes there are."""
    if is_main():
        ERR.print(f"[dim]{WARNING}[/dim]")
