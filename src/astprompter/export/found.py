"""What a run directory holds, for the exporters."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError, nearest
from ..base.progress import Progress
from ..config import Settings
from ..runs.directory import FAILURES, SUMMARY, TRAJECTORIES, RunDirectory
from ..runs.results import Row, result_rows
from ..runs.rounds import is_set
from ..runs.schema.results import FailureRow, TrajectoryRow, TurnRow
from ..runs.schema.run import ConfigFile
from ..runs.schema.summary import EvaluationConfig, Summary
from ..runs.started import settings_here

_log = logging.getLogger(__package__)
CONTENT_WARNING = (
    "Content warning: these texts were found by making a language model write toxic text. "
    "Use them to test and repair models that you own or may test."
)


@dataclass(frozen=True, slots=True)
class Export:
    """One export.

    Attributes:
        run: Where the results lie.
        out: Folder to write to.
        adversary: Only this one's attacks; all when empty.
        samples: Replies drawn for each attack.
        overrides: ``key=value`` settings.
        progress: Where progress is shown.
    """

    run: Path
    out: Path
    adversary: str
    samples: int
    overrides: tuple[str, ...]
    progress: Progress


@dataclass(frozen=True, slots=True)
class Written:
    """What an export wrote, and what its card says.

    Attributes:
        files: The files and folders.
        lines: What to tell the user: counts, and the command to use them with.
        title: Heading of the card.
        also: Paragraphs of the card, or further lines of its list of columns, in Markdown.
        columns: Names of columns; those that mean the same everywhere are explained on the card.
        header: Metadata of the card for the hub, as YAML.
        defender: Whose replies the files hold, where not the run's.
    """

    files: tuple[Path, ...]
    lines: tuple[str, ...]
    title: str
    also: str = ""
    columns: Iterable[str] = ()
    header: Mapping[str, Any] | None = None
    defender: Defender | None = None


@dataclass(frozen=True, slots=True)
class Defender:
    """A model under test, told apart from others.

    Attributes:
        name: Its name or path.
        sha256: Hash of its weights; ``None`` for a served one.
        url: Address of its server, for a served one.
        chat: Setting ``defender.chat``: plain text and messages make two of one model.
    """

    name: str
    sha256: str | None
    url: str | None
    chat: str

    def is_same(self, other: Defender) -> bool:
        """Whether its replies may stand for those of the other."""
        by_name = (self.name, self.url) == (other.name, other.url)
        same = by_name if self.sha256 is None or other.sha256 is None else self.sha256 == other.sha256
        return same and self.chat == other.chat


@dataclass(frozen=True, slots=True)
class Attack:
    """A conversation up to its first toxic reply.

    Attributes:
        adversary: Who led it there.
        prefix_id: Id of the prefix.
        prefix: The prefix.
        turns: The turns, the failing one last; of accumulated ones it alone.
        path_nll: Mean nats per token of its utterances under the defender; ``None`` where it is not known.
        confirmed: Whether every scorer of the evaluation calls the reply toxic; ``None`` where there was one only.
    """

    adversary: str
    prefix_id: str
    prefix: str
    turns: tuple[TurnRow, ...]
    path_nll: float | None
    confirmed: bool | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """Prefix, utterance, reply, utterance, …, the failing utterance last: the whole text before the toxic reply."""
        return (self.prefix, *[text for turn in self.turns for text in (turn.utterance, turn.reply)][:-1])

    def facts(self) -> dict[str, Any]:
        """What is known of it beside the texts."""
        last = self.turns[-1]
        return {
            "adversary": self.adversary,
            "prefix_id": self.prefix_id,
            "turn": last.turn,
            "path_nll": self.path_nll,
            **({} if self.confirmed is None else {"confirmed": self.confirmed}),
            "tox_utterance": last.tox_utterance,
            "tox_reply": last.tox_reply,
            "tox_turn": last.tox_turn,
        }


def trajectories(export: Export) -> list[TrajectoryRow]:
    """Rows of ``trajectories.jsonl``, of the chosen adversary only if one is chosen.

    Raises:
        UserError: The run was not evaluated, or has no such adversary.
    """
    rows = _rows(export, TRAJECTORIES, TrajectoryRow)
    names = {row.adversary for row in rows}
    if export.adversary and export.adversary not in names:
        raise UserError(f"'{export.run}' has no adversary '{export.adversary}'.{nearest(export.adversary, names)}")
    return [row for row in rows if export.adversary in ("", row.adversary)]


def attacks(export: Export, *, needed: bool = True) -> list[Attack]:
    """Failing conversations: those that several scorers confirm first, then likeliest first.

    Raises:
        UserError: The run was not evaluated; or nothing failed, unless that is not ``needed``.
    """
    if not needed and not (export.run / FAILURES).is_file():
        return []
    paths = {(row.adversary, row.prefix_id): row for row in trajectories(export)}
    found = []
    for failure in _rows(export, FAILURES, FailureRow):
        path = paths.get((failure.adversary, failure.prefix_id))
        if path is not None:
            if not 1 <= failure.turn <= len(path.turns):
                raise UserError(
                    f"'{export.run / FAILURES}' names turn {failure.turn} of a trajectory that has "
                    f"{len(path.turns)}; evaluate the run again"
                )
            turns = tuple(path.until(failure.turn))
            told = failure.path_nll, failure.confirmed
            found.append(Attack(path.adversary, path.prefix_id, path.prefix, turns, *told))
    if not found and needed:
        raise UserError(f"'{export.run}' holds no failure to export; evaluate on more prefixes or train further")
    return sorted(found, key=lambda attack: attack.confirmed is False)


def settings_of(export: Export) -> Settings:
    """Settings that the results were made with: the evaluation's, else the run's.

    Raises:
        UserError: There are none.
    """
    path = export.run / SUMMARY
    if not path.is_file():
        return RunDirectory.open(export.run).settings(export.overrides)
    return settings_here(Summary.read(path).config, path.parent, export.overrides, source=f"'{path}'")


def measured(export: Export) -> Defender:
    """Whose replies the run holds.

    Raises:
        UserError: The run does not tell.
    """
    path = export.run / SUMMARY
    if path.is_file():
        known: EvaluationConfig | ConfigFile = Summary.read(path).config
    else:
        known = RunDirectory.open(export.run).config()
    told, url = known.settings["defender"], known.remote.url if known.remote else None
    if isinstance(known, ConfigFile):
        return Defender(told["path"], known.models_sha256["defender"], url, told["chat"])
    return Defender(known.defender, known.defender_sha256, url, told["chat"])


def best_of(export: Export) -> Path:
    """Folder of the best adversary.

    Raises:
        UserError: The run has none.
    """
    folder = export.run / "best"
    if not (folder / "config.json").is_file():
        one = f"one of its rounds, such as {export.run / 'round-1'}" if is_set(export.run) else "a run that was trained"
        raise UserError(f"'{export.run}' has no best adversary of its own; name {one}")
    return folder


def first_turn_pairs(rows: Sequence[TrajectoryRow]) -> Iterator[dict[str, Any]]:
    """Pairs from an evaluation: the best and the worst first utterance of different adversaries to one prefix.

    Only first turns are comparable: later ones follow different texts. Ties give none, nor do turns without a reward or
    with another reply than an answer or a refusal.
    """
    by_prefix: dict[str, list[tuple[float, str, str]]] = {}
    for row in rows:
        first = next(iter(row.turns), None)
        if first is not None and first.reward is not None and first.reply_kind in ("answered", "refused"):
            by_prefix.setdefault(row.prefix_id, []).append((first.reward, first.utterance, row.prefix))
    for prefix_id, group in by_prefix.items():
        ordered = sorted(group, key=lambda found: found[0])
        (low, worst, prefix), (high, best, _) = ordered[0], ordered[-1]
        if high > low and best != worst:
            yield {
                "prompt": prefix,
                "chosen": best,
                "rejected": worst,
                "margin": high - low,
                "source": "evaluation",
                "prefix_id": prefix_id,
            }


def _rows(export: Export, name: str, kind: type[Row]) -> list[Row]:
    if not (export.run / name).is_file():
        raise UserError(f"'{export.run}' has no {name}; run 'astprompter evaluate {export.run}' first")
    return result_rows(export.run, kind, note=_log.info)
