"""Data sets in the form in which their makers publish them, read into plain records."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.strict_json import twice_in
from .archives import member_rows
from .cache import DIALOGUES
from .files import rows_of
from .parlai import episodes
from .readers import REFUSED, BadRows, Row, made, parsed, shown, take_id, unfit
from .sources import turns_of

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


def read_convokit(path: Path, bad: BadRows = REFUSED) -> list[Conversation]:
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
    found: dict[str, Conversation] = {}
    known: dict[str, int] = {}

    def utterance(row: Row) -> tuple[str, str, str]:
        value = row.value if isinstance(row.value, dict) else {}
        name, own, text = value.get("conversation_id", value.get("root")), value.get("id"), value.get("text")
        if not isinstance(name, str) or not isinstance(own, str) or not isinstance(text, str | None):
            raise row.wrong("no utterance of ConvoKit (id, conversation_id, text); give its own zip")
        take_id(row, name, {})  # of its conversation, so other rows have it too
        take_id(row, own, known)
        if reason := unfit(text or ""):
            bad.meet(row.wrong(reason))
            text = next(iter(GONE))
        return name, own, text or ""

    with closing(member_rows(path, "utterances.jsonl")) as lines:
        for name, own, text in made(map(parsed, lines), utterance, bad):
            conversation = found.setdefault(name, Conversation(name))
            if own == name:
                conversation.opening = text
            else:
                conversation.replies.append(text)
    for name, about in _conversations(path).items():
        meta = about.get("meta") if isinstance(about, dict) else {}
        subreddit = (meta if isinstance(meta, dict) else about).get("subreddit")
        if name in found and isinstance(subreddit, str) and not unfit(subreddit):
            found[name].subreddit = subreddit
    if not found:
        more = f" that can be read ({bad})" if bad.count else ""
        raise UserError(f"{shown(path)} holds no conversation{more}; give the zip as ConvoKit publishes it")
    return list(found.values())


def _conversations(path: Path) -> dict[str, Any]:
    lines = [row.value for row in member_rows(path, "conversations.json", needed=False)]
    whole = parsed(Row(path, 1, "\n".join(lines) or "{}", member="conversations.json"))
    fault = whole.fault or twice_in(whole.value)
    if fault or not isinstance(whole.value, dict):
        raise whole.wrong(fault or "the JSON must be an object")
    return whole.value


def read_human_turns(path: Path, bad: BadRows = REFUSED) -> list[tuple[str, ...]]:
    """What the human said in the dialogues of Bot-Adversarial Dialogue that turned offensive, turn by turn.

    Reads the archive as published (ParlAI text: ``train.txt``, ``valid.txt``, ``test.txt``), a folder or a file of it,
    or a JSON list of ``{"dialogue": [[human, bot], ...]}``. Every row of the set is a dialogue up to some turn, with a
    label for its last text; rows labelled ``__ok__`` are left out, and of rows that grow out of each other the longest
    counts.

    Args:
        path: The set.
        bad: Whether to skip rows that cannot be read, and where they are counted.

    Raises:
        UserError: No such file, or a line of another form; names file and line.
    """
    if path.suffix == ".json":
        said = dict.fromkeys(made(rows_of(str(path), DIALOGUES)[2], turns_of, bad))
    else:
        with closing(member_rows(path, path.name, "train.txt", "valid.txt", "test.txt")) as lines:
            said = dict.fromkeys(made(episodes(lines), turns_of, bad))
    beginnings = {turns[:count] for turns in said for count in range(1, len(turns))}
    return [turns for turns in said if turns not in beginnings]
