"""Read files into numbered rows; whatever is wrong is one line that names the file, the line and the remedy."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError

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
    """

    path: Path
    number: int
    value: Any
    unit: Literal["line", "item"] = "line"

    def wrong(self, message: str) -> UserError:
        """The error to raise about this row."""
        return _wrong(self.path, f"{self.unit} {self.number}", message)


Format = Callable[[Path, str], Iterator[Row]]
"""A reader of one file format: path (for messages) and text in, rows out."""


def read_text(path: Path) -> str:
    """Text of a file, decompressed when it ends in ``.gz`` or ``.xz``, without a byte-order mark.

    Raises:
        UserError: The file cannot be read, is empty, is not UTF-8, or holds NUL characters.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 (byte {error.start} of the text); save the file as UTF-8"
        raise _wrong(path, f"line {line}", message) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _wrong(path, f"line {line}", "holds a NUL character; remove it, or name a text file")
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
    content = _parsed(path, 1, text)
    if not isinstance(content, list):
        raise UserError(f"{shown(path)}: the JSON must be a list of texts or objects, not {kind_of(content)}")
    for number, value in enumerate(content, start=1):
        yield Row(path, number, value, "item")


def read_jsonl(path: Path, text: str) -> Iterator[Row]:
    """Lines of JSON; blank ones are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand in a JSON string
        if line.strip():
            yield Row(path, number, _parsed(path, number, line))


def read_txt(path: Path, text: str) -> Iterator[Row]:
    """Lines of plain text; blank ones are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(path, number, line)


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
        number = reader.line_num + 1  # where the row begins: quoted texts may span lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"not valid CSV ({error}); put texts in double quotes, doubled within"
            raise _wrong(path, f"line {number}", reason) from None
        if not cells:
            continue
        if header is None:
            header = cells
            twice = next((name for name in header if name and header.count(name) > 1), None)
            if twice is not None:
                raise _wrong(path, f"line {number}", f"column {shown(twice)} occurs twice; rename one")
        elif len(cells) != len(header):
            counts = f"{len(cells)} fields where the header has {len(header)}"
            raise _wrong(path, f"line {number}", f"{counts}; put texts in double quotes")
        else:
            yield Row(path, number, dict(zip(header, cells, strict=True)))


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}"
        raise _wrong(path, where, f"not valid JSON ({error.msg}, column {error.colno}); mend it there") from None
    except RecursionError:
        raise _wrong(path, f"line {line}", "not valid JSON here (nested too deeply); give texts or objects") from None
    except ValueError:
        raise _wrong(path, f"line {line}", "not valid JSON here (a number too long); put it in quotes") from None


def _wrong(path: Path, where: str, message: str) -> UserError:
    return UserError(f"{shown(path)}, {where}: {message}")


def one_line(text: str, most: int = 4096) -> str:
    """The text for a message: line breaks, control codes and half characters escaped, cut to ``most`` characters."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(name: str | Path) -> str:
    """A name in quotes, for a message; paths in full, other names cut short."""
    return f"'{one_line(str(name)) if isinstance(name, Path) else one_line(name, 60)}'"


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
