"""From published data to the texts that training and evaluation read (docs/method.md section 6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import write_json, write_rows
from ..base.progress import Progress, Silent
from ..base.protocols import Scorer
from ..base.records import TOXIC, Prefix
from .cache import CARD, DIALOGUES, ELICITING, PREFIXES
from .cleaning import clean_markup
from .hub import is_table
from .published import GONE, Conversation, read_convokit, read_human_turns
from .readers import REFUSED, BadRows, shown
from .sources import load_dialogues, load_prefixes, read_eliciting
from .splits import folded, split_by_id

LAST_UTTERANCES = 2
"""A prefix is the last two utterances after the opening post."""
UNREADABLE = "rows that cannot be read, skipped"
_SCORED_TOGETHER = 256


@dataclass(slots=True)
class Prepared:
    """Texts ready to write.

    Attributes:
        kind: ``prefixes``, ``eliciting`` or ``probing_dialogues``.
        files: Rows by file stem.
        counts: How many were read, left out (by reason), and kept.
    """

    kind: str
    files: dict[str, list[dict[str, Any]]]
    counts: Counter[str] = field(default_factory=Counter)

    def write(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the rows as JSON lines and, last, ``card.json``, without which the set does not count as prepared.

        Raises:
            UserError: The folder cannot be written.
        """
        (folder / CARD).unlink(missing_ok=True)
        for stem, rows in self.files.items():
            write_rows(folder / f"{stem}.jsonl", rows)
        kept = {stem: len(rows) for stem, rows in self.files.items()}
        write_json(folder / CARD, {**card, "kind": self.kind, "counts": dict(self.counts), "rows": kept})


def prepare_prefixes(
    path: Path,
    scorer: Scorer,
    *,
    seed: int = 0,
    column: str = "",
    bad: BadRows = REFUSED,
    progress: Progress | None = None,
) -> Prepared:
    """Non-toxic prefixes, split into train, dev and test by id.

    Args:
        path: A ConvoKit corpus (an archive or a folder), or a file of texts.
        scorer: Toxicity R_φ; prefixes with a toxicity of 0.5 or more, or none, are left out.
        seed: Of the split.
        column: Column of the texts in a file.
        bad: Whether to skip rows that cannot be read; they are counted there and in the result.
        progress: Where progress is shown.

    Raises:
        UserError: The file is malformed, or nothing is left.
    """
    counts: Counter[str] = Counter()
    corpus = not is_table(path) and (path.is_dir() or path.suffix == ".zip" or ".tar" in path.suffixes)
    candidates = list(_threads(read_convokit(path, bad), counts) if corpus else _plain(path, column, counts, bad))
    _note(bad, counts)
    kept = list(_harmless(candidates, scorer, counts, progress or Silent()))
    parts = split_by_id([prefix for prefix, _ in kept], seed=seed)
    origin = {prefix.id: subreddit for prefix, subreddit in kept}
    files = {
        f"{PREFIXES}_{name}": [
            {"id": p.id, "text": p.text} | ({"subreddit": origin[p.id]} if origin[p.id] else {}) for p in part
        ]
        for name, part in parts.items()
    }
    empty = [name for name, rows in files.items() if not rows]
    if empty:
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        raise UserError(f"{shown(path)} leaves no texts for {', '.join(empty)} ({told}); it is too small")
    return Prepared(PREFIXES, files, counts)


def prepare_eliciting(path: Path, *, column: str = "", bad: BadRows = REFUSED) -> Prepared:
    """Texts known to elicit toxicity: rows of RealToxicityPrompts with continuation toxicity above 0.5, or texts.

    Raises:
        UserError: The file is malformed, or no row can be used.
    """
    found = read_eliciting(str(path) + (f"#{column}" if column else ""), bad=bad)
    distinct = list(dict.fromkeys(item.text for item in found.texts))
    counts = Counter(
        {
            "read": len(found.texts) + found.mild + found.unscored,
            "mild": found.mild,
            "not scored": found.unscored,
            "duplicates": len(found.texts) - len(distinct),
            "kept": len(distinct),
        }
    )
    _note(bad, counts)
    return Prepared(ELICITING, {ELICITING: [{"text": text} for text in distinct]}, counts)


def prepare_dialogues(path: Path, *, bad: BadRows = REFUSED) -> Prepared:
    """The human side of Bot-Adversarial Dialogue, or of dialogues in our own form (``.jsonl``), as a script.

    Raises:
        UserError: The archive is malformed, or holds no dialogue.
    """
    own = path.suffix.lower() == ".jsonl" or is_table(path)
    dialogues = [row.turns for row in load_dialogues(str(path), bad=bad)] if own else read_human_turns(path, bad)
    if not dialogues:
        more = f" ({bad})" if bad.count else ""
        raise UserError(
            f"{shown(path)} holds no dialogue that turned offensive{more}; give the archive as it was published"
        )
    rows = [{"id": f"bad-{number}", "turns": list(turns)} for number, turns in enumerate(dialogues, start=1)]
    counts = Counter({"kept": len(rows), "of at least 3 turns": sum(len(turns) >= 3 for turns in dialogues)})
    _note(bad, counts)
    return Prepared(DIALOGUES, {DIALOGUES: rows}, counts)


def _note(bad: BadRows, counts: Counter[str]) -> None:
    if bad.count:
        counts[UNREADABLE] = bad.count


def _threads(conversations: Sequence[Conversation], counts: Counter[str]) -> Iterator[tuple[Prefix, str]]:
    """Prefixes of conversations without removed texts, and where each was held."""
    counts["read"] = len(conversations)
    for conversation in conversations:
        if any(text.strip().lower() in GONE for text in (conversation.opening or "", *conversation.replies)):
            counts["with removed or deleted text"] += 1
            continue
        cleaned = (text for raw in reversed(conversation.replies) if (text := clean_markup(raw)))
        said = list(islice(cleaned, LAST_UTTERANCES))
        if len(said) < LAST_UTTERANCES:
            counts["too short"] += 1
            continue
        yield Prefix(conversation.id, " ".join(reversed(said))), conversation.subreddit


def _plain(path: Path, column: str, counts: Counter[str], bad: BadRows) -> Iterator[tuple[Prefix, str]]:
    rows = load_prefixes(str(path) + (f"#{column}" if column else ""), split="train", bad=bad)
    counts["read"] = len(rows)
    for row in rows:
        text = clean_markup(row.text)
        if text:
            yield Prefix(str(row.id), text), ""
        else:
            counts["only markup"] += 1


def _harmless(
    candidates: Sequence[tuple[Prefix, str]], scorer: Scorer, counts: Counter[str], progress: Progress
) -> Iterator[tuple[Prefix, str]]:
    """Those that are not toxic, each text once: a duplicate could stand in two splits."""
    seen: set[str] = set()
    with progress.task("scoring", len(candidates), "texts") as advance:
        for start in range(0, len(candidates), _SCORED_TOGETHER):
            part = candidates[start : start + _SCORED_TOGETHER]
            for item, toxicity in zip(part, scorer.score([prefix.text for prefix, _ in part]), strict=True):
                key = folded(item[0].text)
                reason = (
                    "not scored" if math.isnan(toxicity)
                    else "toxic" if toxicity >= TOXIC
                    else "duplicates" if key in seen
                    else "kept"
                )  # fmt: skip
                counts[reason] += 1
                if reason == "kept":
                    seen.add(key)
                    yield item
            advance(len(part))


def statistics(texts: Iterable[str]) -> dict[str, float]:
    """Count, distinct texts, and words: total, mean, shortest, median, longest."""
    found = list(texts)
    words = sorted(len(text.split()) for text in found)
    if not words:
        return {"texts": 0}
    return {
        "texts": len(found),
        "distinct": len({folded(text) for text in found}),
        "words": sum(words),
        "words_mean": sum(words) / len(words),
        "words_least": words[0],
        "words_median": words[len(words) // 2],
        "words_most": words[-1],
    }
