r"""ParlAI's text format: one example a line, fields ``name:value`` parted by tabs, ``\n`` for a line break in a value.

Two uses of it hold human attacks. In a chat, every line's ``text`` is the human's next turn, ``labels`` the answer, and
``episode_done:True`` ends the dialogue. In Bot-Adversarial Dialogue, ``text`` holds a whole dialogue, one utterance a
line, alternating; ``speaker_to_eval`` (``human`` or ``bot``) says who spoke last, and where it is absent the human
spoke first. Lines that describe a persona are no utterances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from .readers import Row

_PERSONA = ("your persona:", "partner's persona:")


def episodes(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows with every ParlAI episode joined to one row ``{"turns": [...]}``; other rows pass as they are.

    An episode with a line at fault, or without a ``text`` field, is at fault as a whole.
    """
    parts: list[Row] = []
    turns: list[str] = []
    fault: Row | None = None
    for row in rows:
        fields = _fields(row) if isinstance(row.value, str) else None
        if fields is None:
            yield row
            continue
        parts.append(row)
        reason = row.fault or fields.fault
        if reason:
            fault = fault or replace(row, fault=reason)
        else:
            turns += _human_turns(fields.values)
        if fields.values.get("episode_done", "").strip().lower() == "true":
            yield fault or replace(parts[0], value={"turns": turns})
            parts, turns, fault = [], [], None
    if parts:
        yield fault or replace(parts[0], value={"turns": turns})


class _Fields(NamedTuple):
    """Fields of a ParlAI line, and why it is no example; empty when it is one."""

    values: dict[str, str]
    fault: str


def _fields(row: Row) -> _Fields | None:
    """Fields of a ParlAI line; ``None`` for any other text."""
    parts = [part.partition(":") for part in str(row.value).rstrip("\r\n").split("\t")]
    if len(parts) < 2 or not all(sign for _, sign, _ in parts):
        return None
    names = [name.strip() for name, _, _ in parts]
    values = dict(zip(names, (value for _, _, value in parts), strict=True))
    if len(values) < len(names):
        return _Fields(values, "a field occurs twice; remove one")
    if "text" not in values:
        return _Fields(values, "no 'text' field; ParlAI lines look like text:…, a tab, labels:…")
    return _Fields(values, "")


def _human_turns(fields: dict[str, str]) -> list[str]:
    lines = [line.strip() for line in fields["text"].replace("\\n", "\n").split("\n")]
    said = [line for line in lines if line and not line.lower().startswith(_PERSONA)]
    last = fields.get("speaker_to_eval", "").strip().lower()
    human_first = last not in {"human", "bot"} or (len(said) % 2 == 1) == (last == "human")
    return said[0 if human_first else 1 :: 2]
