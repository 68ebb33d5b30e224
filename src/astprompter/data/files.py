"""The one list of file formats and named sources.

- A new file format: write a reader ``(path, text) -> rows`` and add its ending to :data:`FORMATS`. It then serves
  every kind of text, compressed or not. A row that cannot be read is yielded with its ``fault``, so that it can be
  skipped; the reader itself raises only where no later row can be read either.
- A new named source (one that is chosen by a word, not by a path): an entry in :data:`NAMED`, or an entry point of the
  group ``astprompter.data`` in another package: a function from the kind of text to a file.
- A new data set to download and clean: an entry in ``catalog.yaml``.
- A new kind of text: one loader in :mod:`~astprompter.data.sources`, which calls :func:`rows_of`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from ..base.errors import UserError, nearest
from ..base.registry import Registry
from .cache import is_name, prepared_file, prepared_names
from .hub import is_table, table_rows
from .readers import Format, Row, check_file, read_csv, read_json, read_jsonl, read_text, read_txt, shown

PACKINGS = (".gz", ".xz")
"""Endings that are unpacked first."""

FORMATS: dict[str, Format] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_txt,
}
"""Reader of each file format, by its ending."""


def embedded(kind: str) -> Path:
    """File of the package's own texts.

    Raises:
        UserError: The package was installed without it.
    """
    folder = resources.files("astprompter") / "embedded"
    for packing in ("", *PACKINGS):
        path = Path(str(folder / f"{kind}.jsonl{packing}"))
        if path.is_file():
            return path
    raise UserError(f"the embedded '{kind}.jsonl' is missing; reinstall astprompter, or name a file of your own")


NAMED: Registry[Callable[[str], Path]] = Registry("data source", "astprompter.data", {"embedded": embedded})
"""Sources with a name: from the kind of text (``prefixes_train``, ``eliciting``, ``probing_dialogues``) to a file."""


def source_names() -> list[str]:
    """All named sources: built in, from plug-ins, and prepared in the cache."""
    return sorted({*NAMED.names(), *prepared_names()})


def rows_of(source: str, kind: str) -> tuple[Path, str | None, Iterator[Row]]:
    """File, column (``None`` when not named) and rows of a source.

    Args:
        source: A named source, or a path; either with ``#COLUMN`` or without.
        kind: The kind of text that a named source is asked for.

    Raises:
        UserError: No such source, or a file that is missing, empty or malformed (in part while iterating).
    """
    name, column = source, ""  # a '#' may also be part of a file's name
    if "#" in source and not os.path.exists(os.path.expanduser(source)):  # noqa: PTH110, PTH111 - as in _file_of
        name, _, column = source.rpartition("#")
    if not name.strip():
        raise UserError(f"the source of {kind} has no name; give a file, or one of: {', '.join(source_names())}")
    path = _file_of(name, kind)
    if is_table(path):
        return path, column or None, table_rows(path, kind)
    check_file(path)
    endings = [ending.lower() for ending in path.suffixes]
    ending = next((e for e in reversed(endings) if e not in PACKINGS), "")
    if ending not in FORMATS:
        known = f"{', '.join(FORMATS)} (then perhaps {' or '.join(PACKINGS)})"
        raise UserError(f"{shown(path)}: unknown format; its name must end in one of {known}")
    return path, column or None, FORMATS[ending](path, read_text(path))


def _file_of(name: str, kind: str) -> Path:
    if is_name(name):
        if name in NAMED:
            return Path(NAMED.get(name)(kind))
        if (prepared := prepared_file(name, kind)) is not None:
            return prepared
        if not Path(name).exists():
            known = nearest(name, source_names())
            raise UserError(f"{shown(name)} is neither a file nor a known source of {kind}.{known}")
    return Path(os.path.expanduser(name))  # noqa: PTH111 - leaves '~nobody' as it is, which no file is called
