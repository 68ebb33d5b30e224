"""Data sets in the form in which their makers publish them, read into plain records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import RowError, UserError
from ..base.strict_json import object_of, twice_in
from .archives import member_lines
from .parlai import human_turns
from .readers import BadRows, Row, made, read_json, read_text, shown, unfit

GONE = frozenset({"[removed]", "[deleted]", "[deleted by user]", "[ removed by reddit ]"})
"""What Reddit leaves of a text that its author or a moderator took away, in lower case."""


@dataclass(slots=True)
class Conversation:
    """A conversation of a ConvoKit corpus.

    Attributes:
        id: Id of the opening post.
        opening: Its text, often empty (a link); ``None`` where the corpus lacks it.
        replies: The other texts, in the order of the file.
        subreddit: Where it was held; empty where the corpus does not say.
    """

    id: str
    opening: str | None = None
    replies: list[str] = field(default_factory=list)
    subreddit: str = ""


def read_convokit(path: Path, bad: BadRows | None = None) -> list[Conversation]:
    """Conversations of a ConvoKit corpus, from its zip as published, or from the unpacked folder.

    Reads ``utterances.jsonl`` (``conversation_id`` or, in corpora before ConvoKit 2.4, ``root``) and, where it is
    there, ``conversations.json``. The opening post is the utterance whose id is the conversation's.

    Args:
        path: The corpus.
        bad: Whether to skip lines that cannot be read, and where they are counted; refused when not given. A text
            that cannot be kept counts as a removed one, so that its conversation is not read without it.

    Raises:
        UserError: No such corpus, or a line that is not an utterance; names file and line.
    """
    bad = bad or BadRows()
    found: dict[str, Conversation] = {}
    known: set[str] = set()
    for member, number, line in member_lines(path, "utterances.jsonl", bad):
        if line.strip():
            try:
                name, own, text = _utterance(line, f"{shown(path)}, {shown(Path(member))}, line {number}", known)
            except RowError as error:
                bad.meet(error)
                continue
            if reason := unfit(text):
                bad.meet(RowError(f"{shown(path)}, {shown(Path(member))}, line {number}: {reason}"))
                text = next(iter(GONE))
            conversation = found.setdefault(name, Conversation(name))
            if own == name:
                conversation.opening = text
            else:
                conversation.replies.append(text)
    for name, meta in _conversations(path).items():
        subreddit = meta.get("subreddit")
        if name in found and isinstance(subreddit, str) and not unfit(subreddit):
            found[name].subreddit = subreddit
    if not found:
        more = f" that can be read ({bad})" if bad.count else ""
        raise UserError(f"{shown(path)} holds no conversation{more}; give the zip as ConvoKit publishes it")
    return list(found.values())


def _utterance(line: str, where: str, known: set[str]) -> tuple[str, str, str]:
    """Conversation, id and text of a line of a ConvoKit corpus; notes the id in ``known``."""
    row = _object(line, where)
    name, text, own = row.get("conversation_id", row.get("root")), row.get("text"), row.get("id")
    if not isinstance(name, str) or not isinstance(own, str) or not (text is None or isinstance(text, str)):
        raise RowError(f"{where}: no utterance of ConvoKit (id, conversation_id, text); give its own zip")
    for value in (name, own):
        if not value.strip() or not value.isprintable():
            raise RowError(f"{where}: the id {shown(value)} is blank or holds control characters")
    if own in known:
        raise RowError(f"{where}: id {shown(own)} occurs before; ids must be unique")
    known.add(own)
    return name, own, text or ""


def _conversations(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = "\n".join(line for _, _, line in member_lines(path, "conversations.json"))
    except UserError as error:
        if "holds no file" in str(error):
            return {}
        raise
    content = _object(text, f"{shown(path)}, 'conversations.json'")
    rows = {name: value for name, value in content.items() if isinstance(value, dict)}
    return {name: value["meta"] if isinstance(value.get("meta"), dict) else value for name, value in rows.items()}


def read_human_turns(path: Path, bad: BadRows | None = None) -> list[tuple[str, ...]]:
    """What the human said in the dialogues of Bot-Adversarial Dialogue that turned offensive, turn by turn.

    Reads the archive as published (ParlAI text: ``train.txt``, ``valid.txt``, ``test.txt``), a folder or a file of it,
    or a JSON list of ``{"dialogue": [[human, bot], ...]}``. Every row of the set is a dialogue up to some turn, with a
    label for its last text; the rows labelled ``__notok__`` count, and of rows that grow out of each other the longest.

    Args:
        path: The set.
        bad: Whether to skip rows that cannot be read, and where they are counted; refused when not given.

    Raises:
        UserError: No such file, or a line of another form; names file and line.
    """
    bad = bad or BadRows()
    rows = list(_pairs_rows(path, bad) if path.suffix == ".json" else _parlai_rows(path, bad))
    beginnings = {turns[:count] for turns in rows for count in range(1, len(turns))}
    return [turns for turns in dict.fromkeys(rows) if turns and turns not in beginnings]


def _pairs_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, ...]]:
    def said(row: Row) -> tuple[str, ...]:
        pairs = row.value.get("dialogue") if isinstance(row.value, dict) else None
        if not isinstance(pairs, list) or not all(isinstance(p, list) and p and isinstance(p[0], str) for p in pairs):
            raise row.wrong('no dialogue ({"dialogue": [[human, bot], ...]}); give the set as it was published')
        if reason := next(filter(None, (unfit(pair[0]) for pair in pairs)), ""):
            raise row.wrong(reason)
        return tuple(text for pair in pairs if (text := pair[0].strip()))

    return made(read_json(path, read_text(path, lenient=bad.skip)), said, bad)


def _parlai_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, ...]]:
    for member, number, line in member_lines(path, "*.txt", bad):
        if not line.strip():
            continue
        fields = dict(part.partition(":")[::2] for part in line.split("\t"))
        speaker = fields.get("speaker_to_eval", "")
        wrong = ""
        if "text" not in fields or "labels" not in fields or speaker not in ("human", "bot"):
            if not member.endswith(("train.txt", "valid.txt", "test.txt")):
                continue  # another file of the archive
            wrong = "no row of Bot-Adversarial Dialogue (text, labels, speaker_to_eval, apart by tabs)"
        elif len(fields) <= line.count("\t"):
            wrong = "a field occurs twice; remove one"
        if wrong := wrong or unfit(line):
            bad.meet(RowError(f"{shown(path)}, {shown(Path(member))}, line {number}: {wrong}"))
            continue
        if fields["labels"] == "__notok__":
            yield human_turns(fields["text"], speaker)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=object_of)
    except (ValueError, RecursionError):
        raise RowError(f"{where}: not valid JSON") from None
    if not isinstance(content, dict):
        raise RowError(f"{where}: the JSON must be an object")
    if reason := twice_in(content):
        raise RowError(f"{where}: {reason}")
    return content
