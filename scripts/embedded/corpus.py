"""Read the source sets, clean them, hold out rows by hash, and join comments into threads.

Every text belongs to exactly one split, decided by the SHA-1 of its cleaned, lower-cased form, so that a
duplicate can never stand on both sides: hashes 0-4 of 100 are ``test``, 5-6 are ``dev``, the rest ``train``.
The language model and the classifier use the same rule, so neither has seen the other's test rows.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

csv.field_size_limit(10_000_000)

LABELS = ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")
"""Classifier outputs, by the names the Detoxify family uses."""

_JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
_URL = re.compile(r"(https?://|www\.)\S+")
_SIGNATURE = re.compile(r"\(?\btalk\b\)?|\d{2}:\d{2}, .{0,30}\(UTC\)|[=']{2,}|\[\[|\]\]|[{}|]+")
_SPACE = re.compile(r"\s+")
_ANGER = {"2", "3", "10", "11"}  # anger, annoyance, disapproval, disgust
_NAMES = [
    "Alex",
    "Sam",
    "Chris",
    "Pat",
    "Jamie",
    "Max",
    "Lee",
    "Kim",
    "Dana",
    "Robin",
    "Casey",
    "Morgan",
    "Jordan",
    "Taylor",
    "Jesse",
    "Charlie",
]


@dataclass(frozen=True)
class Comment:
    """One comment of a source set.

    Attributes:
        text: Cleaned text.
        source: Folder of the set it comes from.
        labels: Value in [0, 1] per entry of ``LABELS``; ``None`` where the set does not say.
        heated: Whether the comment is toxic or angry, the key by which threads are grouped.
    """

    text: str
    source: str
    labels: tuple[float | None, ...]
    heated: bool

    @property
    def split(self) -> str:
        return split_of(self.text)


def split_of(text: str) -> str:
    """Split of a text by the hash of its cleaned form: ``train``, ``dev`` or ``test``."""
    bucket = _bucket(text)
    return "test" if bucket < 5 else "dev" if bucket < 7 else "train"


def half_of(text: str) -> int:
    """0 or 1: which half of the data a text belongs to, so that two classifiers can share no row."""
    return _bucket(text) % 2


def _bucket(text: str) -> int:
    return int(hashlib.sha1(text.lower().encode()).hexdigest(), 16) % 100


def clean(text: str) -> str:
    """Strip links, wiki markup and signatures, and collapse white space."""
    text = _SIGNATURE.sub(" ", _URL.sub("", text))
    text = _SPACE.sub(" ", text.replace('""', '"')).strip()
    return text.strip('"').strip()


def read_jigsaw(root: Path) -> Iterator[Comment]:
    """Wikipedia talk comments: six labels where known, else ``toxicity`` alone."""
    for name in ("jigsaw_multilabel.csv", "jigsaw_binary_extra.csv"):
        with (root / "jigsaw" / name).open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                text = clean(row["comment_text"])
                labels = tuple(float(row[key]) if row.get(key) else None for key in _JIGSAW)
                if text:
                    yield Comment(text, "jigsaw", labels, labels[0] == 1.0)


def read_toxic_spans(root: Path) -> Iterator[Comment]:
    """Civil Comments; toxicity is the share of annotators who did not call it free of toxicity."""
    votes: dict[str, list[float]] = {}
    with (root / "toxic_spans" / "annotations.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            votes.setdefault(row["comment_id"], []).append(float(row["not toxic"] != "True"))
    with (root / "toxic_spans" / "comments.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            text, marks = clean(row["comment_text"]), votes.get(row["comment_id"], [])
            if text and marks:
                share = sum(marks) / len(marks)
                yield Comment(text, "toxic_spans", (share, *[None] * 5), share > 0.5)


def read_goemotions(root: Path) -> Iterator[Comment]:
    """Reddit comments with emotions and no toxicity label; masked names become common ones."""
    rng = random.Random(0)
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        for line in (root / "goemotions" / name).read_text(encoding="utf-8").splitlines()[1:]:
            parts = line.split("\t")
            if len(parts) < 3 or "[RELIGION]" in parts[0]:
                continue
            text = re.sub(r"\[NAME\]", lambda _: rng.choice(_NAMES), clean(parts[0]))
            yield Comment(text, "goemotions", (None,) * 6, bool(_ANGER & set(parts[1].split(","))))


def read_tweets(root: Path) -> Iterator[Comment]:
    """Tweets; hate counts as toxic, offensive words alone as half, each by the annotators' votes."""
    with (root / "davidson" / "labeled_data.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            text = re.sub(r"&#?\w+;|\bRT\b|@\w+:?", " ", clean(row["tweet"]))
            text = _SPACE.sub(" ", text).strip(" !\"'")
            votes = float(row["count"])
            share = (float(row["hate_speech"]) + 0.5 * float(row["offensive_language"])) / votes
            if text:
                yield Comment(text, "davidson", (share, *[None] * 5), share > 0.25)


def read_dialogues(root: Path) -> Iterator[list[str]]:
    """Two-person dialogues as lists of turns."""
    files = (root / "self_dialogue" / "self_dialogue.jsonl", root / "topical_chat" / "topical_chat_valid_test.jsonl")
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                turns = [clean(turn) for turn in json.loads(line)["turns"]]
                turns = [turn for turn in turns if turn]
                if turns:
                    yield turns


def documents(root: Path, split: str, rng: random.Random) -> Iterator[str]:
    """Language-model documents of one split: dialogues and comment threads, turns joined by one space.

    Threads hold one to four comments of one source. Seven times in ten a thread is drawn from one
    temper (heated or not), because real threads cluster that way; else it is mixed.
    """
    for turns in read_dialogues(root):
        if split_of(" ".join(turns)) == split:
            yield " ".join(turns)
    repeats = {"goemotions": 3, "toxic_spans": 2, "jigsaw": 1}
    for source, reader in (("goemotions", read_goemotions), ("toxic_spans", read_toxic_spans), ("jigsaw", read_jigsaw)):
        comments = [comment for comment in reader(root) if comment.split == split]
        for _ in range(repeats[source] if split == "train" else 1):
            yield from _threads(comments, rng)


def _threads(comments: list[Comment], rng: random.Random) -> Iterator[str]:
    mixed = [comment for comment in comments if rng.random() < 0.3]
    chosen = set(map(id, mixed))
    rest = [comment for comment in comments if id(comment) not in chosen]
    for group in (mixed, [c for c in rest if c.heated], [c for c in rest if not c.heated]):
        rng.shuffle(group)
        start = 0
        while start < len(group):
            size = rng.choice((1, 2, 2, 3, 3, 4))
            yield " ".join(_shorten(c.text) for c in group[start : start + size])
            start += size


def _shorten(text: str, words: int = 100) -> str:
    parts = text.split(" ")
    return text if len(parts) <= words else " ".join(parts[:words])


def classifier_rows(root: Path) -> Iterable[Comment]:
    """All labelled comments, duplicates removed (first wins; Jigsaw's six labels come first)."""
    seen: set[str] = set()
    for reader in (read_jigsaw, read_toxic_spans, read_tweets):
        for comment in reader(root):
            key = comment.text.lower()
            if key not in seen:
                seen.add(key)
                yield comment
