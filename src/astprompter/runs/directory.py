"""The run directory: one folder that holds everything a run decided, measured and made (``docs/files.md``)."""

from __future__ import annotations

import logging
import os
import platform
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..base.errors import RunError, UserError
from ..base.files import append_rows, check_writable, hold
from ..config import Settings
from .schema.common import Part, read_rows
from .schema.learnt import ArchiveRow, AttackRow
from .schema.run import ConfigFile, LogRow
from .schema.state import StateFile
from .started import settings_here

_log = logging.getLogger(__package__)
CONFIG, LOG, PAIRS, TREES = "config.json", "log.jsonl", "pairs.jsonl", "trees.jsonl"
ARCHIVE, ATTACKS = "archive.jsonl", "attacks.jsonl"
_LOGS = (LOG, PAIRS, TREES, ARCHIVE, ATTACKS)
FROZEN = "frozen.json"
ROUNDS = "rounds.json"
TRAJECTORIES, FAILURES, SUMMARY = "trajectories.jsonl", "failures.jsonl", "summary.json"
REPAIR = "repair.json"
KEPT_START = "training kept its start (iteration 0), as no later policy did better on the dev prefixes: it is not tuned"
"""What is said of a run whose best adversary is the model that it started from."""
Note = Callable[[str], None]


def versions() -> dict[str, str]:
    """Versions that decide results: Python, this package, and the numeric libraries."""
    found = {"python": platform.python_version(), "astprompter": __version__, "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        found[name] = metadata.version(name)
    return found


class RunDirectory:
    """Paths of a run and its append-only logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint, self.best = path / "checkpoint", path / "best"
        self._release: weakref.finalize[[int], RunDirectory] | None = None

    @classmethod
    def create(cls, path: Path, config: ConfigFile) -> RunDirectory:
        """Start a new run.

        Args:
            path: Folder to create; an existing empty one is fine.
            config: What decides its result.

        Raises:
            UserError: The folder holds another run or other files.
        """
        refuse_used(path)
        run = cls(path)
        config.write(path / CONFIG)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            UserError: The folder is not a run directory.
        """
        if (path / ROUNDS).is_file():
            raise UserError(
                f"'{path}' is a set of adversaries; name one of its rounds, for instance {path / 'round-1'}"
            )
        if not (path / CONFIG).is_file():
            raise UserError(f"'{path}' is not a run directory: it has no {CONFIG}")
        return cls(path)

    def lock(self) -> None:
        """Keep others from training here until :meth:`unlock`, or until the process ends in whatever way.

        Raises:
            UserError: Another process is training here.
        """
        busy = f"another process is training in '{self.path}'; wait for it, or choose another --out"
        if (handle := hold(self.path / CONFIG, busy)) is not None:
            self._release = weakref.finalize(self, os.close, handle)

    def unlock(self) -> None:
        """Let others train here."""
        if self._release is not None:
            self._release()

    def config(self) -> ConfigFile:
        """Content of ``config.json``.

        Raises:
            UserError: The file is damaged, or of another format.
        """
        return ConfigFile.read(self.path / CONFIG)

    def record(self, settings: Settings) -> None:
        """Write the settings that the run goes on with to ``config.json``, and lock that file anew."""
        self.config().model_copy(update={"settings": settings.as_dict()}).write(self.path / CONFIG)
        self.lock()

    def settings(self, overrides: Iterable[str] = ()) -> Settings:
        """The run's settings, with overrides.

        Raises:
            UserError: ``config.json`` is damaged or of another version, or an override does not fit.
        """
        return settings_here(self.config(), self.path, overrides, source=f"'{self.path / CONFIG}'")

    def repairs(self) -> bool:
        """Whether its ``best/`` is a repaired defender, not an adversary."""
        return self.settings().training.objective == "harden"

    def check_attacks(self) -> None:
        """Refuse a repair where the run of an adversary is asked for.

        Raises:
            UserError: It is one.
        """
        if self.repairs():
            raise UserError(
                f"'{self.path}' is a repair: its best/ is a defender, and attacks nobody; name a run of an adversary, "
                f"with defender.path={self.path}/best to attack what was repaired"
            )

    def options_of_best(self) -> dict[str, Any]:
        """How the model was loaded that ``best/`` is made of: of a repair the defender, else the adversary."""
        settings = self.settings()
        made_of = settings.defender if self.repairs() else settings.adversary
        return made_of.model_dump(exclude={"path", "revision", "lora_rank", "lora_alpha"})

    def attacks(self) -> list[AttackRow]:
        """Attacks that a repair learnt from.

        Raises:
            UserError: A line is damaged.
        """
        path = self.path / ATTACKS
        return read_rows(path, AttackRow) if path.is_file() else []

    def append(self, name: str, rows: Iterable[Part]) -> None:
        """Append rows to a JSON-lines file.

        Raises:
            RunError: The file cannot be written.
        """
        append_rows(self.path / name, (row.plain() for row in rows))

    def log(self) -> list[LogRow]:
        """Rows of the log so far, without a torn last line.

        Raises:
            UserError: A line is damaged.
        """
        path = self.path / LOG
        return read_rows(path, LogRow, note=lambda torn: None) if path.is_file() else []

    def archive(self) -> list[ArchiveRow]:
        """Failures that training found so far.

        Raises:
            UserError: A line is damaged.
        """
        path = self.path / ARCHIVE
        return read_rows(path, ArchiveRow) if path.is_file() else []

    def begun(self) -> bool:
        """Whether there is a checkpoint, or a log of iterations that must have left one."""
        if any(self.checkpoint.with_name(self.checkpoint.name + end).is_dir() for end in ("", ".old")):
            return True
        return any(row.type == "iteration" for row in self.log())

    def kept_start(self) -> bool:
        """Whether ``best/`` is the model that training started from, since no later policy did better so far."""
        kept = [row.iteration for row in self.log() if row.best]
        return bool(kept) and kept[-1] == 0

    def updates(self) -> int | None:
        """Optimizer steps of the last checkpoint; ``None`` before the first."""
        for folder in (self.checkpoint, self.checkpoint.with_name("checkpoint.old")):
            try:
                return StateFile.read(folder / "state.json").counters.updates
            except UserError:
                continue
        return None

    def sizes(self) -> dict[str, int]:
        """Bytes of the logs, kept in every checkpoint so that resuming drops what came after it."""
        return {name: p.stat().st_size for name in _LOGS if (p := self.path / name).exists()}

    def cut_logs(self, sizes: Mapping[str, int]) -> None:
        """Drop what was logged after a checkpoint, and repair a torn last line.

        Args:
            sizes: Bytes of the logs at the checkpoint; what follows them is made again.
        """
        for name in _LOGS:
            path, size = self.path / name, sizes.get(name, 0)
            if not path.exists():
                if size:
                    _log.warning(f"'{path}' is gone; rows of before the checkpoint are lost")
                continue
            content = path.read_bytes()
            torn = not content.endswith(b"\n") and content != b""
            if torn:
                _log.info(f"'{path}': the last line is torn (a write that broke off); it is dropped")
            if len(content) < size:
                _log.warning(f"'{path}' is shorter than at the checkpoint; rows of before it are lost")
            whole = content.rfind(b"\n") + 1 if torn else len(content)
            os.truncate(path, min(size, whole))


@contextmanager
def results_folder(path: Path) -> Iterator[None]:
    """Make a folder for an evaluation's results, and keep other evaluations out.

    Raises:
        UserError: Another process is evaluating into it.
        RunError: It cannot be made.
    """
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}") from None
    check_writable(path / SUMMARY)
    handle = hold(path, f"another process is evaluating into '{path}'; wait for it, or choose another --out")
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
        if made and not any(path.iterdir()):
            path.rmdir()


def refuse_used(path: Path) -> None:
    """Refuse an output folder that is in use, or where nothing can be written.

    Raises:
        UserError: It holds another run, or is not empty, or is a file.
        RunError: It cannot be written.
    """
    if (path / CONFIG).exists() or (path / ROUNDS).exists():
        raise UserError(f"'{path}' already holds a run; use --resume to continue it, or another --out")
    # Drafts are what a process leaves that was killed while it wrote its first file.
    if path.exists() and (not path.is_dir() or any(entry.suffix != ".tmp" for entry in path.iterdir())):
        raise UserError(f"'{path}' exists and is not an empty folder; choose another --out")
    check_writable(path / CONFIG)
