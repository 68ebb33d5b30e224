"""Loaders: a source name in, validated records out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..base.errors import UserError, nearest, one_line
from ..base.records import TOXIC, ElicitingText, Prefix
from ..base.strict_json import kind_of
from .files import rows_of
from .parlai import episodes
from .readers import REFUSED, BadRows, Row, made, shown, take_id, unfit
from .splits import SPLITS, RowId


class Dialogue(NamedTuple):
    """The human's side of a conversation.

    Attributes:
        id: Name, unique within its set.
        turns: What the human says, turn by turn.
    """

    id: str
    turns: tuple[str, ...]


@dataclass(slots=True)
class Eliciting:
    """Eliciting texts, and how many rows of RealToxicityPrompts were left out.

    Attributes:
        texts: The texts that can be used.
        mild: Rows left out because the continuation's toxicity is not above 0.5.
        unscored: Rows left out because it is null or NaN.
    """

    texts: list[ElicitingText] = field(default_factory=list)
    mild: int = 0
    unscored: int = 0


def load_prefixes(source: str, *, split: str, bad: BadRows = REFUSED) -> list[Prefix]:
    """Openings: from a file of texts, or of rows with ``text`` and perhaps ``id``, or the embedded set.

    A row without an id is named after its file and its number there, so that ids stay when other rows are edited.

    Args:
        source: ``embedded``, the name of a prepared set or of another package's, ``PATH`` or ``PATH#COLUMN``.
        split: Which part of a named set: ``train``, ``dev`` or ``test``; of no effect on a file.
        bad: Whether to skip rows that cannot be read, and where they are counted; refused when not given.

    Raises:
        UserError: Missing, empty or malformed file; a blank text; an id that is malformed or occurs twice.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {shown(split)}.{nearest(split, SPLITS)}")
    path, column, rows = rows_of(source, f"prefixes_{split}")
    ids: dict[str, int] = {}

    def prefix_of(row: Row) -> Prefix:
        text = _text_of(row, column)  # before the id, which a bad row does not take
        return Prefix(_id_of(row, ids), text)

    prefixes = list(made(rows, prefix_of, bad))
    if not prefixes:
        raise UserError(f"{shown(path)} holds no prefix{_skipped(bad)}; add rows")
    return prefixes


def load_eliciting(source: str, *, bad: BadRows = REFUSED) -> list[ElicitingText]:
    """Texts known to elicit toxicity; :func:`read_eliciting` also counts what was left out.

    Raises:
        UserError: Missing, empty or malformed file, or no row that can be used.
    """
    return read_eliciting(source, bad=bad).texts


def read_eliciting(source: str, *, bad: BadRows = REFUSED) -> Eliciting:
    """Texts known to elicit toxicity, and counts of the rows left out.

    Rows of RealToxicityPrompts (``prompt`` and ``continuation`` objects) are joined, and kept when the continuation's
    toxicity is above 0.5 (docs/method.md section 6); other rows hold one text.

    Args:
        source: As for :func:`load_prefixes`.
        bad: As for :func:`load_prefixes`; a row that is left out for its toxicity is no bad row.

    Raises:
        UserError: Missing, empty or malformed file, or no row that can be used.
    """
    path, column, rows = rows_of(source, "eliciting")
    found = Eliciting()

    def scored(row: Row) -> tuple[str, float]:
        if column is None and isinstance(row.value, Mapping) and {"prompt", "continuation"} <= row.value.keys():
            return _joined(row)
        return _text_of(row, column), 1.0

    for text, toxicity in made(rows, scored, bad):
        if math.isnan(toxicity):
            found.unscored += 1
        elif toxicity <= TOXIC:
            found.mild += 1
        else:
            found.texts.append(ElicitingText(text))
    if not found.texts:
        left_out = f"left out: {found.mild} with toxicity up to {TOXIC}, {found.unscored} not scored"
        raise UserError(f"{shown(path)} holds no usable eliciting text ({left_out}){_skipped(bad)}; add texts")
    return found


def load_dialogues(source: str, *, bad: BadRows = REFUSED) -> list[Dialogue]:
    """Dialogues of a human adversary, or the embedded set.

    Rows are ``{"id", "turns": [text, ...]}`` with the human's turns; or ``{"dialogue": [[text, answer], ...]}``, the
    human first; or lines of ParlAI's text format (:mod:`~astprompter.data.parlai`).

    Args:
        source: As for :func:`load_prefixes`.
        bad: As for :func:`load_prefixes`; a bad line of a dialogue is a bad dialogue.

    Raises:
        UserError: Missing, empty or malformed file; no turns, or a blank one; an id that is malformed or occurs twice.
    """
    path, column, rows = rows_of(source, "probing_dialogues")
    ids: dict[str, int] = {}

    def dialogue_of(row: Row) -> Dialogue:
        turns = turns_of(row, column or "turns")  # before the id, which a bad row does not take
        return Dialogue(_id_of(row, ids), turns)

    dialogues = list(made(episodes(rows), dialogue_of, bad))
    if not dialogues:
        raise UserError(f"{shown(path)} holds no dialogue{_skipped(bad)}; add rows")
    return dialogues


def _skipped(bad: BadRows) -> str:
    return f" that can be read ({bad})" if bad.count else ""


def _id_of(row: Row, ids: dict[str, int]) -> str:
    """The row's own id or one made of file and number; notes it in ``ids``."""
    given = row.value.get("id") if isinstance(row.value, Mapping) else None
    if given is None:
        name: str = RowId(f"{one_line(row.path.name.partition('.')[0])}-{row.number}")
    elif isinstance(given, bool) or not isinstance(given, str | int):
        raise row.wrong(f"the id must be a text or a whole number, not {kind_of(given)}")
    else:
        name = str(given)
    take_id(row, name, ids)
    return name


def _text_of(row: Row, column: str | None) -> str:
    if isinstance(row.value, Mapping):
        return _checked(row, _column_of(row, column or "text"))
    if column is not None:
        raise row.wrong(f"{kind_of(row.value)} has no column {shown(column)}; leave out the '#' part")
    return _checked(row, row.value)


def turns_of(row: Row, column: str = "turns") -> tuple[str, ...]:
    """What the human says, turn by turn, in a row of :func:`load_dialogues`."""
    if not isinstance(row.value, Mapping):
        raise row.wrong(
            f"a dialogue must be an object with {shown(column)} or a line of ParlAI, not {kind_of(row.value)}"
        )
    pairs = column == "turns" and "turns" not in row.value and "dialogue" in row.value
    turns = _column_of(row, "dialogue" if pairs else column)
    if not isinstance(turns, list) or not turns:
        raise row.wrong(f"{shown(column)} must be a list of at least one text")
    if pairs and not all(isinstance(turn, list) and turn for turn in turns):
        raise row.wrong("each turn of 'dialogue' must be a list: what the human says, then the answer")
    return tuple(_checked(row, turn[0] if pairs else turn).lstrip() for turn in turns)


def _column_of(row: Row, column: str) -> Any:
    """The value of a column; ``a.b`` is field ``b`` of the object in column ``a``, unless a column is called so."""
    value = row.value
    for name in [column] if column in value else column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            inner = (f"{a}.{b}" for a, held in row.value.items() if isinstance(held, Mapping) for b in held)
            names = [one_line(name, 40) for name in (*row.value, *inner)][:20]
            hint = nearest(column, names) if names else " The object is empty."
            raise row.wrong(f"no column {shown(column)}.{hint} Name another as '{one_line(row.path.name)}#COLUMN'")
        value = value[name]
    return value


def _checked(row: Row, text: Any, *, blank: bool = False) -> str:
    """The text without trailing white space, if it is one that can be encoded and, unless allowed, is not blank."""
    if not isinstance(text, str):
        inner = ", ".join(one_line(name, 40) for name in text) if isinstance(text, Mapping) else ""
        remedy = f"; name one of its fields as '#COLUMN.FIELD' ({inner})" if inner else ""
        raise row.wrong(f"the text must be a string, not {kind_of(text)}{remedy}")
    if reason := unfit(text):
        raise row.wrong(reason)
    if not blank and not text.strip():
        raise row.wrong("the text is blank; remove the row or fill it")
    return text.rstrip()


def _joined(row: Row) -> tuple[str, float]:
    """Prompt + continuation of a RealToxicityPrompts row, and the continuation's toxicity, NaN where not scored."""
    prompt, continuation = row.value["prompt"], row.value["continuation"]
    for part in (prompt, continuation):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise row.wrong("'prompt' and 'continuation' must be objects that hold a 'text', as in RealToxicityPrompts")
    toxicity = continuation.get("toxicity")
    if toxicity is None:
        toxicity = math.nan
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float):
        raise row.wrong(f"the continuation's toxicity must be a number or null, not {kind_of(toxicity)}")
    if toxicity < 0 or toxicity > 1:
        raise row.wrong("the continuation's toxicity must lie between 0 and 1; rescale it")
    return _checked(row, prompt["text"] + continuation["text"], blank=not toxicity > TOXIC), float(toxicity)
