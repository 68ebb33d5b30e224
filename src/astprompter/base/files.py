"""Write files whole or not at all: a reader sees the old content or the new one, never half."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import RunError, UserError


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step.

    Raises:
        RunError: The disk is full or the folder is not writable; the old file is untouched.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, "w", text)
        draft.replace(path)
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises:
        RunError: It is a folder, or nothing can be written where it is to be.
    """
    place = next(folder for folder in path.parents if folder.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}") from None


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN), indented, with one newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, replacing the file in one step."""
    write_text(path, _lines(rows))


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines to a file.

    Raises:
        RunError: The file cannot be written.
    """
    try:
        _write(path, "a", _lines(rows))
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}") from None


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _write(path: Path, mode: str, text: str) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_folder(draft: Path, folder: Path, *, keep_old: bool) -> None:
    """Put a finished folder in another's place; killed at any point, ``folder`` or ``NAME.old`` is whole.

    Args:
        draft: The new content, beside ``folder``; synced to disk first.
        folder: What it replaces, if there is one.
        keep_old: Leave the replaced folder as ``NAME.old``.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in (*sorted(draft.rglob("*")), draft):
        if path.is_file():
            path.chmod(0o666 & ~mask)  # safetensors writes files that only their owner can read
        _sync(path)
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        _drop(old)
        folder.rename(old)
    draft.rename(folder)
    _sync(folder.parent)
    if not keep_old:
        _drop(old)


def _drop(folder: Path) -> None:
    """Remove a folder if it is there; it is never seen half deleted under its name."""
    dropped = folder.with_name(folder.stem + ".dropped")
    if dropped.exists():  # a process was killed while it removed that
        shutil.rmtree(dropped)
    if folder.exists():
        folder.rename(dropped)
        shutil.rmtree(dropped)


def hold(path: Path, busy: str) -> int | None:
    """Lock a file or folder against other processes, until the descriptor is closed or the process ends.

    Args:
        path: What is locked; it must exist.
        busy: What to say where another process holds it.

    Returns:
        The descriptor; ``None`` on a system without such locks.

    Raises:
        UserError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UserError(busy) from None
    return handle


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
