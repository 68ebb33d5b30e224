"""Tables by the optional package ``datasets``: data sets of the Hugging Face hub, folders of it, and Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base.errors import UserError, words_of
from ..base.files import write_rows
from .readers import Row, shown

_SAVED = ("dataset_dict.json", "dataset_info.json")
_SPLITS = {"prefixes_dev": ("validation", "dev"), "prefixes_test": ("test",)}
"""What a kind of text is called where a data set has splits; of other kinds it is ``train``."""


def is_table(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder that holds some or that ``datasets`` saved."""
    if not os.path.isdir(path):  # noqa: PTH112 - which never raises, whatever the path is
        return path.suffix.lower() == ".parquet" and os.path.isfile(path)  # noqa: PTH113
    return any(any(path.glob(name)) for name in (*_SAVED, "*.parquet", "*/*.parquet"))


def hub_rows(name: str, split: str, path: Path, *, offline: bool = False) -> Path:
    """Write one split of a data set to a file of JSON lines.

    Args:
        name: Hub name ``OWNER/NAME``, or a folder that ``datasets`` saved or can load.
        split: Which split.
        path: The file to write.
        offline: Whether to take it from the library's own cache only.

    Raises:
        UserError: The package is not installed, or cannot load the set.
    """
    loaded = _loaded(name, split, offline=offline)
    write_rows(path, (dict(row) for row in loaded))
    return path


def table_rows(path: Path, kind: str) -> Iterator[Row]:
    """Rows of a table here; of several splits those that the kind of text is meant for.

    Raises:
        UserError: The package is not installed, cannot load the table, or the table has no such split.
    """
    loaded = _loaded(str(path), None, offline=True)
    if isinstance(loaded, dict):
        wanted = next((split for split in _SPLITS.get(kind, ("train",)) if split in loaded), None)
        if wanted is None and len(loaded) > 1:
            raise UserError(
                f"{shown(path)} has the splits {', '.join(loaded)}, and none for {kind}; save that one alone"
            )
        loaded = loaded[wanted or next(iter(loaded))]
    return (Row(path, number, dict(row), "item") for number, row in enumerate(loaded, start=1))


def _loaded(name: str, split: str | None, *, offline: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"'{name}' needs the package 'datasets', as all data sets of the hub, their folders and Parquet files do: "
            "pip install 'astprompter[hub]'; or save the set as .jsonl or .csv and name the file"
        ) from None
    path = Path(name)
    try:
        if path.is_file():
            return datasets.Dataset.from_parquet(name)
        if any((path / saved).is_file() for saved in _SAVED):
            loaded: Any = datasets.load_from_disk(name)
            return loaded[split] if split and isinstance(loaded, dict) else loaded
        return datasets.load_dataset(
            name, split=split, download_config=datasets.DownloadConfig(local_files_only=offline)
        )
    except Exception as error:  # the library raises what its many sources raise
        reason = words_of(error, kind=True)[:300]
        where = f", split '{split}'" if split else ""
        raise UserError(f"cannot load data set '{name}'{where} ({reason})") from error
