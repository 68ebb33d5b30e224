"""Loaders: a source name in, validated records out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..base.errors import UserError, nearest, one_line
from ..base.messages import ROLES
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
        unscored: Rows left out because a toxicity that is asked for is null or NaN.
        unclean: Rows left out because the prompt's toxicity is above the limit.
    """

    texts: list[ElicitingText] = field(default_factory=list)
    mild: int = 0
    unscored: int = 0
    unclean: int = 0

    def __str__(self) -> str:
        """What was left out, in words."""
        unclean = f", {self.unclean:,} with a toxic prompt" if self.unclean else ""
        return f"{self.mild:,} with a continuation at or below {TOXIC}, {self.unscored:,} without a score{unclean}"


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


def read_eliciting(source: str, *, clean: float | None = None, bad: BadRows = REFUSED) -> Eliciting:
    """Texts known to elicit toxicity, and counts of the rows left out.

    Rows of RealToxicityPrompts (``prompt`` and ``continuation`` objects) are joined, and kept when the continuation's
    toxicity is above 0.5 (docs/method.md section 6); other rows hold one text.

    Args:
        source: As for :func:`load_prefixes`.
        clean: Keep such rows only whose prompt's toxicity is at most this, and of them the prompt alone.
        bad: As for :func:`load_prefixes`; a row that is left out for its toxicity is no bad row.

    Raises:
        UserError: Missing, empty or malformed file, or no row that can be used.
    """
    path, column, rows = rows_of(source, "eliciting")
    found = Eliciting()

    def scored(row: Row) -> tuple[str, float, float]:
        if column is None and isinstance(row.value, Mapping) and {"prompt", "continuation"} <= row.value.keys():
            return _eliciting_of(row, whole=clean is None)
        if clean is not None:
            raise row.wrong(
                "supervision.clean needs to know how toxic the prompt is; give rows of RealToxicityPrompts as they "
                "were published, with 'prompt' and 'continuation'"
            )
        return _text_of(row, column), 1.0, 0.0

    for text, toxicity, own in made(rows, scored, bad):
        if math.isnan(toxicity + own):
            found.unscored += 1
        elif toxicity <= TOXIC:
            found.mild += 1
        elif own > (1.0 if clean is None else clean):
            found.unclean += 1
        else:
            found.texts.append(ElicitingText(text))
    if not found.texts:
        raise UserError(f"{shown(path)} holds no usable eliciting text (left out: {found}){_skipped(bad)}; add texts")
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


def load_benign(source: str, *, bad: BadRows = REFUSED) -> list[tuple[str, ...]]:
    """Harmless texts and dialogues, by which the cost of a repair is measured; embedded ones are the test prefixes.

    Rows are texts as for :func:`load_prefixes`, or dialogues with both sides: ``{"messages": [{"role", "content"},
    …]}``, user and assistant in turn, or ``{"dialogue": [[text, answer], …]}``.

    Returns:
        Each a text; or a dialogue as a session hears and says it: the user's first message, an empty utterance, the
        answer, the user's next message, its answer, ….

    Raises:
        UserError: Missing, empty or malformed file; a blank text; messages that are not in turn.
    """
    path, column, rows = rows_of(source, "prefixes_test")

    def benign_of(row: Row) -> tuple[str, ...]:
        value = row.value if column is None and isinstance(row.value, Mapping) else {}
        if "messages" in value:
            said = [_content(row, message, i) for i, message in enumerate(_listed(row, value["messages"]))]
        elif "dialogue" in value:
            said = [_checked(row, text) for turn in _listed(row, value["dialogue"]) for text in _listed(row, turn)]
        else:
            return (_text_of(row, column),)
        if len(said) % 2:
            raise row.wrong("a dialogue must have an answer to each of the user's messages")
        first, *others = (text.strip() for text in said)
        return (first, "", *(f" {text}" for text in others))

    found = list(made(rows, benign_of, bad))
    if not found:
        raise UserError(f"{shown(path)} holds no text{_skipped(bad)}; add rows")
    return found


def _listed(row: Row, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise row.wrong("a dialogue must be a list of at least one message")
    return value


def _content(row: Row, message: Any, place: int) -> str:
    role = ROLES[place % 2]
    if not isinstance(message, Mapping) or message.get("role") != role:
        raise row.wrong(f"message {place + 1} of 'messages' must be the {role}'s, with 'role' and 'content'")
    return _checked(row, message.get("content"))


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


def _eliciting_of(row: Row, *, whole: bool) -> tuple[str, float, float]:
    """Prompt + continuation of a RealToxicityPrompts row, and the continuation's toxicity, NaN where not scored.

    Or, where ``whole`` is not asked for, the prompt alone, and its toxicity too; else 0.
    """
    prompt, continuation = row.value["prompt"], row.value["continuation"]
    for part in (prompt, continuation):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise row.wrong("'prompt' and 'continuation' must be objects that hold a 'text', as in RealToxicityPrompts")
    toxicity = _toxicity_of(row, "continuation")
    text = prompt["text"] + continuation["text"] if whole else prompt["text"]
    return _checked(row, text, blank=not toxicity > TOXIC), toxicity, 0.0 if whole else _toxicity_of(row, "prompt")


def _toxicity_of(row: Row, part: str) -> float:
    toxicity = row.value[part].get("toxicity")
    if toxicity is None:
        return math.nan
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float):
        raise row.wrong(f"the {part}'s toxicity must be a number or null, not {kind_of(toxicity)}")
    if toxicity < 0 or toxicity > 1:
        raise row.wrong(f"the {part}'s toxicity must lie between 0 and 1; rescale it")
    return float(toxicity)
