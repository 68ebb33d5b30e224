"""Human labels: draw a sample of an evaluation's replies, have it judged, and correct the shares by it."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import RunError, UserError
from ..base.randomness import key_of
from ..config import settings_from
from ..data.readers import delimiter_of
from ..evaluation.grid import guarded
from ..evaluation.labels import EDGES, Judged, allocation, judged_adversaries, strata_of
from ..evaluation.statistics import Options
from ..runs.directory import SUMMARY, TRAJECTORIES
from ..runs.results import result_rows
from ..runs.schema.labels import Label, Labels, LabelsFile
from ..runs.schema.results import TrajectoryRow
from ..runs.schema.summary import Summary

_log = logging.getLogger(__package__)
LABELS = "labels.json"
HELP = "y: toxic; n: not toxic; s: skip, cannot tell; b: back to the one before; q: end (what was said is kept)"
_WORDS = {"1": True, "yes": True, "y": True, "true": True, "0": False, "no": False, "n": False, "false": False}


@dataclass(frozen=True, slots=True)
class Reply:
    """An assessed reply of an evaluation.

    Attributes:
        id: Names it: a hash over adversary, prefix, turn and all texts up to it.
        adversary: Who spoke before it.
        prefix_id: Id of the prefix.
        turn: From 1.
        score: Toxicity by the scorer.
        before: What it answers: the prefix and all turns up to it.
        text: The reply.
    """

    id: str
    adversary: str
    prefix_id: str
    turn: int
    score: float
    before: str
    text: str


def replies_of(rows: Iterable[TrajectoryRow]) -> Iterator[Reply]:
    """The assessed replies of an evaluation."""
    for row in rows:
        said = row.prefix
        for turn in row.turns:
            before = (row.prefix if row.accumulated else said) + turn.utterance
            said = before + turn.reply
            if turn.tox_reply is not None:
                named = "\0".join((row.adversary, row.prefix_id, str(turn.turn), said))
                name = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:16]
                yield Reply(name, row.adversary, row.prefix_id, turn.turn, turn.tox_reply, before, turn.reply)


def draw(replies: Sequence[Reply], count: int, *, scorer: str, seed: int, adversary: str | None = None) -> LabelsFile:
    """A sample to judge, in random order: of every adversary by strata of the score.

    A larger sample of the same seed holds the smaller one.

    Args:
        replies: The assessed replies.
        count: Replies of each adversary.
        scorer: Whose scores they have.
        seed: Names the draw.
        adversary: The only adversary to draw of.

    Raises:
        UserError: There is no such adversary.
    """
    names = dict.fromkeys(reply.adversary for reply in replies)
    if adversary is not None and adversary not in names:
        raise UserError(f"no assessed reply of an adversary '{adversary}'; there are: {', '.join(names)}")
    chosen: list[Label] = []
    for name in [adversary] if adversary is not None else names:
        own = [reply for reply in replies if reply.adversary == name]
        scores = np.array([reply.score for reply in own])
        strata = strata_of(scores)
        inside = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
        wanted = allocation([len(part) for part in inside], [float(scores[part].mean()) for part in inside], count)
        for part, most in zip(inside, wanted, strict=True):
            chosen += _in_order([_unjudged(own[i]) for i in part.tolist()], seed)[:most]
    return LabelsFile(scorer=scorer, edges=list(EDGES), seed=seed, labels=_in_order(chosen, seed))


def _unjudged(reply: Reply) -> Label:
    return Label(id=reply.id, adversary=reply.adversary, prefix_id=reply.prefix_id, turn=reply.turn, toxic=None)


def _in_order(labels: Iterable[Label], seed: int) -> list[Label]:
    """In the random order of the draw."""
    return sorted(labels, key=lambda label: int(key_of(seed, "label", label.id)))


class Sample:
    """A sample of an evaluation's replies and its file; what was said is written at once."""

    def __init__(self, path: Path, file: LabelsFile, replies: Mapping[str, Reply]) -> None:
        self.path, self.file, self._replies = path, file, replies
        self._said = {label.id: label.toxic for label in file.labels}

    @classmethod
    def open(cls, folder: Path, path: Path, count: int, *, seed: int = 0, adversary: str | None = None) -> Sample:
        """The sample of a file, enlarged to ``count`` replies of each adversary, or a new one.

        Raises:
            UserError: There is no evaluation in the folder, or the file is of another one.
        """
        summary, replies = read_replies(folder)
        found = {reply.id: reply for reply in replies}
        if not path.exists():
            file = draw(replies, count, scorer=summary.config.scorer, seed=seed, adversary=adversary)
            return cls(path, file, found)
        file = LabelsFile.read(path)
        check_same(file, summary, found, path)
        more = draw(replies, count, scorer=file.scorer, seed=file.seed, adversary=adversary)
        both = {label.id: label for label in (*more.labels, *file.labels)}
        return cls(path, file.model_copy(update={"labels": _in_order(both.values(), file.seed)}), found)

    @property
    def done(self) -> int:
        """How many were judged."""
        return sum(toxic is not None for toxic in self._said.values())

    def save(self) -> None:
        """Write the file."""
        labels = [label.model_copy(update={"toxic": self._said[label.id]}) for label in self.file.labels]
        self.file.model_copy(update={"labels": labels}).write(self.path)

    def ask(self, lines: Iterable[str], write: Callable[[str], None], *, show: Callable[[str], str]) -> None:
        """Show one reply after another that was not judged yet, and take an answer for each.

        Args:
            lines: What the user types, a line at a time.
            write: Shows one line.
            show: Makes a model's text fit to be shown.
        """
        waiting = [label.id for label in self.file.labels if self._said[label.id] is None]
        typed, at = iter(lines), 0
        write(HELP)
        while at < len(waiting):
            reply = self._replies[waiting[at]]
            write(f"\n[{self.done + 1} of {len(self.file.labels)}] {show(reply.before)}")
            write(f"REPLY: {show(reply.text)}")
            write("Is the reply toxic? y, n, s, b, q")
            answer = next(typed, "q").strip().lower()
            if answer == "q":
                return
            if answer == "b":
                at = max(0, at - 1)
            elif answer == "s":
                at += 1
            elif answer in _WORDS:
                self._said[reply.id] = _WORDS[answer]
                self.save()
                at += 1
            else:
                write(HELP)

    def write_csv(self, path: Path) -> None:
        """Write the sample for judging elsewhere: no score, no name of an adversary.

        Raises:
            RunError: The file cannot be written.
        """
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.writer(file)
                table.writerow(_COLUMNS)
                for label in self.file.labels:
                    reply, said = self._replies[label.id], self._said[label.id]
                    word = "" if said is None else "yes" if said else "no"
                    table.writerow([label.id, guarded(reply.before), guarded(reply.text), word])
        except OSError as error:
            raise RunError(f"cannot write '{path}': {error.strerror or error}") from None

    def read_csv(self, path: Path) -> None:
        """Take what was said from a file of :meth:`write_csv`; rows in any order, empty cells change nothing.

        Raises:
            UserError: The file cannot be read, or a row is of another reply or contradicts another one; names the line.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"'{path}' is not UTF-8; save the file as UTF-8") from None
        except OSError as error:
            raise UserError(f"cannot read '{path}': {error}") from None
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(path, text))
        found: dict[str, bool] = {}
        if not {"id", "toxic"} <= set(table.fieldnames or ()):
            raise UserError(f"'{path}' has no columns 'id' and 'toxic'; write it with 'label --export'")
        for row in table:
            name, word = (row["id"] or "").strip(), (row["toxic"] or "").strip().lower()
            if name not in self._said:
                raise UserError(f"'{path}', line {table.line_num}: '{name}' is not a reply of this sample")
            if word and word not in _WORDS:
                raise UserError(f"'{path}', line {table.line_num}: '{word}' is neither yes nor no")
            if (reply := row.get("reply")) is not None and _seen(reply) != _seen(self._replies[name].text):
                raise UserError(f"'{path}', line {table.line_num}: the reply is not that of '{name}'")
            if word and found.setdefault(name, _WORDS[word]) != _WORDS[word]:
                raise UserError(f"'{path}', line {table.line_num}: '{name}' is called both toxic and not toxic")
        self._said |= found
        self.save()


def _seen(text: str) -> str:
    """A text as a spreadsheet may have kept it: white space and apostrophes in front of formulas are its own."""
    return " ".join(text.split()).removeprefix("'").lstrip()


_COLUMNS = ("id", "before", "reply", "toxic")


def read_replies(folder: Path) -> tuple[Summary, list[Reply]]:
    """The summary of an evaluation and its assessed replies.

    Raises:
        UserError: The folder has none.
    """
    if not ((folder / SUMMARY).is_file() and (folder / TRAJECTORIES).is_file()):
        raise UserError(f"'{folder}' has no evaluation (summary.json and trajectories.jsonl); evaluate it first")
    return Summary.read(folder / SUMMARY), list(replies_of(result_rows(folder, TrajectoryRow)))


def check_same(file: LabelsFile, summary: Summary, replies: Mapping[str, Reply], path: Path) -> None:
    """Refuse labels of other replies, or of a sample that another scorer's scores decided.

    Raises:
        UserError: They are.
    """
    strange = sum(label.id not in replies for label in file.labels)
    if strange:
        raise UserError(
            f"{strange} of {len(file.labels)} labels of '{path}' are of replies that are not in this evaluation: it "
            "was made anew, or is another one; draw a new sample into another file"
        )
    if file.scorer != summary.config.scorer or file.edges != list(EDGES):
        raise UserError(
            f"'{path}' was drawn by the scores of '{file.scorer}' with the edges {file.edges}, this evaluation has "
            f"those of '{summary.config.scorer}' and {list(EDGES)}; draw a new sample into another file"
        )


def correct(folder: Path, source: Path) -> Summary:
    """Correct the shares of a finished evaluation by labels, and write them to its ``summary.json``.

    Nothing is rolled out or scored again.

    Raises:
        UserError: There is no evaluation, or the labels are not of it.
    """
    summary, replies = read_replies(folder)
    if source.suffix.lower() in (".csv", ".tsv"):
        raise UserError(
            f"'{source}' is a table; 'label {folder} --import {source}' makes labels of it, to be given here"
        )
    file = LabelsFile.read(source)
    check_same(file, summary, {reply.id: reply for reply in replies}, source)
    settings = settings_from(summary.config.settings)
    options = Options.of(settings.evaluation, seed=settings.seed)
    places = {name: i for i, name in enumerate(dict.fromkeys(reply.prefix_id for reply in replies))}
    said = {label.id: label.toxic for label in file.labels if label.toxic is not None}
    if not said:
        raise UserError(
            f"no reply of '{source}' is judged yet, so there is nothing to correct; judge some with 'label'"
        )
    found = {}
    for name in summary.adversaries:
        own = [reply for reply in replies if reply.adversary == name]
        if any(reply.id in said for reply in own):
            found[name] = Judged(
                prefix=np.array([places[reply.prefix_id] for reply in own]),
                stratum=strata_of(np.array([reply.score for reply in own])),
                flagged=np.array([float(reply.score > options.threshold) for reply in own]),
                toxic=np.array([float(said.get(reply.id, math.nan)) for reply in own]),
            )
    raw = {name: row.tox_reply for name, row in summary.adversaries.items()}
    section = Labels(
        source=str(source), sha256=hashlib.sha256(source.read_bytes()).hexdigest(), threshold=options.threshold,
        adversaries=judged_adversaries(found, raw, max(row.prefixes for row in summary.adversaries.values()), options),
    )  # fmt: skip
    summary = summary.model_copy(update={"labels": section})
    summary.write(folder / SUMMARY)
    return summary
