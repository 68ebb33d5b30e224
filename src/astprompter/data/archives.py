"""Read text lines out of archives without unpacking them: no path in an archive ever becomes a path on disk."""

from __future__ import annotations

import io
import lzma
import math
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.errors import UserError
from .readers import Row, check_file, shown, unfit, unreadable

LARGEST_RATIO = 100
"""Text compresses about tenfold; an archive that grows more than this is refused as a bomb."""
_ALWAYS_ALLOWED = 64 * 2**20
_LONGEST_LINE = 64 * 2**20
_DAMAGE = (
    OSError, EOFError, RuntimeError, NotImplementedError,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""What the readers of archives raise on damaged, encrypted or unknown ones."""


def member_rows(path: Path, *names: str, needed: bool = True) -> Generator[Row]:
    """Lines of the members with one of the file names, in whatever folder of the archive; blank ones are skipped.

    Args:
        path: A zip archive, a tar archive (packed or not), a folder that was unpacked from one, or a ``.txt`` of it.
        names: File names, for instance ``utterances.jsonl``; ``*.txt`` stands for all with that ending.
        needed: Whether it is an error that there is no such member.

    Raises:
        UserError: No such member; a damaged archive; or one that unpacks to far more than its size.
    """
    found, limit = False, math.inf
    if not path.is_dir():
        check_file(path)
        limit = max(_ALWAYS_ALLOWED, LARGEST_RATIO * path.stat().st_size)
    left = limit  # bytes that may still come out, whatever the archive's headers say
    try:
        for member, opened in _members(path):
            if not any(map(PurePosixPath(member).match, names)):
                continue
            found = True
            with io.BufferedReader(opened()) as stream:
                for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE + 1), b""), start=1):
                    left -= len(line)
                    if left < 0:
                        raise UserError(
                            f"{shown(path)} unpacks to more than {limit:,} bytes, over {LARGEST_RATIO} times its "
                            "size; it is not the archive that was published"
                        )
                    if len(line) > _LONGEST_LINE:
                        raise UserError(
                            f"{shown(path)} holds a line of more than {_LONGEST_LINE:,} bytes; it is not text"
                        )
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
                    if text.strip():
                        yield Row(path, number, text, fault=unfit(text), member=member)
    except _DAMAGE as error:
        raise unreadable(path, error) from None
    if needed and not found:
        raise UserError(f"{shown(path)} holds no file '{names[-1]}'; give the archive as it was published")


def _members(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The regular files of an archive or folder, each with what opens it."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(path).as_posix(), partial(file.open, "rb", 0)
    elif path.suffix == ".txt":
        yield path.name, partial(path.open, "rb", 0)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, partial(archive.open, info)
    else:
        with path.open("rb") as packed, tarfile.open(fileobj=packed) as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, partial(tar.extractfile, member)
