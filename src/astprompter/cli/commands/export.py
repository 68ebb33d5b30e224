"""``astprompter export``: what a run found, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import UserError
from ..console import quiet_libraries
from .shared import Set, bars, given, say


def export(
    run: Annotated[Path, typer.Argument(help="Run directory, or a folder that 'evaluate --out' wrote.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance defender.device=cpu.")
    ] = None,
    sets: Set = None,
    to: Annotated[
        str, typer.Option("--to", help="trl, hardening, garak, promptfoo, inspect or hf.", show_default=False)
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to create; default: RUN/export-FORMAT.")
    ] = None,
    adversary: Annotated[str, typer.Option("--adversary", help="Only this adversary's attacks.")] = "",
    samples: Annotated[int, typer.Option("--samples", "-k", min=1, help="hardening: new replies per attack.")] = 8,
) -> None:
    """Write what a run found in the files of other tools.

    Texts are written unmasked.

    trl and hardening: preference JSONL. garak: the adversary and a config for atkgen. promptfoo: intents.
    inspect: a JSONL data set. hf: a data set folder.

    Example: astprompter export runs/mine --to hardening --samples 16
    """
    from ...export import FORMATS, export_run

    if not to:
        raise UserError(f"name a format with --to: {', '.join(FORMATS)}")
    folder = out or run / f"export-{to}"
    if to == "hardening":  # the one format that loads models
        quiet_libraries()
    written = export_run(
        run, to, folder, adversary=adversary, samples=samples, overrides=tuple(given(overrides, sets)),
        progress=bars(),
    )  # fmt: skip
    for path in written.files:
        say(str(path))
    for line in written.lines:
        say(line)
