"""Data sets in the form in which their makers publish them, read into plain records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .archives import member_lines
from .readers import shown

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


def read_convokit(path: Path) -> list[Conversation]:
    """Conversations of a ConvoKit corpus, from its zip as published, or from the unpacked folder.

    Reads ``utterances.jsonl`` (``conversation_id`` or, in corpora before ConvoKit 2.4, ``root``) and, where it is
    there, ``conversations.json``. The opening post is the utterance whose id is the conversation's.

    Raises:
        UserError: No such corpus, or a line that is not an utterance; names file and line.
    """
    found: dict[str, Conversation] = {}
    for member, number, line in member_lines(path, "utterances.jsonl"):
        if line.strip():
            wrong = f"{shown(path)}, '{member}', line {number}"
            row = _object(line, wrong)
            name, text, own = row.get("conversation_id", row.get("root")), row.get("text"), row.get("id")
            if not isinstance(name, str) or not (text is None or isinstance(text, str)):
                raise UserError(f"{wrong}: no utterance of ConvoKit (id, conversation_id, text); give its own zip")
            conversation = found.setdefault(name, Conversation(name))
            if own == name:
                conversation.opening = text or ""
            else:
                conversation.replies.append(text or "")
    for name, meta in _conversations(path).items():
        if name in found and isinstance(meta.get("subreddit"), str):
            found[name].subreddit = meta["subreddit"]
    if not found:
        raise UserError(f"{shown(path)} holds no conversation; give the zip as ConvoKit publishes it")
    return list(found.values())


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


def read_human_turns(path: Path) -> list[tuple[str, ...]]:
    """What the human said in the dialogues of Bot-Adversarial Dialogue that turned offensive, turn by turn.

    Reads the archive as published (ParlAI text: ``train.txt``, ``valid.txt``, ``test.txt``), a folder or a file of it,
    or a JSON list of ``{"dialogue": [[human, bot], ...]}``. Every row of the set is a dialogue up to some turn, with a
    label for its last text; the rows labelled ``__notok__`` count, and of rows that grow out of each other the longest.

    Raises:
        UserError: No such file, or a line of another form; names file and line.
    """
    rows = list(_pairs_rows(path) if path.suffix == ".json" else _parlai_rows(path))
    beginnings = {turns[:count] for turns in rows for count in range(1, len(turns))}
    return [turns for turns in dict.fromkeys(rows) if turns and turns not in beginnings]


def _pairs_rows(path: Path) -> Iterator[tuple[str, ...]]:
    from .readers import read_json, read_text

    for row in read_json(path, read_text(path)):
        pairs = row.value.get("dialogue") if isinstance(row.value, dict) else None
        if not isinstance(pairs, list) or not all(isinstance(p, list) and p and isinstance(p[0], str) for p in pairs):
            raise row.wrong('no dialogue ({"dialogue": [[human, bot], ...]}); give the set as it was published')
        yield tuple(text for pair in pairs if (text := pair[0].strip()))


def _parlai_rows(path: Path) -> Iterator[tuple[str, ...]]:
    lines = (
        member_lines(path, "*.txt") if path.is_dir() or path.suffix != ".txt" else member_lines(path.parent, path.name)
    )
    for member, number, line in lines:
        if not line.strip():
            continue
        fields = dict(part.partition(":")[::2] for part in line.split("\t"))
        speaker = fields.get("speaker_to_eval")
        if "text" not in fields or "labels" not in fields or speaker not in ("human", "bot"):
            if member.endswith(("train.txt", "valid.txt", "test.txt")):
                raise UserError(
                    f"{shown(path)}, '{member}', line {number}: no row of Bot-Adversarial Dialogue (text, labels, "
                    "speaker_to_eval, apart by tabs)"
                )
            continue
        if fields["labels"] == "__notok__":
            said = [_unescaped(text) for text in fields["text"].split("\\n")]
            human = said[::-1][0 if speaker == "human" else 1 :: 2][::-1]  # speakers alternate
            yield tuple(text for text in human if text)


def _unescaped(text: str) -> str:
    return text.replace("\\t", " ").replace("__PIPE__", "|").strip()


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not valid JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: the JSON must be an object")
    return content
