"""What files can hold: good rows, bad ones, and every way in which a good file can be spoilt. For all tests of readers.

Texts hold what trips readers up: line separators that are no line ends, byte-order marks inside, right-to-left script,
combining marks, characters of four bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

from astprompter.base.errors import UserError

T = TypeVar("T")

texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs", "Cc"]),
        st.sampled_from("a b,\"'\t\u2028\u0085\ufeff\u202e\u0301👩‍🚀שׁ"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda text: bool(text.strip()))
"""Texts that a reader must take."""

unfit_texts = st.sampled_from(["", " \t", "a\ud800", "\udfff b", "a\0b", "\0"])
"""Texts that a reader must refuse: blank, half a character, NUL."""

keys = st.sampled_from(
    ["text", "id", "turns", "dialogue", "prompt", "continuation", "toxicity", "type", "nll", "updates", "reward"]
)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 10**400, 2**63, 1e308, float("nan"), float("inf")])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5) | unfit_texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=3)
)
"""Any JSON value, and a few that only Python's parser takes for JSON."""


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


broken_json = st.sampled_from(
    [b"{bad", b'{"text": "a"', b'"a" "b"', b"'a'", b"[" * 5000, b"9" * 5000, b'"\xff"', b'"a\x00"', b"\xff\xfe", b"nul",
     b'{"text": "a", "text": "b"}', b'{"id": "x", "more": {"k": 1, "k": 2}, "text": "a"}']
)  # fmt: skip
"""Lines that are no JSON, or say two things at once."""


_INSERTED = [b"\xff", b"\x00", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"{", b"9" * 5000]


@st.composite
def spoilt_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's bytes after one accident."""
    at = draw(st.integers(0, len(content)))
    lines = content.split(b"\n")
    line = draw(st.integers(0, len(lines) - 1))
    before, after = lines[:line], lines[line + 1 :]
    accidents: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[:at] + draw(st.sampled_from(_INSERTED)) + content[at:],
        lambda: content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :],
        lambda: b"\n".join([*before, *after]),
        lambda: b"\n".join([*before, lines[line], lines[line], *after]),
        lambda: b"\n".join([*before, draw(broken_json), *after]),
        lambda: b"\n".join([*before, raw(draw(values)), *after]),
        lambda: b"\n".join([*before, b"x" * 1_000_000, *after]),
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: draw(st.sampled_from([b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf" + content, b" "])),
    ]
    return draw(st.sampled_from(accidents))()


@st.composite
def spoilt_value(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value after one place in it was replaced, removed, emptied or put in a list."""
    root = [copy.deepcopy(value)]
    holder, place = root, 0
    while isinstance(inner := holder[place], dict | list) and inner and draw(st.integers(0, 5)):
        places = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        holder, place = inner, draw(st.sampled_from(places))
    kind = draw(st.integers(0, 3))
    if kind == 0 and holder is not root:
        del holder[place]
    elif kind == 1:
        holder[place] = [holder[place]]
    elif kind == 2 and isinstance(holder[place], dict | list | str):
        holder[place] = type(holder[place])()
    else:
        holder[place] = draw(values)
    return root[0]


def taken(read: Callable[[], T], *names: str) -> T | None:
    """What a reader gives; ``None`` where it raised a ``UserError``, which must be one line that names the file.

    Any other exception is let through, so that the test fails.
    """
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 6000
        for name in names:
            assert name in message, message
        return None
