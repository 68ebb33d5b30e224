"""Strict JSON: what Python's parser lets pass is refused, and a value holds what its reader needs.

Files of a run are read by this, so that a reader either gets a value of the right shape or a line that says what is
wrong with it and where.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError, one_line, words_of

Shape = Any
"""What a value must be: a type (``float`` takes whole numbers too, ``object`` anything), ``None``, a tuple of
alternatives, ``[shape]`` for a list, ``[shape, shape]`` for a list of so many, or ``{key: shape}`` for an object, where
``key?`` may be missing and ``*`` stands for every other key. What a shape does not name is not looked at."""

_LARGEST_FLOAT, _LARGEST_INT = 1e300, 2**53
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
    left = [value]  # no recursion: a value may be nested as deeply as the JSON parser goes
    while left:
        item = left.pop()
        if isinstance(item, Twice):
            return f"the key '{one_line(item.key, 60)}' occurs twice in one object; remove one"
        left.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
    return ""


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "a number")


def parse(text: str | bytes, shape: Shape = object) -> Any:
    """A JSON value of a shape.

    Raises:
        ValueError: It is not UTF-8, not JSON, or of another shape; the message says why, in one line.
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
    if reason := twice_in(value) or mismatch(value, shape):
        raise ValueError(reason)
    return value


def read_object(path: Path, shape: Shape = None) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: The file.
        shape: What the object must hold; nothing in particular when not given.

    Raises:
        UserError: The file cannot be read, or holds something else; names the file.
    """
    try:
        value: dict[str, Any] = parse(path.read_bytes(), {} if shape is None else shape)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else words_of(error)
        raise UserError(
            f"cannot read '{one_line(str(path))}': {reason}; it is damaged, or of another version"
        ) from None
    return value


def mismatch(value: object, shape: Shape, where: str = "") -> str:
    """Where and how a value differs from a shape, in words; empty where it does not."""
    if isinstance(shape, tuple):
        reasons = [mismatch(value, one, where) for one in shape]
        return "" if "" in reasons else reasons[0]
    if isinstance(shape, Mapping):
        return _object_mismatch(value, shape, where)
    if isinstance(shape, list):
        return _list_mismatch(value, shape, where)
    if shape is object or (shape is None and value is None):
        return ""
    return _scalar_mismatch(value, shape, where)


def _scalar_mismatch(value: object, shape: Shape, where: str) -> str:
    if shape is float and isinstance(value, int | float) and not isinstance(value, bool):
        return "" if abs(value) <= _LARGEST_FLOAT else _wrong(where, "is too large a number")
    if shape is int and isinstance(value, int) and not isinstance(value, bool):
        return "" if abs(value) <= _LARGEST_INT else _wrong(where, "is too large a number")
    if shape is str and isinstance(value, str):
        return "" if encodable(value) else _wrong(where, "holds half a character (a lone surrogate)")
    if shape is bool and isinstance(value, bool):
        return ""
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", None: "null"}
    return _wrong(where, f"must be {names[shape]}, not {kind_of(value)}")


def _object_mismatch(value: object, shape: Mapping[str, Shape], where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(where, f"must be an object, not {kind_of(value)}")
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if name == "*":
            places = [(k, v) for k, v in value.items() if k not in shape and f"{k}?" not in shape]
        elif key in value:
            places = [(key, value[key])]
        elif key == name:
            return _wrong(where, f"lacks '{key}'")
        else:
            continue
        for k, v in places:
            if not encodable(k):
                return _wrong(where, "has a key with half a character (a lone surrogate)")
            if reason := mismatch(v, inner, f"{where}.{k}" if where else k):
                return reason
    return ""


def _list_mismatch(value: object, shape: Sequence[Shape], where: str) -> str:
    if not isinstance(value, list):
        return _wrong(where, f"must be a list, not {kind_of(value)}")
    if len(shape) > 1 and len(value) != len(shape):
        return _wrong(where, f"must be a list of {len(shape)}, not of {len(value)}")
    inner: Callable[[int], Shape] = lambda i: shape[i] if len(shape) > 1 else shape[0]  # noqa: E731
    reasons = (mismatch(item, inner(i), f"{where}[{i}]") for i, item in enumerate(value))
    return next(filter(None, reasons), "")


def _wrong(where: str, what: str) -> str:
    return f"'{one_line(where, 80)}' {what}" if where else f"it {what}"


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half characters."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
