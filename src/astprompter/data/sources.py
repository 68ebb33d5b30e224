"""Loaders: a source name in, validated records out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..types import FAILURE_THRESHOLD, ElicitingText, Prefix
from .readers import read_rows

EMBEDDED = "embedded"


def load_prefixes(source: str, *, split: str = "test") -> list[Prefix]:
    """Openings from a file (texts, or rows with ``text`` and perhaps ``id``) or the embedded set.

    Args:
        source: ``embedded``, ``PATH`` or ``PATH#COLUMN``.
        split: Which embedded set: ``train``, ``dev`` or ``test``.

    Raises:
        UserError: Missing, empty or malformed file; a blank text; an id that occurs twice.
    """
    path, column = _locate(source, f"prefixes_{split}.jsonl", "prefixes")
    prefixes: list[Prefix] = []
    seen: dict[str, int] = {}
    for number, row in read_rows(path):
        text = _text_of(path, number, row, column).rstrip()
        if not text:
            raise UserError(f"'{path}', line {number}: the text is blank; remove the row")
        name = row.get("id") if isinstance(row, Mapping) else None
        identity = f"{path.name.partition('.')[0]}-{number}" if name is None else str(name)
        if identity in seen:
            raise UserError(f"'{path}', line {number}: id '{identity}' occurs before, on line {seen[identity]}")
        seen[identity] = number
        prefixes.append(Prefix(identity, text))
    return prefixes


def load_eliciting(source: str) -> list[ElicitingText]:
    """Texts known to elicit toxicity.

    Rows of RealToxicityPrompts (``prompt`` and ``continuation`` objects) are joined, and kept when the continuation's
    toxicity is above 0.5 (METHOD section 6); other rows hold one text.

    Raises:
        UserError: Missing, empty or malformed file, or no row that can be used.
    """
    path, column = _locate(source, "eliciting.jsonl.xz", "eliciting texts")
    texts = []
    for number, row in read_rows(path):
        if column is None and isinstance(row, Mapping) and {"prompt", "continuation"} <= set(row):
            text = _joined(path, number, row)
        else:
            text = _text_of(path, number, row, column)
        if text is not None and text.strip():
            texts.append(ElicitingText(text.rstrip()))
    if not texts:
        raise UserError(
            f"'{path}' has no usable eliciting text (RealToxicityPrompts rows need continuation toxicity > 0.5)"
        )
    return texts


def load_dialogues(source: str) -> list[tuple[str, tuple[str, ...]]]:
    """Human attack dialogues: (id, the human's turns), from rows ``{"id", "turns": [...]}``.

    Raises:
        UserError: Missing, empty or malformed file.
    """
    path, _ = _locate(source, "probing_dialogues.jsonl", "dialogues")
    dialogues = []
    for number, row in read_rows(path):
        turns = row.get("turns") if isinstance(row, Mapping) else None
        if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise UserError(f"'{path}', line {number}: needs 'turns', a list of texts that are not blank")
        for turn in turns:
            _check_encodable(path, number, turn)
        dialogues.append((str(row.get("id", f"{path.stem}-{number}")), tuple(turn.strip() for turn in turns)))
    return dialogues


def overlap(first: Iterable[Prefix], second: Iterable[Prefix]) -> list[Prefix]:
    """Prefixes of ``second`` whose text also stands in ``first``: leakage between splits."""
    texts = {prefix.text for prefix in first}
    return [prefix for prefix in second if prefix.text in texts]


def _locate(source: str, embedded_name: str, what: str) -> tuple[Path, str | None]:
    """File and column of a source."""
    if source == EMBEDDED:
        path = Path(str(resources.files("astprompter") / "embedded" / embedded_name))
        if not path.is_file():
            raise UserError(f"the embedded {what} are missing; build them with scripts/build_embedded.py or reinstall")
        return path, None
    name, _, column = source.partition("#")
    path = Path(name).expanduser()
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise UserError(f"'{source}' is neither a file nor a known source of {what}.{nearest(source, [EMBEDDED])}")
    return path, column or None


def _text_of(path: Path, number: int, row: Any, column: str | None) -> str:
    if isinstance(row, Mapping):
        name = column or "text"
        if name not in row:
            hint = f"{nearest(name, map(str, row))} Name it as '{path.name}#COLUMN'"
            raise UserError(f"'{path}', line {number}: no column '{name}'.{hint}")
        row = row[name]
    elif column is not None:
        raise UserError(f"'{path}', line {number}: rows are plain texts, so there is no column '{column}'")
    if not isinstance(row, str):
        raise UserError(f"'{path}', line {number}: the text must be a string, not {type(row).__name__}")
    _check_encodable(path, number, row)
    return row


def _check_encodable(path: Path, number: int, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"'{path}', line {number}: holds half a character (a lone surrogate)") from None
    if "\0" in text:
        raise UserError(f"'{path}', line {number}: holds a NUL character")


def _joined(path: Path, number: int, row: Mapping[str, Any]) -> str | None:
    """Prompt + continuation of a RealToxicityPrompts row; ``None`` when the continuation is not toxic or not scored."""
    parts = [row["prompt"], row["continuation"]]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise UserError(f"'{path}', line {number}: 'prompt' and 'continuation' must each hold a 'text'")
    toxicity = parts[1].get("toxicity")
    if toxicity is not None and (isinstance(toxicity, bool) or not isinstance(toxicity, int | float)):
        raise UserError(f"'{path}', line {number}: continuation toxicity must be a number or null")
    for part in parts:
        _check_encodable(path, number, part["text"])
    if toxicity is None or not toxicity > FAILURE_THRESHOLD:
        return None
    return str(parts[0]["text"]) + str(parts[1]["text"])
