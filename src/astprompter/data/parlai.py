r"""ParlAI's text format: one example a line, fields ``name:value`` parted by tabs, ``\n`` for a line break in a value.

Two uses of it hold human attacks. In a chat, every line's ``text`` is the human's next turn, ``labels`` the answer, and
``episode_done:True`` ends the dialogue. In Bot-Adversarial Dialogue, ``text`` holds a whole dialogue, one utterance a
line, alternating; ``speaker_to_eval`` (``human`` or ``bot``) says who spoke last, and where it is absent the human
spoke first. Lines that describe a persona are no utterances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .readers import Row

_PERSONA = ("your persona:", "partner's persona:")


def episodes(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows with every ParlAI episode joined to one row ``{"turns": [...]}``; other rows pass as they are.

    Raises:
        UserError: A line of an episode has no ``text`` field.
    """
    first, turns = None, list[str]()
    for row in rows:
        fields = _fields(row.value) if isinstance(row.value, str) else None
        if fields is None:
            yield row
            continue
        if "text" not in fields:
            raise row.wrong("no 'text' field; ParlAI lines look like text:…, a tab, labels:…")
        first = first or row
        turns += _human_turns(fields)
        if fields.get("episode_done", "").lower() == "true":
            yield Row(first.path, first.number, {"turns": turns}, first.unit)
            first, turns = None, []
    if first is not None:
        yield Row(first.path, first.number, {"turns": turns}, first.unit)


def _fields(line: str) -> dict[str, str] | None:
    """Fields of a ParlAI line; ``None`` for any other text."""
    parts = [part.partition(":") for part in line.rstrip("\r\n").split("\t")]
    if len(parts) < 2 or not all(sign for _, sign, _ in parts):
        return None
    return {name.strip(): value for name, _, value in parts}


def _human_turns(fields: dict[str, str]) -> list[str]:
    lines = [line.strip() for line in fields["text"].replace("\\n", "\n").split("\n")]
    said = [line for line in lines if line and not line.lower().startswith(_PERSONA)]
    last = fields.get("speaker_to_eval", "").strip().lower()
    human_first = last not in {"human", "bot"} or (len(said) % 2 == 1) == (last == "human")
    return said[0 if human_first else 1 :: 2]
