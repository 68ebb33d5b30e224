"""Read files into numbered rows; whatever is wrong is one line that names the file, the line and the remedy."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ..base.errors import RowError, UserError, one_line
from ..base.strict_json import kind_of, object_of, twice_in

_FIELD_LIMIT = 2**31 - 1
"""Longest CSV field: Python's own limit of 131,072 characters is less than a long text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a file, and where it stands.

    Attributes:
        path: The file.
        number: Its line, or its item in a JSON list; from 1, skipped rows counted.
        value: A text, or an object with named columns, or whatever else the file holds there.
        unit: What ``number`` counts.
        fault: Why the row cannot be read; empty when it can. ``value`` is then the best guess at what was meant.
    """

    path: Path
    number: int
    value: Any
    unit: Literal["line", "item"] = "line"
    fault: str = ""

    def wrong(self, message: str) -> RowError:
        """The error to raise about this row."""
        return _wrong(self.path, f"{self.unit} {self.number}", message)


@dataclass(slots=True)
class BadRows:
    """Rows that cannot be read: the first one is refused, or all are skipped and counted.

    Attributes:
        skip: Whether to go on without them.
        count: How many were skipped.
        first: The first one: file, line and reason.
    """

    skip: bool = False
    count: int = 0
    first: str = ""

    def meet(self, error: RowError) -> None:
        """Count a bad row.

        Raises:
            RowError: Bad rows are to be refused.
        """
        if not self.skip:
            raise error
        self.first = self.first or str(error)
        self.count += 1

    def __str__(self) -> str:
        """One line for the user; empty when nothing was skipped."""
        rows = "1 row that cannot be read" if self.count == 1 else f"{self.count:,} rows that cannot be read; the first"
        return f"skipped {rows}: {self.first}" if self.count else ""

    def facts(self) -> dict[str, Any]:
        """Plain values, for the files of a run."""
        return {"count": self.count, "first": self.first or None}


T = TypeVar("T")


def made(rows: Iterable[Row], make: Callable[[Row], T], bad: BadRows) -> Iterator[T]:
    """What ``make`` gives for each row; rows at fault, and those that it refuses, are bad rows.

    Raises:
        RowError: The first bad row, unless they are skipped.
    """
    for row in rows:
        try:
            if row.fault:
                raise row.wrong(row.fault)
            value = make(row)
        except RowError as error:
            bad.meet(error)
        else:
            yield value


Format = Callable[[Path, str], Iterator[Row]]
"""A reader of one file format: path (for messages) and text in, rows out."""


def read_text(path: Path, *, lenient: bool = False) -> str:
    """Text of a file, decompressed when it ends in ``.gz`` or ``.xz``, without a byte-order mark.

    Args:
        path: The file.
        lenient: Keep NUL characters, and bytes that are not UTF-8 as half characters, for :func:`fault_of` to find.

    Raises:
        UserError: The file cannot be read, is empty, is not UTF-8, or holds NUL characters.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig", "surrogateescape" if lenient else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 (byte {error.start} of the text); save the file as UTF-8"
        raise _wrong(path, f"line {line}", message) from None
    if "\0" in text and not lenient:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _wrong(path, f"line {line}", NUL)
    if not text.strip():
        raise UserError(f"{shown(path)} is empty; give a file that holds texts")
    return text


NUL = "holds a NUL character; remove it, or name a text file"


def fault_of(text: str) -> str:
    """What is wrong with the characters of a line that was read leniently; empty when nothing is."""
    if "\0" in text:
        return NUL
    return "" if text.isascii() or not _NOT_UTF8.search(text) else "not UTF-8; save the file as UTF-8"


_NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""What ``surrogateescape`` makes of bytes that are not UTF-8."""


def check_file(path: Path) -> None:
    """Check that there is a file to read.

    Raises:
        UserError: Nothing is there, or a folder, or something that might never end, such as a pipe.
    """
    try:
        if path.is_dir():
            raise UserError(f"{shown(path)} is a folder; name a file in it")
        if not path.exists():
            raise UserError(f"{shown(path)} does not exist; check the path")
        if not path.is_file():
            raise UserError(f"{shown(path)} is not a regular file; save its content to a file first")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def _read_bytes(path: Path) -> bytes:
    check_file(path)
    try:
        data = path.read_bytes()
        ending = path.suffix.lower()
        return gzip.decompress(data) if ending == ".gz" else lzma.decompress(data) if ending == ".xz" else data
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> UserError:
    """The error to raise where the system refuses a path."""
    reason = getattr(error, "strerror", None) or str(error) or "too large"
    return UserError(f"cannot read {shown(path)} ({one_line(reason)}); check the path, its rights and that it is whole")


def read_json(path: Path, text: str) -> Iterator[Row]:
    """Items of a JSON list."""
    content, fault = _parsed(text)
    if fault is not None:
        raise _wrong(path, f"line {fault.line}", f"{fault.reason}; {fault.remedy}")
    if not isinstance(content, list):
        raise UserError(f"{shown(path)}: the JSON must be a list of texts or objects, not {kind_of(content)}")
    for number, value in enumerate(content, start=1):
        yield Row(path, number, value, "item", twice_in(value))


def read_jsonl(path: Path, text: str) -> Iterator[Row]:
    """JSON values, one a line; blank lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        value, fault = _parsed(line)
        reason = fault_of(line) or (f"{fault.reason}; {fault.remedy}" if fault else twice_in(value))
        yield Row(path, number, value, fault=reason)


def read_txt(path: Path, text: str) -> Iterator[Row]:
    """Lines of plain text; blank ones are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(path, number, line, fault=fault_of(line))


def read_csv(path: Path, text: str) -> Iterator[Row]:
    """Rows of a CSV file with a header."""
    return _delimited(path, text, ",")


def read_tsv(path: Path, text: str) -> Iterator[Row]:
    """Rows of a tab-separated file with a header, quoted as CSV is."""
    return _delimited(path, text, "\t")


def _delimited(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number, cells, fault = reader.line_num + 1, list[str](), ""  # where the row begins: texts may span lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not valid CSV ({error}); put texts in double quotes, doubled within"
            if header is None or "unexpected end" in str(error):  # an open quote swallows all that follows
                raise _fatal(path, number, fault) from None
        fault = fault or fault_of("".join(cells))
        if not cells and not fault:
            continue
        if header is None:
            header = cells
            twice = next((name for name in header if name and header.count(name) > 1), None)
            if twice is not None:
                fault = f"column {shown(twice)} occurs twice; rename one"
            if fault:
                raise _fatal(path, number, fault)
            continue
        if not fault and len(cells) != len(header):
            counts = f"{len(cells)} fields where the header has {len(header)}"
            fault = f"{counts}; put texts in double quotes"
        yield Row(path, number, dict(zip(header, cells, strict=not fault)), fault=fault)


class _Fault(NamedTuple):
    """Why a text is no JSON, and on which of its lines."""

    line: int
    reason: str
    remedy: str


def _parsed(text: str) -> tuple[Any, _Fault | None]:
    try:
        return json.loads(text, object_pairs_hook=object_of), None
    except json.JSONDecodeError as error:
        return None, _Fault(error.lineno, f"not valid JSON ({error.msg}, column {error.colno})", "mend it there")
    except RecursionError:
        return None, _Fault(1, "not valid JSON here (nested too deeply)", "give texts or objects")
    except ValueError:
        return None, _Fault(1, "not valid JSON here (a number too long)", "put it in quotes")


def _fatal(path: Path, line: int, message: str) -> UserError:
    """The error to raise where no row after this one can be read either."""
    return UserError(str(_wrong(path, f"line {line}", message)))


def _wrong(path: Path, where: str, message: str) -> RowError:
    return RowError(f"{shown(path)}, {where}: {message}")


def shown(name: str | Path) -> str:
    """A name in quotes, for a message; paths in full, other names cut short."""
    return f"'{one_line(str(name)) if isinstance(name, Path) else one_line(name, 60)}'"


def unfit(text: str) -> str:
    """Why a text cannot be kept: it cannot be encoded, or holds NUL characters; empty when it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds half a character ({one_line(text[error.start])}, a lone surrogate); remove it"
    return "holds a NUL character; remove it" if "\0" in text else ""
