"""Files of a run for tests: read as plain JSON, apart from the code's own readers, and written with the least."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from astprompter.config import Settings
from astprompter.runs.schema.run import ConfigFile


def read_rows(path: Path, *, torn: bool = False) -> list[Any]:
    """Values of a JSON-lines file, without a last line that is ``torn``."""
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in (lines[:-1] if torn else lines) if line]


def config_file(settings: Settings, **facts: Any) -> ConfigFile:
    """A ``config.json`` of a run, with facts of no meaning where none are given."""
    known: dict[str, Any] = {
        "versions": {"python": "3.11"}, "models_sha256": {"adversary": "a", "defender": "a"},
        "data_sha256": {"train": "t", "dev": "d", "eliciting": "e"}, "data_counts": {}, "rows_skipped": {},
        "free_reference": True, "likelihood": "defender (tiny)", "remote": None, "processes": 1,
    }  # fmt: skip
    return ConfigFile(settings=settings.as_dict(), **(known | facts))
