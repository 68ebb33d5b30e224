"""Read text lines out of archives without unpacking them: no path in an archive ever becomes a path on disk."""

from __future__ import annotations

import lzma
import math
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ..base.errors import RowError, UserError
from .readers import BadRows, check_file, shown, unreadable

LARGEST_RATIO = 100
"""Text compresses about tenfold; an archive that grows more than this is refused as a bomb."""
_ALWAYS_ALLOWED = 64 * 2**20
_LONGEST_LINE = 64 * 2**20
_CHUNK = 2**20
_DAMAGE = (
    OSError, EOFError, RuntimeError, NotImplementedError,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""What the readers of archives raise on damaged, encrypted or unknown ones."""


def member_lines(path: Path, name: str, bad: BadRows | None = None) -> Iterator[tuple[str, int, str]]:
    """Lines of the members with a file name, in whatever folder of the archive.

    Args:
        path: A zip archive, a tar archive (packed or not), a folder that was unpacked from one, or a ``.txt`` of it.
        name: File name, for instance ``utterances.jsonl``; ``*.txt`` stands for all with that ending.
        bad: Whether to skip lines that are not UTF-8, and where they are counted; refused when not given.

    Yields:
        Member, line number from 1, and line without its end.

    Raises:
        UserError: No such member; not UTF-8; a damaged archive; or one that unpacks to far more than its size.
    """
    found = False
    limit = math.inf if path.is_dir() else max(_ALWAYS_ALLOWED, LARGEST_RATIO * _size(path))
    budget = _Budget(path, limit)
    with _opened(path) as members:
        for member, opening in members:
            if not PurePosixPath(member).match(name):
                continue
            found = True
            with opening() as stream:
                for number, line in _text_lines(path, member, stream, budget, bad or BadRows()):
                    yield member, number, line
    if not found:
        raise UserError(f"{shown(path)} holds no file '{name}'; give the archive as it was published")


Opening = Callable[[], IO[bytes]]


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[str, Opening]]]:
    """The regular files of an archive or folder, each with what opens it."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
            yield ((file.relative_to(path).as_posix(), partial(_read, file)) for file in files)
        elif path.suffix == ".txt":
            yield iter([(path.name, partial(_read, path))])
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = [info for info in archive.infolist() if not info.is_dir()]
                yield ((info.filename, partial(archive.open, info)) for info in entries)
        else:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:*") as tar:
                yield ((member.name, partial(_extracted, tar, member)) for member in tar if member.isreg())
    except _DAMAGE as error:
        raise unreadable(path, error) from None


def _read(file: Path) -> IO[bytes]:
    return file.open("rb")


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"'{member.name}' is no file")
    return stream


def _size(path: Path) -> int:
    check_file(path)
    return path.stat().st_size


class _Budget:
    """Bytes that may still come out of an archive, whatever its headers say."""

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.limit, self.left = path, limit, limit

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UserError(
                f"{shown(self.path)} unpacks to more than {self.limit:,} bytes, over {LARGEST_RATIO} times its size; "
                "it is not the archive that was published"
            )


def _text_lines(path: Path, member: str, stream: IO[bytes], budget: _Budget, bad: BadRows) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_byte_lines(stream, budget), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError:
            bad.meet(RowError(f"{shown(path)}, {shown(Path(member))}, line {number}: not UTF-8"))
        else:
            yield number, text


def _byte_lines(stream: IO[bytes], budget: _Budget) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_CHUNK):
        budget.spend(len(chunk))
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > _LONGEST_LINE:
            raise UserError(f"{shown(budget.path)} holds a line of more than {_LONGEST_LINE:,} bytes; it is not text")
    if rest:
        yield rest
