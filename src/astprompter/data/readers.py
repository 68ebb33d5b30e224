"""Read files into numbered rows; whatever is wrong is one line that names the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

from ..errors import UserError

Row = tuple[int, Any]
"""Line (or item) number, from 1, and the value found there."""

_FIELD_LIMIT = 2**31 - 1


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.txt`` file, ``.gz`` or ``.xz`` included.

    Raises:
        UserError: The file is missing, empty, not UTF-8, or malformed.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s not in (".gz", ".xz")), "")
    if kind not in FORMATS:
        raise UserError(
            f"'{path}': unknown format '{kind or path.name}'; use one of {', '.join(FORMATS)} (.gz or .xz too)"
        )
    text = read_text(path)
    if not text.strip():
        raise UserError(f"'{path}' is empty")
    return FORMATS[kind](path, text)


def read_text(path: Path) -> str:
    """Text of a file, decompressed, without a byte-order mark.

    Raises:
        UserError: The file cannot be read, or is not UTF-8, or holds NUL characters.
    """
    if not path.exists():
        raise UserError(f"'{path}' does not exist")
    if not path.is_file():
        raise UserError(f"'{path}' is not a file")
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        elif path.suffix.lower() == ".xz":
            data = lzma.decompress(data)
    except (OSError, EOFError, ZlibError, lzma.LZMAError) as error:
        raise UserError(f"cannot read '{path}': {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"'{path}', line {line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"'{path}', line {line}: holds a NUL character; is this a text file?")
    return text


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}', line {getattr(error, 'lineno', 1)}: not valid JSON ({_reason(error)})") from None
    if not isinstance(content, list):
        raise UserError(f"'{path}': the JSON must be a list of texts or objects, not {_kind(content)}")
    yield from enumerate(content, start=1)


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{path}', line {number}: not valid JSON ({_reason(error)})") from None


def _delimited(delimiter: str) -> Callable[[Path, str], Iterator[Row]]:
    def read(path: Path, text: str) -> Iterator[Row]:
        csv.field_size_limit(_FIELD_LIMIT)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        while True:
            start = 1
            try:
                if reader.fieldnames is None:
                    return
                start = reader.line_num + 1
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f"'{path}', line {start}: not valid CSV ({error})") from None
            if None in row:
                raise UserError(
                    f"'{path}', line {start}: more fields than the header names; quote texts with '{delimiter}'"
                )
            yield start, row

    return read


def _lines(path: Path, text: str) -> Iterator[Row]:
    del path
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


FORMATS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".txt": _lines,
}
"""Reader of each file format, by its ending."""
