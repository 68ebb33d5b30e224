"""What a run found, in the files that other tools read. By files only: no neighbour is imported.

A new format is one entry in :data:`FORMATS`: a function from :class:`Export` to what it wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..base.errors import UserError, nearest
from ..base.progress import Progress, Silent
from ..runs.directory import CONFIG, SUMMARY, RunDirectory, refuse_used
from ..runs.schema.common import File
from ..runs.schema.run import ConfigFile
from ..runs.schema.summary import Summary
from .card import write_card
from .files import hf, promptfoo, trl
from .found import Export, Written
from .garak import garak
from .hardening import hardening
from .inspect_task import inspect

_WHOLE: tuple[tuple[str, type[File]], ...] = ((CONFIG, ConfigFile), (SUMMARY, Summary))
FORMATS: dict[str, Callable[[Export], Written]] = {
    "trl": trl,
    "hardening": hardening,
    "garak": garak,
    "promptfoo": promptfoo,
    "inspect": inspect,
    "hf": hf,
}
"""What writes each format into a new folder, by the name that ``--to`` takes."""


def export_run(
    run: Path,
    to: str,
    out: Path,
    *,
    adversary: str = "",
    samples: int = 8,
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Written:
    """Write what a run found in a neighbour's format.

    Args:
        run: A run directory, or a folder that ``astprompter evaluate --out`` wrote.
        to: A name of :data:`FORMATS`.
        out: Folder to create.
        adversary: Export this adversary's attacks only.
        samples: For ``hardening``: replies drawn for each attack.
        overrides: ``key=value`` settings, for formats that load models.
        progress: Where progress is shown.

    Raises:
        UserError: An unknown format, an output folder in use, or a run that lacks what the format needs.
    """
    if to not in FORMATS:
        raise UserError(f"unknown export format '{to}'.{nearest(to, FORMATS)}")
    refuse_used(out)
    if not run.is_dir():
        raise UserError(f"'{run}' is not a folder; name a run directory")
    for name, kind in _WHOLE:
        if (run / name).is_file():
            kind.read(run / name)  # refuses a run of another format, whose rows might be misread
    if (run / CONFIG).is_file():
        RunDirectory(run).check_attacks()
    export = Export(run, out, adversary, samples, overrides, progress or Silent())
    written = FORMATS[to](export)
    return replace(written, files=(*written.files, write_card(export, written)))
