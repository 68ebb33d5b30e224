"""A data source: files in the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from astprompter.base.errors import UserError


def kitchen(kind: str) -> Path:
    """Entry point: a file for each kind of text."""
    stem = "prefixes" if kind.startswith("prefixes_") else kind
    path = Path(str(resources.files(__package__) / f"{stem}.txt"))
    if not path.is_file():
        raise UserError(f"data source 'kitchen' has no {kind}; it holds prefixes and eliciting texts")
    return path
