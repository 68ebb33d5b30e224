"""The run directory: one folder that holds everything a run decided, measured and made (``docs/files.md``)."""

from __future__ import annotations

import json
import os
import platform
import shutil
import weakref
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .config import Settings, settings_from
from .errors import RunError, UserError

CONFIG, LOG, PAIRS, TREES = "config.json", "log.jsonl", "pairs.jsonl", "trees.jsonl"
FROZEN = "frozen.json"
TRAJECTORIES, FAILURES, SUMMARY = "trajectories.jsonl", "failures.jsonl", "summary.json"


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new one, never half.

    Raises:
        RunError: The disk is full or the folder is not writable; the old file is untouched.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}") from None


def replace_folder(draft: Path, folder: Path, *, keep_old: bool) -> None:
    """Put a finished folder in another's place; killed at any point, ``folder`` or ``NAME.old`` is whole.

    Args:
        draft: The new content, beside ``folder``; synced to disk first.
        folder: What it replaces, if there is one.
        keep_old: Leave the replaced folder as ``NAME.old``.
    """
    for path in (*sorted(draft.rglob("*")), draft):
        _sync(path)
    old, dropped = (folder.with_name(folder.name + end) for end in (".old", ".dropped"))
    if dropped.exists():
        shutil.rmtree(dropped)
    if folder.exists():
        if old.exists():
            old.rename(dropped)  # a folder is never seen half deleted under its name
        folder.rename(old)
    draft.rename(folder)
    _sync(folder.parent)
    if not keep_old and old.exists():
        old.rename(dropped)
    if dropped.exists():
        shutil.rmtree(dropped)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN), indented, with one newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, replacing the file in one step."""
    write_text(path, "".join(_line(row) for row in rows))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


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
    def create(cls, path: Path, settings: Settings, facts: Mapping[str, Any]) -> RunDirectory:
        """Start a new run.

        Args:
            path: Folder to create; an existing empty one is fine.
            settings: The run's settings.
            facts: Further facts for ``config.json``, such as hashes of the models.

        Raises:
            UserError: The folder holds another run or other files.
        """
        refuse_used(path)
        run = cls(path)
        write_json(path / CONFIG, {"settings": settings.as_dict(), "versions": versions(), **facts})
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            UserError: The folder is not a run directory.
        """
        if not (path / CONFIG).is_file():
            raise UserError(f"'{path}' is not a run directory: it has no {CONFIG}")
        return cls(path)

    def lock(self) -> None:
        """Keep others from training here until :meth:`unlock`, or until the process ends in whatever way.

        Raises:
            UserError: Another process is training here.
        """
        try:
            import fcntl
        except ImportError:  # a system without such locks
            return
        handle = os.open(self.path / CONFIG, os.O_RDONLY)
        self._release = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in '{self.path}'; wait for it, or choose another --out"
            ) from None

    def unlock(self) -> None:
        """Let others train here."""
        if self._release is not None:
            self._release()

    def config(self) -> dict[str, Any]:
        """Content of ``config.json``.

        Raises:
            UserError: The file is damaged.
        """
        try:
            content = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read '{self.path / CONFIG}': {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise UserError(f"'{self.path / CONFIG}' has no settings; it was not written by astprompter")
        return content

    def settings(self, overrides: Iterable[str] = ()) -> Settings:
        """The run's settings, with overrides."""
        return settings_from(self.config()["settings"], list(overrides))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a JSON-lines file.

        Raises:
            RunError: The file cannot be written.
        """
        text = "".join(_line(row) for row in rows)
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write '{self.path / name}': {error.strerror or error}") from None

    def begun(self) -> bool:
        """Whether there is a checkpoint, or a log of iterations that must have left one."""
        if any(self.checkpoint.with_name(self.checkpoint.name + end).is_dir() for end in ("", ".old")):
            return True
        log = self.path / LOG
        return log.is_file() and any(row.get("type") == "iteration" for row in read_rows(log, growing=True))

    def updates(self) -> int | None:
        """Optimizer steps of the last checkpoint; ``None`` before the first."""
        for folder in (self.checkpoint, self.checkpoint.with_name("checkpoint.old")):
            try:
                state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                return int(state["progression"]["updates"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def sizes(self) -> dict[str, int]:
        """Bytes of the logs, kept in every checkpoint so that resuming drops what came after it."""
        return {name: p.stat().st_size for name in (LOG, PAIRS, TREES) if (p := self.path / name).exists()}

    def cut_logs(self, sizes: Mapping[str, int]) -> None:
        """Drop what was logged after a checkpoint, a torn last line included."""
        for name in (LOG, PAIRS, TREES):
            path = self.path / name
            if path.exists():
                os.truncate(path, min(sizes.get(name, 0), path.stat().st_size))


def refuse_used(path: Path) -> None:
    """Refuse an output folder that is in use.

    Raises:
        UserError: It holds another run, or is not empty, or is a file.
    """
    if (path / CONFIG).exists():
        raise UserError(f"'{path}' already holds a run; use --resume to continue it, or another --out")
    # Drafts are what a process leaves that was killed while it wrote its first file.
    if path.exists() and (not path.is_dir() or any(entry.suffix != ".tmp" for entry in path.iterdir())):
        raise UserError(f"'{path}' exists and is not an empty folder; choose another --out")


def read_rows(path: Path, *, growing: bool = False) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file that astprompter wrote.

    Args:
        path: The file.
        growing: It may still be written: a last line without its end is left out.

    Raises:
        UserError: A line is damaged; names file and line.
    """
    rows = []
    with path.open(encoding="utf-8", newline="\n") as file:  # texts may hold other line separators, such as U+2028
        for number, line in enumerate(file, start=1):
            if growing and not line.endswith("\n"):
                break
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise UserError(f"'{path}', line {number}: not valid JSON") from None
    return rows
