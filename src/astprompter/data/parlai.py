r"""ParlAI's text format: one example a line, fields ``name:value`` parted by tabs, ``\n`` for a line break in a value.

Two uses of it hold human attacks. In a chat of several lines, every line's ``text`` is the human's next turn,
``labels`` the answer, and ``episode_done:True`` ends the dialogue. In Bot-Adversarial Dialogue, one ``text`` holds a
whole dialogue, one utterance a line, alternating; ``speaker_to_eval`` (``human`` or ``bot``) says who spoke last, and
where it is absent the human spoke first. Lines that describe a persona are no utterances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .readers import Row

_FAULT = ":"
"""Key of what is wrong with a line; no field can have it."""
_NO_TEXT = "no 'text' field; ParlAI lines look like text:…, a tab, labels:…"
_PERSONA = ("your persona:", "partner's persona:")


def episodes(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows with every ParlAI episode joined to one row ``{"turns": [...]}``; other rows pass as they are.

    An episode with a line at fault, or without a ``text`` field, is at fault as a whole. One of Bot-Adversarial
    Dialogue that is labelled ``__ok__``, so whose last text offended nobody, is no attack and left out.
    """
    begun: list[tuple[Row, dict[str, str]]] = []
    for row in rows:
        fields = _fields(row.value) if isinstance(row.value, str) else None
        if fields is None:
            yield row
            continue
        begun.append((row, fields))
        if fields.get("episode_done", "").strip().lower() == "true":
            yield from _episode(begun)
            begun = []
    if begun:
        yield from _episode(begun)


def _episode(lines: list[tuple[Row, dict[str, str]]]) -> Iterator[Row]:
    first, fields = lines[0]
    turns: tuple[str, ...] = ()
    for row, own in lines:
        if reason := row.fault or own.get(_FAULT) or ("" if "text" in own else _NO_TEXT):
            yield replace(row, fault=reason)
            return
    if len(lines) > 1:
        turns = tuple(" ".join(filter(None, _texts(own["text"]))) for _, own in lines)
    elif fields.get("labels", "").strip() != "__ok__":
        turns = human_turns(fields["text"], fields.get("speaker_to_eval", "").strip().lower())
    if said := [turn for turn in turns if turn]:
        yield replace(first, value={"turns": said})


def human_turns(text: str, last: str) -> tuple[str, ...]:
    """The human's side of a dialogue in one ``text``, an utterance a line, whose speakers alternate.

    Args:
        text: The field as it stands in the file.
        last: Who said the last line, ``human`` or ``bot``; else the human said the first.
    """
    lines = _texts(text)
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        del lines[0]
    human_first = last not in ("human", "bot") or (len(lines) % 2 == 1) == (last == "human")
    return tuple(line for line in lines[0 if human_first else 1 :: 2] if line)  # a blank one keeps its place till here


def _texts(text: str) -> list[str]:
    """Lines of a field as they were said, without those that describe a persona."""
    lines = [
        line.replace("\\t", " ").replace("__PIPE__", "|").strip() for line in text.replace("\\n", "\n").split("\n")
    ]
    return [line for line in lines if not line.lower().startswith(_PERSONA)]


def _fields(line: str) -> dict[str, str] | None:
    """Fields of a ParlAI line, what is wrong with them under :data:`_FAULT`; ``None`` for any other text."""
    parts = [part.partition(":") for part in line.rstrip("\r\n").split("\t")]
    if len(parts) < 2 or not all(sign for _, sign, _ in parts):
        return None
    fields = {name.strip(): value for name, _, value in parts}
    return fields if len(fields) == len(parts) else fields | {_FAULT: "a field occurs twice; remove one"}
