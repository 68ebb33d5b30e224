"""Where downloads and prepared data sets lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..base.errors import UserError

PREFIXES, ELICITING, DIALOGUES = "prefixes", "eliciting", "probing_dialogues"
CARD = "card.json"


def is_name(text: str) -> bool:
    """Whether a text can name a data source: it could be no path with a folder or an ending."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text) is not None


def cache_folder() -> Path:
    """``$ASTPROMPTER_CACHE``, else ``$XDG_CACHE_HOME/astprompter``, else ``~/.cache/astprompter``."""
    if own := os.environ.get("ASTPROMPTER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astprompter"


def prepared_folder(name: str) -> Path:
    """Folder of a prepared data set, whether it exists or not."""
    return cache_folder() / "prepared" / name


def prepared_names() -> list[str]:
    """Data sets that were prepared here."""
    return sorted(card.parent.name for card in (cache_folder() / "prepared").glob(f"*/{CARD}"))


def prepared_file(name: str, kind: str) -> Path | None:
    """File of a prepared data set; ``None`` where no set of that name was prepared.

    Args:
        name: Name of the set.
        kind: ``prefixes_train``, ``prefixes_dev``, ``prefixes_test``, ``eliciting`` or ``probing_dialogues``.

    Raises:
        UserError: The set has no texts of this kind.
    """
    folder = prepared_folder(name)
    if not (folder / CARD).is_file():
        return None
    path = folder / f"{kind}.jsonl"
    if not path.is_file():
        held = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "nothing"
        raise UserError(
            f"the prepared data set '{name}' holds {held}, and no {kind}; choose another set, or the kind it holds"
        )
    return path
