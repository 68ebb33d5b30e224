"""Strict JSON: what Python's parser lets pass is refused, and a value holds what its reader needs.

Files of a run are read by this, so that a reader either gets a value of the right shape or a line that says what is
wrong with it and where.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import UserError, one_line, words_of

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class Twice(dict[str, Any]):
    """A JSON object that holds a key twice, so that what it says is not clear."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its keys and values; one that holds a key twice is marked by its type."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Twice(pairs)


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


def parse(text: str | bytes, shape: Any = object) -> Any:
    """A JSON value of a type (see :func:`mismatch`).

    Raises:
        ValueError: It is not UTF-8, not JSON, or of another type; the message says why, in one line.
    """
    try:
        content = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(content, object_pairs_hook=object_of, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, line {error.lineno} column {error.colno})") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({words_of(error)})") from None
    halves = "\\u" in content and not all(encodable(item) for item in _inside(value) if isinstance(item, str))
    reason = "it holds half a character (a lone surrogate)" if halves else twice_in(value) or mismatch(value, shape)
    if reason:
        raise ValueError(reason)
    return value


def read_object(path: Path, shape: Any = dict[str, Any]) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        shape: Its type; any object when not given.

    Raises:
        UserError: The file cannot be read, or holds something else; names the file.
    """
    try:
        value: dict[str, Any] = parse(path.read_bytes(), shape)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else words_of(error)
        raise UserError(
            f"cannot read '{one_line(str(path))}': {reason}; it is damaged, or of another version"
        ) from None
    return value


def mismatch(value: object, shape: Any) -> str:
    """Where and how a value differs from a type, in words; empty where it does not.

    Args:
        value: A JSON value; of an object, keys that the type does not name are not looked at.
        shape: What pydantic validates: a type of ``shapes.py``, ``str``, ``list[int]``, ….
    """
    try:
        _validator(shape).validate_python(value, strict=True)
    except ValidationError as error:
        return first_fault(error)
    return ""


def first_fault(error: ValidationError) -> str:
    """The first field that does not fit a model, and how, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    return f"'{one_line(where, 80)}': {first['msg']}" if where else first["msg"]


@functools.cache
def _validator(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half characters."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
