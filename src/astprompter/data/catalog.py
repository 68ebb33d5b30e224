"""Data sets that astprompter can fetch and clean by name; they are listed in ``catalog.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from .cache import cache_folder


@dataclass(frozen=True, slots=True)
class Published:
    """A data set on the web.

    Attributes:
        name: Name on the command line.
        summary: What it is.
        kind: What it becomes: ``prefixes``, ``eliciting``, or ``probing_dialogues`` (of a human adversary).
        licence: Its licence, or what its makers say instead.
        page: Page of its makers.
        url: Address of the file.
        size: Bytes, where its makers' index says; the server is asked too.
        sha256: Checksum, where its makers give one; else that of the first download is recorded.
    """

    name: str
    summary: str
    kind: str
    licence: str
    page: str
    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def download(self) -> Path:
        """Where the file is kept."""
        return cache_folder() / "downloads" / self.name / self.url.rpartition("/")[2]


_LISTED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CATALOG = {name: Published(name, **fields) for name, fields in _LISTED.items()}
