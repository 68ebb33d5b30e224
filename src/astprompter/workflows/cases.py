"""What suites count: samples of a case, led by its user's side again and again, and which cases a repair knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.progress import Progress, Silent
from ..base.protocols import Context, Scorer, Speaker
from ..base.randomness import derive, key_of
from ..base.records import Keys, Speech
from ..config import Settings
from ..evaluation.statistics import wilson
from ..rollout.grow import in_step
from ..rollout.repair import TOGETHER
from ..rollout.reward import score_texts
from ..runs.directory import CONFIG, REPAIR, RunDirectory
from ..runs.schema.repair import RepairFile
from ..runs.schema.suite import Case, Samples

_log = logging.getLogger(__package__)


def learnt_from(repairs: Sequence[Path], defender: str = "") -> set[str]:
    """Names of the conversations, and of their openings, that repairs learnt from, and those before them.

    Args:
        repairs: Run directories of ``astprompter harden``.
        defender: A model; where it is the ``best`` of a repair, that one counts too.

    Raises:
        UserError: One is no repair.
    """
    found = set[str]()
    own = RunDirectory(Path(defender).parent)
    made = Path(defender).name == own.best.name and (own.path / CONFIG).is_file() and own.repairs()
    for folder in [*map(_repair_in, repairs), *([own.path] if made else [])]:
        run = RunDirectory.open(folder)
        if not run.repairs():
            raise UserError(f"'{folder}' is not a repair; name a folder that 'astprompter harden' wrote")
        found |= {name for row in run.attacks() for name in (row.case, row.opening)}
        found |= learnt_from([], _began_with(run))
    return found


def _repair_in(folder: Path) -> Path:
    """A repair; of the rounds of one, the repair that is kept.

    Raises:
        UserError: No round is kept.
    """
    if not (folder / REPAIR).is_file():
        return folder
    if (kept := RepairFile.read(folder / REPAIR).kept) is None:
        raise UserError(f"'{folder}' holds no round that is kept; name the one that you test, such as its hardened-1")
    return (folder / kept).parent


def _began_with(run: RunDirectory) -> str:
    """The defender that a repair began with; rounds that were moved lie side by side still."""
    path = Path(run.settings().defender.path)
    if path.name != run.best.name or path.is_dir():
        return str(path)
    if (beside := run.path.parent / path.parent.name / path.name).is_dir():
        return str(beside)
    _log.warning(
        f"'{path}', which '{run.path}' began with, is not there: if it was a repair itself, cases that it learnt from "
        "are not told; name its folder with --repaired-by"
    )
    return str(path)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Samples of a case, and the most toxic reply among them."""

    samples: Samples
    worst: tuple[float, str] | None


def sample(
    cases: Sequence[Case],
    defender: Speaker,
    scorers: Sequence[Scorer],
    settings: Settings,
    samples: int,
    *,
    progress: Progress | None = None,
) -> list[Sampled]:
    """Lead the user's side of every case ``samples`` times; the replies, all of them fresh, are the defender's own.

    Args:
        cases: The cases.
        defender: Replies.
        scorers: A reply is toxic where all of them call it so.
        settings: Seed, threshold and confidence level.
        samples: Samples of each case; each draws from a stream of its own.
        progress: Where progress is shown.
    """
    drawn: list[list[tuple[np.ndarray, list[str]]]] = [[] for _ in cases]
    pairs = [(i, number) for i in range(len(cases)) for number in range(samples)]
    with (progress or Silent()).task("replying", len(pairs), "conversations") as advance:
        size = settings.rollout.trees_per_batch or TOGETHER
        for part in in_step([len(cases[i].utterances) for i, _ in pairs], size):
            rows = [pairs[place] for place in part]
            keys = np.array([key_of(settings.seed, "suite", cases[i].case, number) for i, number in rows], np.uint64)
            scores, texts = _led([cases[i] for i, _ in rows], keys, defender, scorers)
            for (i, _), *one in zip(rows, scores, texts, strict=True):
                drawn[i].append((one[0], one[1]))
            advance(len(rows))
    return [_sampled(np.stack([row for row, _ in own]), [texts for _, texts in own], settings) for own in drawn]


def _led(
    rows: Sequence[Case], keys: Keys, defender: Speaker, scorers: Sequence[Scorer]
) -> tuple[np.ndarray, list[list[str]]]:
    """Toxicity of every reply, the least of all scorers, [rows, turns], ``nan`` without one; and the replies."""
    turns = len(rows[0].utterances)
    session = defender.start([row.prefix for row in rows], turns=turns)
    said: list[Context] = [(row.prefix,) for row in rows]
    scores, texts = np.full((len(rows), turns), np.nan), [[""] * turns for _ in rows]
    for turn in range(turns):
        session.hear([Speech(row.utterances[turn]) for row in rows])
        replies = session.speak(derive(keys, turn))
        said = [(*before, row.utterances[turn]) for before, row in zip(said, rows, strict=True)]
        known = [reply.text if reply.assessable else None for reply in replies]
        scores[:, turn] = np.min([score_texts(scorer, known, said) for scorer in scorers], axis=0)
        for own, reply in zip(texts, replies, strict=True):
            own[turn] = reply.text
        said = [(*before, reply.text) for before, reply in zip(said, replies, strict=True)]
    return scores, texts


def _sampled(scores: np.ndarray, texts: Sequence[Sequence[str]], settings: Settings) -> Sampled:
    threshold, level = settings.evaluation.threshold, settings.evaluation.level
    failed = (scores > threshold).any(axis=1)
    assessed = int((failed | ~np.isnan(scores).any(axis=1)).sum())
    count, ci = int(failed.sum()), wilson(int(failed.sum()), assessed, level)
    toxic = [(float(value), texts[row][turn]) for (row, turn), value in np.ndenumerate(scores) if value > threshold]
    share = count / assessed if assessed else None
    samples = Samples(failed=count, assessed=assessed, drawn=len(scores), share=share, ci=ci and list(ci))
    return Sampled(samples, max(toxic, default=None))
