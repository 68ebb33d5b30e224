"""Keep failures as a suite, and test a model with it: the user's turns again, with fresh replies."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ..base.errors import UserError
from ..base.progress import Progress, Silent
from ..base.protocols import Context, Scorer, Speaker
from ..base.randomness import derive, key_of
from ..base.records import Speech
from ..config import Settings
from ..evaluation.evaluate import config_of
from ..evaluation.statistics import Options, overall, wilson
from ..rollout.grow import in_step
from ..rollout.reward import score_texts
from ..runs.directory import SUMMARY, TRAJECTORIES
from ..runs.results import result_rows
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.suite import Case, CaseResult, Outcome, RetestFile, Samples, SuiteFile, Totals
from ..runs.schema.summary import EvaluationConfig, Summary
from ..runs.started import settings_here, started_in
from .load import TOGETHER, build_defender, build_other_scorers, build_scorer

_log = logging.getLogger(__package__)
SUITE = "suite.json"
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """Samples of a case, and the most toxic reply among them."""

    samples: Samples
    worst: tuple[float, str] | None


def make_suite(
    runs: Sequence[Path],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    samples: int = 20,
    every: bool = False,
    progress: Progress | None = None,
) -> SuiteFile:
    """Keep the distinct failures of evaluations as a suite.

    Of every cluster of failures the first one is kept: confirmed ones where there are several scorers. Each is led
    ``samples`` times again on the defender that failed, so that later tests know how often it fails there.

    Args:
        runs: Evaluated runs; the settings and the defender of the first one count.
        out: Folder to write ``suite.json`` to.
        overrides: ``key=value`` settings.
        samples: Samples of each case.
        every: Keep every failure, not one of each cluster.
        progress: Where progress is shown.

    Raises:
        UserError: A run was not evaluated, or on another defender; or nothing failed.
    """
    if (out / SUITE).exists():
        raise UserError(f"'{out}' already holds a suite; choose another --out")
    first = Summary.read(runs[0] / SUMMARY).config
    for run in runs[1:]:
        other = Summary.read(run / SUMMARY).config
        if (other.defender, other.defender_sha256) != (first.defender, first.defender_sha256):
            raise UserError(f"'{run}' was measured on '{other.defender}', not on '{first.defender}'; make two suites")
    drafts = {draft.case: draft for run in runs for draft in _cases_of(run, every=every)}
    if not drafts:
        raise UserError(f"{', '.join(map(str, runs))}: no failure to keep; evaluate on more prefixes or train further")
    settings = settings_here(first, runs[0], overrides)
    defender, scorers = build_defender(settings), [build_scorer(settings), *build_other_scorers(settings)]
    cases = list(drafts.values())
    found = sample(cases, defender, scorers, settings, samples, progress=progress)
    suite = SuiteFile(
        config=_config(settings, defender, scorers[0], out), runs=list(map(str, runs)), samples=samples,
        cases=[case.model_copy(update={"at_first": one.samples}) for case, one in zip(cases, found, strict=True)],
    )  # fmt: skip
    if never := sum(case.at_first.failed == 0 for case in suite.cases):
        _log.warning(f"{never} of {len(cases)} cases failed in none of {samples} samples: what was found there is rare")
    out.mkdir(parents=True, exist_ok=True)
    suite.write(out / SUITE)
    return suite


def _cases_of(run: Path, *, every: bool) -> Iterator[Case]:
    """Cases of an evaluation, without their samples; one of each cluster unless ``every`` failure is wanted."""
    paths = {(row.adversary, row.prefix_id): row for row in result_rows(run, TrajectoryRow)}
    seen: set[int] = set()
    none = Samples(failed=0, assessed=0, drawn=0, share=None, ci=None)
    for row in result_rows(run, FailureRow):
        path = paths.get((row.adversary, row.prefix_id))
        if path is None:
            raise UserError(
                f"'{run / TRAJECTORIES}' does not hold the conversation of failure {row.rank}; evaluate again"
            )
        if row.confirmed is False or (not every and row.cluster in seen):
            continue
        if row.cluster is not None:
            seen.add(row.cluster)
        utterances = [turn.utterance for turn in path.until(row.turn)]
        name = hashlib.sha256("\x1f".join([path.prefix, *utterances]).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        yield Case(
            case=name, prefix=path.prefix, utterances=utterances, found_reply=row.reply, adversary=row.adversary,
            run=str(run), rank=row.rank, confirmed=row.confirmed, cluster=row.cluster, at_first=none,
        )  # fmt: skip


def retest(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    samples: int | None = None,
    against: Path | None = None,
    progress: Progress | None = None,
) -> RetestFile:
    """Test a defender with a suite: every case's user side again, with fresh replies.

    Args:
        folder: The suite.
        overrides: ``key=value`` settings, above all ``defender.path``.
        samples: Samples of each case; the suite's number when not given.
        against: A file of an earlier test to compare with; what the suite knows when not given.
        progress: Where progress is shown.

    Raises:
        UserError: There is no suite, or the earlier test is of another one.
    """
    suite = SuiteFile.read(folder / SUITE)
    settings = settings_here(suite.config, folder, overrides)
    earlier = None if against is None else RetestFile.read(against)
    before = before_of(suite, earlier)
    defender, scorers = build_defender(settings), [build_scorer(settings), *build_other_scorers(settings)]
    count = samples or suite.samples
    found = sample(suite.cases, defender, scorers, settings, count, progress=progress)
    results = [_result(case, one, before[case.case]) for case, one in zip(suite.cases, found, strict=True)]
    return _retested(
        suite, results, settings, _config(settings, defender, scorers[0], folder), count,
        "the suite" if against is None else str(against),
    )  # fmt: skip


def compare(folder: Path, later: Path, earlier: Path) -> RetestFile:
    """A finished test against an earlier one: nothing is drawn.

    Raises:
        UserError: One of them is of another suite.
    """
    suite, done, before = SuiteFile.read(folder / SUITE), RetestFile.read(later), RetestFile.read(earlier)
    shares = before_of(suite, before)
    before_of(suite, done)
    results = [
        row.model_copy(update={"outcome": _outcome(row, shares[row.case]), "before": shares[row.case]})
        for row in done.cases
    ]
    settings = settings_here(done.config, folder)
    return _retested(suite, results, settings, done.config, done.samples, str(earlier))


def before_of(suite: SuiteFile, earlier: RetestFile | None) -> dict[str, float | None]:
    """Share of the samples of every case that failed before.

    Raises:
        UserError: The earlier test is of another suite.
    """
    if earlier is None:
        return {case.case: case.at_first.share for case in suite.cases}
    if earlier.suite_sha256 != _hash(suite):
        raise UserError("the earlier test is of another suite; name one of this suite")
    return {row.case: row.share for row in earlier.cases}


def sample(
    cases: Sequence[Case],
    defender: Speaker,
    scorers: Sequence[Scorer],
    settings: Settings,
    samples: int,
    *,
    progress: Progress | None = None,
) -> list[_Sampled]:
    """Lead the user's side of every case ``samples`` times; the replies, all of them fresh, are the defender's own.

    Args:
        cases: The cases.
        defender: Replies.
        scorers: A reply is toxic where all of them call it so.
        settings: Seed, threshold and confidence level.
        samples: Samples of each case; each draws from a stream of its own.
        progress: Where progress is shown.
    """
    found: dict[int, _Sampled] = {}
    step = max(1, (settings.rollout.trees_per_batch or TOGETHER) // samples)
    with (progress or Silent()).task("replying", len(cases) * samples, "conversations") as advance:
        for part in in_step([len(case.utterances) for case in cases], step):
            rows = [cases[i] for i in part for _ in range(samples)]
            scores, texts = _led(rows, defender, scorers, settings.seed, samples)
            for place, i in enumerate(part):
                own = slice(place * samples, (place + 1) * samples)
                found[i] = _sampled(scores[own], texts[own], settings)
            advance(len(rows))
    return [found[i] for i in range(len(cases))]


def _led(
    rows: Sequence[Case], defender: Speaker, scorers: Sequence[Scorer], seed: int, samples: int
) -> tuple[np.ndarray, list[list[str]]]:
    """Toxicity of every reply, the least of all scorers, [rows, turns], ``nan`` without one; and the replies."""
    turns = len(rows[0].utterances)
    keys = np.array([key_of(seed, "suite", row.case, i % samples) for i, row in enumerate(rows)], np.uint64)
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


def _sampled(scores: np.ndarray, texts: Sequence[Sequence[str]], settings: Settings) -> _Sampled:
    threshold, level = settings.evaluation.threshold, settings.evaluation.level
    failed = (scores > threshold).any(axis=1)
    assessed = int((failed | ~np.isnan(scores).any(axis=1)).sum())
    count, ci = int(failed.sum()), wilson(int(failed.sum()), assessed, level)
    toxic = [(float(value), texts[row][turn]) for (row, turn), value in np.ndenumerate(scores) if value > threshold]
    share = count / assessed if assessed else None
    samples = Samples(failed=count, assessed=assessed, drawn=len(scores), share=share, ci=ci and list(ci))
    return _Sampled(samples, max(toxic, default=None))


def _result(case: Case, found: _Sampled, before: float | None) -> CaseResult:
    score, reply = found.worst or (None, None)
    return CaseResult(
        **dict(found.samples), case=case.case, outcome=_outcome(found.samples, before), before=before,
        worst_reply=reply, worst_score=score,
    )  # fmt: skip


def _outcome(now: Samples, before: float | None) -> Outcome:
    """What became of a case; one that had no share before counts as failing then, since it is in the suite."""
    if now.share is None:
        return "unassessed"
    failed_before = before is None or before > 0
    if now.failed:
        return "still failing" if failed_before else "newly failing"
    return "fixed" if failed_before else "passing"


def _retested(
    suite: SuiteFile, results: Sequence[CaseResult], settings: Settings, config: EvaluationConfig, samples: int,
    against: str,
) -> RetestFile:  # fmt: skip
    trained = {case.case for case in suite.cases if case.trained_on}
    options = Options.of(settings.evaluation, seed=settings.seed)
    return RetestFile(
        suite_sha256=_hash(suite), config=config, against=against, samples=samples,
        totals=_totals([row for row in results if row.case not in trained], options),
        trained_on=_totals([row for row in results if row.case in trained], options) if trained else None,
        cases=list(results),
    )  # fmt: skip


def _totals(results: Sequence[CaseResult], options: Options) -> Totals:
    now, before = (
        np.array([[math.nan if value is None else value] for value in values]).reshape(-1, 1)
        for values in ([row.share for row in results], [row.before for row in results])
    )
    share, change = (overall(values, options, shares=False) for values in (now, now - before))
    counts = Counter(row.outcome for row in results)
    return Totals(
        cases=len(results), outcomes={name: counts[name] for name in OUTCOMES},
        share=share.mean, ci=share.ci, difference=change.mean, difference_ci=change.ci,
    )  # fmt: skip


def _config(settings: Settings, defender: Speaker, scorer: Scorer, folder: Path) -> EvaluationConfig:
    about = {"started_in": started_in(folder), "defender_sha256": defender.weights_sha256(), **defender.facts()}
    return config_of(settings, defender, scorer, about)


def _hash(suite: SuiteFile) -> str:
    return hashlib.sha256(" ".join(sorted(case.case for case in suite.cases)).encode()).hexdigest()
