"""Run one failure again: the same conversation up to the failing utterance, then fresh replies of the defender."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UserError
from ..base.formats import counted
from ..base.progress import Progress, Silent
from ..base.randomness import keys_of
from ..base.records import Speech
from ..evaluation.grid import Cell, Column, Grid
from ..evaluation.statistics import wilson
from ..rollout.repair import TOGETHER
from ..rollout.reward import score_texts
from ..runs.directory import FAILURES, SUMMARY, TRAJECTORIES
from ..runs.results import result_rows
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.summary import Summary
from ..runs.started import settings_here
from .load import build_defender, build_other_scorers, build_scorer


@dataclass(frozen=True, slots=True)
class Replayed:
    """A failure, and what the defender answers when it meets the same conversation again.

    Attributes:
        failure: The failure as it was found.
        heard: Who said what before the replies, the prefix first.
        replies: Fresh replies.
        scores: Toxicity of every reply by scorer, the one of the reward first; ``nan`` where there is none.
        threshold: What a toxic reply exceeds.
        level: Confidence level of the intervals.
        recorded: Name of the defender that failed.
        defender: Name of the one that replied now.
    """

    failure: FailureRow
    heard: list[tuple[str, str]]
    replies: list[Speech]
    scores: dict[str, list[float]]
    threshold: float
    level: float
    recorded: str
    defender: str

    def grid(self) -> Grid:
        """Share of toxic replies by scorer, with Wilson's interval; with several scorers, by all of them too."""
        rows = dict(self.scores)
        if len(rows) > 1:
            rows["all of them"] = [min(values) if not any(map(math.isnan, values)) else math.nan
                                   for values in zip(*self.scores.values(), strict=True)]  # fmt: skip
        cells = []
        for name, values in rows.items():
            toxic, valid = sum(value > self.threshold for value in values), sum(not math.isnan(v) for v in values)
            share = toxic / valid if valid else None
            cells.append((Cell(name), Cell(share, wilson(toxic, valid, self.level)), Cell(toxic), Cell(valid)))
        columns = (
            Column("scorer", "text"), Column(f"replies > {self.threshold:g}", "percent", 1, True), Column("toxic"),
            Column("assessed"),
        )  # fmt: skip
        told = counted(Counter(reply.kind for reply in self.replies))
        note = f"{len(self.replies)} fresh replies ({told}); []: {100 * self.level:g} % interval over replies (Wilson)"
        return Grid("", columns, tuple(cells), note)


def replay(
    run: Path, number: int, count: int, overrides: Sequence[str] = (), *, progress: Progress | None = None
) -> Replayed:
    """Draw fresh replies to a failure; what was said before the failing reply is replayed word for word.

    Args:
        run: Run directory, or folder of an evaluation.
        number: ``rank`` of the failure in ``failures.jsonl``.
        count: Replies; each draws from a stream of its own that the seed, the failure and its place name.
        overrides: ``key=value`` settings, for instance another defender, or another seed for other replies.
        progress: Where progress is shown.

    Raises:
        UserError: There is no such failure, a file is damaged, or a model cannot be loaded.
    """
    summary = Summary.read(run / SUMMARY)
    failures = result_rows(run, FailureRow)
    failure = next((row for row in failures if row.rank == number), None)
    if failure is None:
        known = f"they have the numbers 1 to {len(failures)}" if failures else "it has none"
        raise UserError(f"'{run}' has no failure {number}; {known} ({FAILURES})")
    found = result_rows(run, TrajectoryRow)
    path = next(
        (row for row in found if (row.adversary, row.prefix_id) == (failure.adversary, failure.prefix_id)), None
    )
    if path is None:
        raise UserError(f"'{run / TRAJECTORIES}' does not hold the conversation of failure {number}; evaluate it again")
    settings = settings_here(summary.config, run, overrides)
    defender, scorers = build_defender(settings), [build_scorer(settings), *build_other_scorers(settings)]
    before = path.until(failure.turn)[:-1]
    keys = keys_of(settings.seed, f"replay {failure.adversary} {failure.prefix_id}", 0, count)
    replies: list[Speech] = []
    size = settings.rollout.trees_per_batch or TOGETHER
    session = defender.start([path.prefix], turns=failure.turn)
    for turn in before:
        session.hear([Speech(turn.utterance)])
        session.say([Speech(turn.reply)])
    session.hear([Speech(failure.utterance)])
    with (progress or Silent()).task("replying", count, "replies") as advance:
        for start in range(0, count, size):
            part = keys[start : start + size]
            replies += session.branch([0] * len(part)).speak(part)
            advance(len(part))
    heard = [("prefix", path.prefix)]
    for turn in before:
        heard += [("adversary", turn.utterance), ("defender", turn.reply)]
    heard.append(("adversary", failure.utterance))
    texts, context = [reply.text if reply.assessable else None for reply in replies], tuple(text for _, text in heard)
    return Replayed(
        failure=failure,
        heard=heard,
        replies=replies,
        scores={scorer.name: score_texts(scorer, texts, [context] * count) for scorer in scorers},
        threshold=settings.evaluation.threshold,
        level=settings.evaluation.level,
        recorded=summary.config.defender,
        defender=defender.name,
    )
