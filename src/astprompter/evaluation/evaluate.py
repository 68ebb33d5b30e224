"""Measure adversaries on held-out prefixes, all by one path (docs/method.md section 7)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base.formats import beginning_lost
from ..base.frames import frame
from ..base.progress import Progress, Silent
from ..base.protocols import Encoder, Scorer, Speaker
from ..base.randomness import key_of
from ..base.records import MANY, Prefix, Trajectory
from ..config import Settings
from ..rollout.distinct import Failing, failing_on
from ..rollout.diversity import diversity
from ..rollout.grow import trajectory_of
from ..rollout.reward import mean_nll, missing_utterance
from ..rollout.run import Keeper, roll_out
from ..runs.directory import FAILURES, SUMMARY, TRAJECTORIES, versions
from ..runs.schema.common import save_rows
from ..runs.schema.results import FailureRow, TrajectoryRow, by_rank
from ..runs.schema.summary import EvaluationConfig, Summary
from ..runs.schema.turns import finite, said
from .grid import as_text
from .scorers import Scores, check_names, compare_scorers, least, most, score_again, scores_of
from .statistics import Floats, Options
from .summarise import Measured, compare, figures_of, tables_of, variety_of
from .tables import of_summary
from .themes import count_strategies, strategy_of

_log = logging.getLogger(__package__)
_MISSED = {"blank": "count as harmless", "blocked": "are in no share"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        trajectories: Per adversary, one trajectory per prefix, in the order of the prefixes.
        summary: Content of ``summary.json``: every figure, as attributes (``docs/files.md``).
        defender: Who heard the utterances, and can tell their tokens.
        scores: Scores of every turn under every scorer, where there are several.
        failed: Rows of ``failures.jsonl``; see :meth:`failures`.
    """

    trajectories: dict[str, list[Trajectory]]
    summary: Summary
    defender: Speaker
    scores: Scores = field(default_factory=dict)
    failed: list[FailureRow] = field(default_factory=list)

    def table(self, width: int = 100) -> str:
        """The tables of the command line as text: all adversaries, comparisons, and scorers where there are several.

        Args:
            width: Most characters in a line; no figure is cut, what does not fit stands below.
        """
        return "\n".join(as_text(grid, width) for grid in of_summary(self.summary))

    def failures(self, adversary: str | None = None) -> list[FailureRow]:
        """Every failed trajectory at its first toxic reply, likeliest first; of all adversaries, or of one."""
        return [row for row in self.failed if adversary in (None, row.adversary)]

    def to_pandas(self) -> Any:
        """Every turn as a row of a pandas ``DataFrame``: adversary, prefix, texts, nll, toxicities, reward.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(
            {"adversary": row.adversary, "prefix_id": row.prefix_id, "prefix": row.prefix, **turn.plain()}
            for row in self.rows()
            for turn in row.turns
        )

    def rows(self) -> Iterator[TrajectoryRow]:
        """Rows of ``trajectories.jsonl``."""
        for name, paths in self.trajectories.items():
            for index, path in enumerate(paths):
                yield TrajectoryRow.of_trajectory(name, path, self.defender.pieces, scores_of(self.scores, name, index))

    def write(self, folder: Path) -> None:
        """Write ``trajectories.jsonl``, ``failures.jsonl`` and, last, ``summary.json``."""
        save_rows(folder / TRAJECTORIES, self.rows())
        save_rows(folder / FAILURES, self.failed)
        self.summary.write(folder / SUMMARY)


def measure(
    adversaries: Mapping[str, Speaker],
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    settings: Settings,
    *,
    others: Sequence[Scorer] = (),
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    keepers: Mapping[str, Keeper] | None = None,
) -> Evaluation:
    """Grow one trajectory per adversary and prefix, and compute every figure.

    All adversaries meet the same prefixes with the same random numbers, so comparisons are paired.

    Args:
        adversaries: Speakers by the name they get in every table; the first is the baseline of comparisons.
        defender: Frozen model under test.
        scorer: Toxicity R_φ.
        prefixes: Held-out prefixes.
        settings: Rollout, reward and evaluation settings, and the seed.
        others: Scorers that are reported beside the one that counts.
        encoder: What tells distinct failures apart; hashed n-grams when not given.
        progress: Where progress is shown.
        facts: Further facts for ``summary.json``'s ``config``.
        keepers: Where the conversations of each adversary outlive the process.
    """
    check_names(scorer, others)
    progress = progress or Silent()
    keys = np.array([key_of(settings.seed, "evaluation", prefix.id) for prefix in prefixes], dtype=np.uint64)
    trajectories = {}
    for name, adversary in adversaries.items():
        trees = roll_out(
            adversary, defender, scorer, prefixes, keys, settings,
            branching=1, task=f"evaluating {name}", progress=progress, keeper=(keepers or {}).get(name),
        )  # fmt: skip
        trajectories[name] = [trajectory_of(tree, accumulated=adversary.accumulates) for tree in trees]
        _tell(name, trajectories[name])
    scores = score_again(trajectories, scorer.name, others, progress)
    confirming = {name: least(scores, name) for name in trajectories} if scores else {}
    failures = _failures(trajectories, settings.evaluation.threshold, confirming)
    config = config_of(settings, defender, scorer, facts or {})
    summary, failures = summarise(trajectories, failures, settings, config, scores, encoder)
    if scores:
        blocked = [name for name, row in summary.adversaries.items() if row.reply_kinds["blocked"]]
        section = compare_scorers(scores, scorer.name, settings, blocked)
        summary = summary.model_copy(update={"scorers": section})
    return Evaluation(trajectories, summary, defender, scores, failures)


def config_of(settings: Settings, defender: Speaker, scorer: Scorer, facts: Mapping[str, Any]) -> EvaluationConfig:
    """What decides figures, for their file: settings, versions, who took part, and further facts."""
    return EvaluationConfig.of(
        {
            "settings": settings.as_dict(), "versions": versions(), "defender": defender.name, "scorer": scorer.name,
            "likelihood": defender.likelihood_source, **facts,
        }
    )  # fmt: skip


def summarise(
    trajectories: Mapping[str, Sequence[Trajectory]],
    failures: Sequence[FailureRow],
    settings: Settings,
    config: EvaluationConfig,
    scores: Scores,
    encoder: Encoder | None = None,
) -> tuple[Summary, list[FailureRow]]:
    """Content of ``summary.json``, a run being one seed, and the failures with their clusters."""
    options = Options.of(settings.evaluation, seed=settings.seed)
    measured = {name: _measured(name, paths, failures, scores, options) for name, paths in trajectories.items()}
    base, *others = measured
    found = variety_of(measured, options, encoder)
    summary = Summary(
        adversaries={name: figures_of(own, options) for name, own in measured.items()},
        comparisons=[compare(measured[name], measured[base], (name, base), options) for name in others],
        variety=found.variety,
        config=config,
    )
    number = {prefix: index for index, prefix in enumerate(measured[base].prefixes)}
    told, seen = [], set[int]()
    for row in failures:
        turn = row.adversary, number[row.prefix_id], row.turn - 1
        cluster = found.clusters[turn]
        place = [round(value, 4) for value in found.places[turn]]
        told.append(row.model_copy(update={"cluster": cluster, "representative": cluster not in seen, "place": place}))
        seen.add(cluster)
    return summary, told


def _measured(
    name: str, paths: Sequence[Trajectory], failures: Sequence[FailureRow], scores: Scores, options: Options
) -> Measured:
    """What was measured of one adversary, for its figures."""
    confirming = least(scores, name) if scores else None
    accumulated = any(path.accumulated for path in paths)
    failing: list[Failing] = []
    for row, path in enumerate(paths):
        sure = None if confirming is None else (confirming[row] > options.threshold).tolist()
        failing += failing_on(path, row, options.threshold, confirmed=sure)
    return Measured(
        seeds=(options.seed,),
        prefixes=tuple(path.prefix.id for path in paths),
        tables=tables_of([[path.turns for path in paths]]),
        diversity=(diversity(_said(paths), seed=options.seed),),
        strategies=count_strategies(failures, name),
        reply_kinds=_kinds(paths),
        prefixes_cut=_cut(paths),
        least=None if confirming is None else confirming[None],
        most=most(scores, name) if scores else None,
        accumulated=accumulated,
        failing=tuple(failing),
    )


def _kinds(paths: Sequence[Trajectory]) -> Counter[str]:
    return Counter(turn.reply.kind for path in paths for turn in path.turns)


def _cut(paths: Sequence[Trajectory]) -> int:
    return sum(path.prefix.shortened for path in paths)


def _tell(name: str, paths: Sequence[Trajectory]) -> None:
    """Say what of an adversary's measurement a reader of its shares should know."""
    kinds, cut = _kinds(paths), _cut(paths)
    for kind, how in _MISSED.items():
        if kinds[kind] > MANY * kinds.total():
            _log.warning(
                f"{name}: {kinds[kind]} of {kinds.total()} replies are {kind}; they {how}, so the shares tell little "
                "of what the defender would say"
            )
    if cut:
        _log.warning(f"{name}: {beginning_lost(cut, len(paths))}")


def _said(paths: Sequence[Trajectory]) -> list[str]:
    """What the adversary said, turn by turn; of an accumulated turn what it adds to the one before."""
    said = []
    for path in paths:
        before = ""
        for turn in path.turns:
            if missing_utterance(turn.utterance) is None:
                said.append(turn.utterance.text.removeprefix(before))
            before = turn.utterance.text if path.accumulated else ""
    return said


def _failures(
    trajectories: Mapping[str, Sequence[Trajectory]], threshold: float, confirming: Mapping[str, Floats] | None = None
) -> list[FailureRow]:
    """First failure of every failed trajectory: confirmed ones first, then by the likelihood of the path to it.

    ``path_nll`` is the defender's mean nats per token over all utterances up to and including the failing turn; where
    the likelihood of one of them is missing there is none, and the failure comes last.
    """
    rows: list[dict[str, Any]] = []
    for name, paths in trajectories.items():
        for row, path in enumerate(paths):
            for index, turn in enumerate(path.turns):
                if turn.tox_reply > threshold:
                    until = (turn,) if path.accumulated else path.turns[: index + 1]
                    told = all(math.isfinite(earlier.nll) for earlier in until)
                    logprobs = [value for earlier in until for value in earlier.token_logprobs] if told else []
                    fields = {**said(turn), "adversary": name, "prefix_id": path.prefix.id, "turn": index + 1}
                    fields["path_nll"] = finite(mean_nll(logprobs))
                    fields["strategy"] = strategy_of("\n".join(earlier.utterance.text for earlier in until))
                    if confirming:
                        fields["confirmed"] = bool(confirming[name][row, index] > threshold)
                    rows.append(fields)
                    break
    rows.sort(key=lambda row: (*by_rank(row.get("confirmed"), row["path_nll"]), row["adversary"], row["prefix_id"]))
    return [FailureRow(rank=rank, **row) for rank, row in enumerate(rows, start=1)]
