"""Read files into numbered rows; whatever is wrong is one line that names the file, the line and the remedy."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..base.errors import RowError, UserError, one_line
from ..base.strict_json import Malformed, kind_of, loads, twice_in

_FIELD_LIMIT = 2**31 - 1
"""Longest CSV field: Python's own limit of 131,072 characters is less than a long text."""
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a file, and where it stands.

    Attributes:
        path: The file.
        number: Its line, or its item in a JSON list; from 1, skipped rows counted.
        value: A text, or an object with named columns, or whatever else the file holds there.
        unit: What ``number`` counts.
        fault: Why the row cannot be read; empty when it can. ``value`` is then the best guess at what was meant.
        member: The file in an archive or folder; empty where ``path`` is the file itself.
    """

    path: Path
    number: int
    value: Any
    unit: Literal["line", "item"] = "line"
    fault: str = ""
    member: str = ""

    def wrong(self, message: str) -> RowError:
        """The error to raise about this row."""
        member = f", {shown(Path(self.member))}" if self.member else ""
        return RowError(f"{shown(self.path)}{member}, {self.unit} {self.number}: {message}")


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


REFUSED = BadRows()
"""The first bad row is refused: what readers do unless told otherwise."""
T = TypeVar("T")


def made(rows: Iterable[Row], make: Callable[[Row], T], bad: BadRows) -> Iterator[T]:
    """What ``make`` gives for each row; rows at fault, and those that it refuses, are bad rows.

    Raises:
        RowError: The first bad row, unless they are skipped.
    """
    for row in rows:
        try:
            if fault := row.fault or twice_in(row.value):
                raise row.wrong(fault)
            value = make(row)
        except RowError as error:
            bad.meet(error)
        else:
            yield value


Format = Callable[[Path, str], Iterator[Row]]
"""A reader of one file format: path (for messages) and text in, rows out."""


def read_text(path: Path) -> str:
    """Text of a file, decompressed when it ends in ``.gz`` or ``.xz``, without a byte-order mark.

    Bytes that are not UTF-8 are kept as half characters, for :func:`unfit` to find.

    Raises:
        UserError: The file cannot be read, or is empty.
    """
    try:
        data = path.read_bytes()
        ending = path.suffix.lower()
        data = gzip.decompress(data) if ending == ".gz" else lzma.decompress(data) if ending == ".xz" else data
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise unreadable(path, error) from None
    text = data.decode("utf-8-sig", "surrogateescape")
    if not text.strip():
        raise UserError(f"{shown(path)} is empty; give a file that holds texts")
    return text


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


def unreadable(path: Path, error: Exception) -> UserError:
    """The error to raise where the system refuses a path."""
    reason = getattr(error, "strerror", None) or str(error) or "too large"
    return UserError(f"cannot read {shown(path)} ({one_line(reason)}); check the path, its rights and that it is whole")


def parsed(row: Row) -> Row:
    """The row with its text read as JSON; NaN is read, since published data hold it."""
    value, number = None, row.number
    try:
        value, fault = loads(row.value, published=True), ""
    except Malformed as error:
        number += max(0, error.line - 1)
        where = f", column {error.column}" if error.column else ""
        fault = f"not valid JSON ({error.why}{where}); mend it there"
    return replace(row, number=number, value=value, fault=row.fault or fault)


def read_json(path: Path, text: str) -> Iterator[Row]:
    """Items of a JSON list; or JSON lines, as many a file of that name holds."""
    whole = parsed(Row(path, 1, text))
    first, end, _ = text.strip().partition("\n")
    if whole.fault and end and isinstance(parsed(Row(path, 1, first)).value, dict | str):
        yield from read_jsonl(path, text)
        return
    if whole.fault:
        raise whole.wrong(whole.fault)
    if not isinstance(whole.value, list):
        raise UserError(f"{shown(path)}: the JSON must be a list of texts or objects, not {kind_of(whole.value)}")
    for number, value in enumerate(whole.value, start=1):
        yield Row(path, number, value, "item")


def read_jsonl(path: Path, text: str) -> Iterator[Row]:
    """JSON values, one a line; blank lines are skipped."""
    return map(parsed, read_txt(path, text))


def read_txt(path: Path, text: str) -> Iterator[Row]:
    """Lines of plain text; blank ones are skipped. Where no line feed is, carriage returns end lines."""
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        if line.strip():
            yield Row(path, number, line, fault=unfit(line))


def read_csv(path: Path, text: str) -> Iterator[Row]:
    """Rows of a table with a header, quoted as CSV is; commas, semicolons, tabs or bars part its fields."""
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(path, text), strict=True)
    header: list[str] | None = None
    while True:
        row = Row(path, reader.line_num + 1, None)  # where it begins: texts may span lines
        cells, fault = list[str](), ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not valid CSV ({error}); put texts in double quotes, doubled within"
            if "unexpected end" in str(error):  # an open quote swallows all that follows
                raise row.wrong(fault) from None
        fault = fault or unfit("".join(cells))
        if header is None and (cells or fault):
            header = cells
            twice = next((name for name in header if name and header.count(name) > 1), None)
            if twice is not None:
                fault = f"column {shown(twice)} occurs twice; rename one"
            if fault:
                raise row.wrong(fault)
        elif header is not None and (cells or fault):
            if not fault and len(cells) != len(header):
                fault = f"{len(cells)} fields where the header has {len(header)}; put texts in double quotes"
            yield replace(row, value=dict(zip(header, cells, strict=not fault)), fault=fault)


def delimiter_of(path: Path, text: str) -> str:
    """What parts a table's fields: what gives the header several, and most of the next rows as many; else its own."""
    own = "\t" if ".tsv" in map(str.lower, path.suffixes) else ","

    def fit(delimiter: str) -> float:
        counts = []
        with suppress(csv.Error):
            for cells in islice(
                csv.reader(io.StringIO(text[: 2**20], newline=""), delimiter=delimiter, strict=True), 50
            ):
                counts.append(len(cells))
        return counts.count(counts[0]) / len(counts) if counts and counts[0] > 1 else 0.0

    return max([own, ",", ";", "\t", "|"], key=fit)


def take_id(row: Row, name: str, ids: dict[str, int]) -> None:
    """Note an id and the row that has it.

    Raises:
        RowError: It is blank, holds control characters, or another row has it.
    """
    if not name.strip() or not name.isprintable():
        raise row.wrong(f"the id {shown(name)} is blank or holds control characters; give another")
    if name in ids:
        raise row.wrong(f"id {shown(name)} occurs before, on {row.unit} {ids[name]}; ids must be unique")
    ids[name] = row.number


def shown(name: str | Path) -> str:
    """A name in quotes, for a message; paths in full, other names cut short."""
    return f"'{one_line(str(name)) if isinstance(name, Path) else one_line(name, 60)}'"


def unfit(text: str) -> str:
    """Why a text cannot be kept; empty when it can."""
    half = None if text.isascii() else _HALF.search(text)
    if half is not None and "\udc80" <= half[0] <= "\udcff":  # a byte that could not be decoded
        return "not UTF-8; save the file as UTF-8"
    if half is not None:
        return f"holds half a character ({one_line(half[0])}, a lone surrogate); remove it"
    return "holds a NUL character; remove it, or name a text file" if "\0" in text else ""
