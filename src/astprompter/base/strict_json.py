"""Strict JSON: one set of rules for every file that is ours or the user's; what Python's parser lets pass is refused.

Answers of servers are the exception (:mod:`astprompter.models.served.http`): they are another's, are looked at field by
field, and refusing one for a key that nobody reads would only lose a turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import UserError, one_line

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class Twice(dict[str, Any]):
    """A JSON object that holds a key twice, so that what it says is not clear."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def _object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values; one that holds a key twice is marked by its type."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Twice(pairs)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Repeated(twice_in(Twice(pairs)))
    return found


def twice_in(value: object) -> str:
    """What is wrong where an object in the value holds a key twice; empty where none does."""
    twice = next((item for item in _inside(value) if isinstance(item, Twice)), None)
    return f"the key '{one_line(twice.key, 60)}' occurs twice in one object; remove one" if twice is not None else ""


def _inside(value: object) -> Iterator[object]:
    """The value and everything in it, keys too."""
    left = [value]  # no recursion: a value may be nested as deeply as the JSON parser goes
    while left:
        yield (item := left.pop())
        if isinstance(item, dict):
            left.extend(item)
        left.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "a number")


class Malformed(ValueError):
    """A text that is not valid JSON.

    Attributes:
        why: The reason.
        line: Where, from 1; 0 where the whole text is meant.
        column: Where in the line, from 1.
    """

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        super().__init__(f"not valid JSON ({why}{f', line {line} column {column}' if line else ''})")
        self.why, self.line, self.column = why, line, column


class Repeated(ValueError):
    """An object holds a key twice."""


def loads(text: str, *, published: bool = False) -> Any:
    """The JSON value of a text.

    Args:
        text: The text.
        published: Whether it is data that somebody published: NaN and Infinity are read, and an object that holds a key
            twice is marked, for :func:`twice_in` to find, so that the row that it stands in can be left out.

    Raises:
        Malformed: It is not JSON.
        Repeated: An object holds a key twice.
    """
    hook, constant = (_object_of, float) if published else (_unique, _refuse)
    try:
        return json.loads(text, object_pairs_hook=hook, parse_constant=constant)
    except Repeated:
        raise
    except json.JSONDecodeError as error:
        raise Malformed(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    except ValueError as error:
        raise Malformed(str(error) if "is not a JSON" in str(error) else "a number too long") from None


def parse(text: str | bytes) -> Any:
    """The JSON value of a text that is ours or the user's own, by the strictest rules.

    Raises:
        ValueError: It is not UTF-8 or not JSON, or holds NaN, half a character or a key twice; says why, in one line.
    """
    try:
        content = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason})") from None
    value = loads(content)
    if "\\u" in content and not all(encodable(item) for item in _inside(value) if isinstance(item, str)):
        raise ValueError("it holds half a character (a lone surrogate)")
    return value


def read_object(path: Path, shape: Any = dict[str, Any]) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        shape: Its type, as pydantic takes it; any object when not given.

    Raises:
        UserError: The file cannot be read, or holds something else; names the file.
    """
    try:
        value: dict[str, Any] = TypeAdapter(shape).validate_python(parse(path.read_bytes()), strict=True)
    except (OSError, ValueError) as error:  # a ValidationError is a ValueError
        reason = first_fault(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
        raise UserError(f"cannot read '{one_line(str(path))}': {reason}; it is damaged") from None
    return value


def first_fault(error: ValidationError) -> str:
    """The first field that does not fit a model, and how, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    return f"'{one_line(where, 80)}': {first['msg']}" if where else first["msg"]


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half characters."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
