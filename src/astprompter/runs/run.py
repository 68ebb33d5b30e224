"""A training run as a caller of the library sees it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.frames import frame
from ..config import Settings
from .directory import LOG, RunDirectory
from .rounds import is_set, members_of, settings_in
from .schema.common import read_rows
from .schema.run import LogRow

_log = logging.getLogger(__package__)


@dataclass(frozen=True)
class Run:
    """What a training left in its run directory; ``Run("runs/mine")`` opens one that is there.

    Attributes:
        path: The run directory.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not is_set(self.path):
            RunDirectory.open(self.path)

    @property
    def members(self) -> list[Run]:
        """The runs of a set (``rounds=...``); itself where it is a single run.

        Raises:
            UserError: The set lacks rounds.
        """
        return [Run(member.path) for member in members_of(self.path)]

    @property
    def best(self) -> Path:
        """Folder of the best adversary: a model folder that any Hugging Face tool loads.

        Raises:
            UserError: There is none yet, or it is a set, whose members have one each.
        """
        if not (folder := RunDirectory.open(self.path).best).is_dir():
            raise UserError(f"run '{self.path}' has no best adversary yet; let it train past its first dev evaluation")
        return folder

    @property
    def kept_start(self) -> bool:
        """Whether no policy beat the one that training started from, so that ``best`` is that one; of a set all."""
        return all(member.kept_start() for member in members_of(self.path))

    @property
    def settings(self) -> Settings:
        """The settings that it was trained under."""
        return settings_in(self.path)

    @property
    def log(self) -> list[LogRow]:
        """Rows of ``log.jsonl``, one per iteration and dev evaluation (``docs/files.md``); of a set none."""
        if is_set(self.path):
            return []
        return read_rows(self.path / LOG, LogRow, note=_log.info)

    def to_pandas(self) -> Any:
        """The log as a pandas ``DataFrame``.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(row.plain() for row in self.log)
