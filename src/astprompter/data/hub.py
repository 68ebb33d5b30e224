"""Data sets of the Hugging Face hub, by the optional package ``datasets``: written out as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.errors import UserError, words_of
from ..base.files import write_rows


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
    try:
        import datasets
    except ImportError:
        raise UserError(
            "data sets of the hub need the package 'datasets': pip install 'astprompter[hub]'; or save the set as "
            ".jsonl or .csv and name the file"
        ) from None
    config = datasets.DownloadConfig(local_files_only=offline)
    try:
        if (Path(name) / "dataset_info.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded: Any = datasets.load_from_disk(name)
            rows = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            rows = datasets.load_dataset(name, split=split, download_config=config)
    except Exception as error:  # the library raises what its many sources raise
        reason = words_of(error, kind=True)[:300]
        raise UserError(f"cannot load data set '{name}', split '{split}' ({reason})") from error
    write_rows(path, (dict(row) for row in rows))
    return path
