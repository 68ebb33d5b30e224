"""Keep failures as a suite, and test a model with it: the user's turns again, with fresh replies."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import get_args

import numpy as np

from ..base.errors import UserError
from ..base.files import check_writable
from ..base.progress import Progress
from ..base.protocols import Scorer, Speaker
from ..config import Settings, dotted
from ..evaluation.evaluate import config_of
from ..evaluation.statistics import Estimate, Options, of_share, overall
from ..rollout.repair import case_of
from ..runs.directory import REPAIR, SUMMARY, TRAJECTORIES
from ..runs.results import result_rows
from ..runs.schema.repair import RepairFile
from ..runs.schema.results import FailureRow, TrajectoryRow
from ..runs.schema.suite import Case, CaseResult, Outcome, RetestFile, Samples, SuiteFile, Totals
from ..runs.schema.summary import EvaluationConfig, Summary
from ..runs.started import settings_here, started_in
from .cases import Sampled, learnt_from, sample
from .load import build_defender, build_other_scorers, build_scorer

_log = logging.getLogger(__package__)
SUITE = "suite.json"
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_JUDGING = {
    "evaluation.threshold", *(f"scorer.{key}" for key in ("label", "activation", "revision", "context", "instruction")),
    *(f"scorer.{key}" for key in ("safe_token", "unsafe_token", "answer_prefix")),
}  # fmt: skip


def make_suite(
    runs: Sequence[Path],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    samples: int = 20,
    every: bool = False,
    repaired_by: Sequence[Path] = (),
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
        repaired_by: Repairs; cases that they learnt from are marked.
        progress: Where progress is shown.

    Raises:
        UserError: A run was not evaluated, or on another defender; nothing failed; or the defender is not the one that
            failed.
    """
    if (out / SUITE).exists():
        raise UserError(f"'{out}' already holds a suite; choose another --out")
    check_writable(out / SUITE)
    for run in runs:
        if (run / REPAIR).is_file() and not (run / SUMMARY).is_file():
            place = run / RepairFile.read(run / REPAIR).defenders[0].folder
            raise UserError(f"'{run}' holds a repair; name one of its evaluations, such as '{place}'")
    first = Summary.read(runs[0] / SUMMARY).config
    for run in runs[1:]:
        other = Summary.read(run / SUMMARY).config
        if not first.measured_on(other.defender, other.defender_sha256):
            raise UserError(f"'{run}' was measured on '{other.defender}', not on '{first.defender}'; make two suites")
    drafts = {draft.case: draft for run in runs for draft in _cases_of(run, every=every)}
    if not drafts:
        raise UserError(f"{', '.join(map(str, runs))}: no failure to keep; evaluate on more prefixes or train further")
    settings = settings_here(first, runs[0], overrides)
    defender, scorers = build_defender(settings), [build_scorer(settings), *build_other_scorers(settings)]
    cases = list(drafts.values())
    if not first.measured_on(defender.name, defender.weights_sha256()):
        raise UserError(
            f"the failures were found on '{first.defender}', and '{defender.name}' now has other weights or another "
            "name; make the suite with the model that failed, and test others with it: astprompter retest"
        )
    learnt = learnt_from(repaired_by)
    found = sample(cases, defender, scorers, settings, samples, progress=progress)
    suite = SuiteFile(
        config=_config(settings, defender, scorers[0], out), runs=list(map(str, runs)), samples=samples,
        cases=[
            case.model_copy(update={"at_first": one.samples, "trained_on": _is_known(case, learnt)})
            for case, one in zip(cases, found, strict=True)
        ],
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
        yield Case(
            case=case_of(path.prefix, utterances), prefix=path.prefix, utterances=utterances, found_reply=row.reply,
            adversary=row.adversary, run=str(run), rank=row.rank, confirmed=row.confirmed, cluster=row.cluster,
            at_first=none,
        )  # fmt: skip


def retest(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    samples: int | None = None,
    against: Path | None = None,
    repaired_by: Sequence[Path] = (),
    progress: Progress | None = None,
) -> RetestFile:
    """Test a defender with a suite: every case's user side again, with fresh replies.

    Args:
        folder: The suite.
        overrides: ``key=value`` settings, above all ``defender.path``.
        samples: Samples of each case; the suite's number when not given.
        against: A file of an earlier test to compare with; what the suite knows when not given.
        repaired_by: Repairs; cases that they learnt from are counted apart, also those of the repair whose ``best`` is
            tested.
        progress: Where progress is shown.

    Raises:
        UserError: There is no suite, the earlier test is of another one, or other scorers or another threshold judged.
    """
    suite = SuiteFile.read(folder / SUITE)
    settings = settings_here(suite.config, folder, overrides)
    earlier = None if against is None else RetestFile.read(against)
    before = before_of(suite, earlier)
    _mind_judges(settings, settings_here((earlier or suite).config, folder))
    defender, scorers = build_defender(settings), [build_scorer(settings), *build_other_scorers(settings)]
    count, learnt = samples or suite.samples, learnt_from(repaired_by, settings.defender.path)
    found = sample(suite.cases, defender, scorers, settings, count, progress=progress)
    results = [
        _result(case, one, before[case.case]).model_copy(update={"trained_on": _is_known(case, learnt)})
        for case, one in zip(suite.cases, found, strict=True)
    ]
    return _retested(
        suite, results, settings, _config(settings, defender, scorers[0], folder), count,
        "the suite" if against is None else str(against),
    )  # fmt: skip


def compare(folder: Path, later: Path, earlier: Path) -> RetestFile:
    """A finished test against an earlier one: nothing is drawn.

    Raises:
        UserError: One of them is of another suite, or other scorers or another threshold judged.
    """
    suite, done, before = SuiteFile.read(folder / SUITE), RetestFile.read(later), RetestFile.read(earlier)
    shares = before_of(suite, before)
    before_of(suite, done)
    settings = settings_here(done.config, folder)
    _mind_judges(settings, settings_here(before.config, folder))
    results = [
        row.model_copy(update={"outcome": _outcome(row, shares[row.case]), "before": shares[row.case]})
        for row in done.cases
    ]
    return _retested(suite, results, settings, done.config, done.samples, str(earlier))


def before_of(suite: SuiteFile, earlier: RetestFile | None) -> dict[str, float | None]:
    """Share of the samples of every case that failed before; ``None`` where that is not known.

    Raises:
        UserError: The earlier test is of another suite.
    """
    if earlier is None:
        return {case.case: case.at_first.known for case in suite.cases}
    found = {row.case: row.known for row in earlier.cases}
    if earlier.suite_sha256 != _hash(suite) or found.keys() != {case.case for case in suite.cases}:
        raise UserError("the earlier test is of another suite; name one of this suite")
    return found


def _mind_judges(settings: Settings, before: Settings) -> None:
    """Refuse to compare what other scorers, or another threshold, called a failure.

    Raises:
        UserError: They differ; names the settings.
    """
    now, then = _judging(settings), _judging(before)
    if differ := [f"{key} {then[key]!r} before, {now[key]!r} now" for key in now if now[key] != then[key]]:
        raise UserError(
            f"what failed before was judged otherwise ({'; '.join(differ)}), so it would not tell of the model; leave "
            "these settings out, or make another suite with them"
        )


def _judging(settings: Settings) -> dict[str, object]:
    """Settings that decide whether a reply is a failure; a function goes by its name, wherever it is imported from."""
    flat = {key: value for key, value in dotted(settings.as_dict()).items() if key in _JUDGING}
    flat["evaluation.scorers"] = list(map(_function, settings.evaluation.scorers))
    return flat | {"scorer.spec": _function(settings.scorer.spec)}


def _function(spec: str) -> str:
    return f"python:{spec.rpartition('/')[2]}" if spec.startswith("python:") and "/" in spec else spec


def _is_known(case: Case, learnt: Set[str]) -> bool:
    """Whether a repair knows a case: learnt from it, or from another conversation after the same prefix."""
    return case.trained_on or not learnt.isdisjoint({case.case, case_of(case.prefix, ())})


def _result(case: Case, found: Sampled, before: float | None) -> CaseResult:
    score, reply = found.worst or (None, None)
    return CaseResult(
        **dict(found.samples), case=case.case, outcome=_outcome(found.samples, before), before=before,
        worst_reply=reply, worst_score=score,
    )  # fmt: skip


def _outcome(now: Samples, before: float | None) -> Outcome:
    """What became of a case; where nothing is known of before, one that fails is not new: it is in the suite."""
    if now.known is None:
        return "unassessed"
    if now.failed:
        return "newly failing" if before == 0 else "still failing"
    return "fixed" if before else "passing"


def _retested(
    suite: SuiteFile, results: Sequence[CaseResult], settings: Settings, config: EvaluationConfig, samples: int,
    against: str,
) -> RetestFile:  # fmt: skip
    trained = {case.case for case in suite.cases if case.trained_on} | {row.case for row in results if row.trained_on}
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
        for values in ([row.known for row in results], [row.before for row in results])
    )
    found, change = (overall(values, options, shares=False) for values in (now, now - before))
    share = of_share(Estimate(found.mean, found.ci), found.valid, options)
    counts = Counter(row.outcome for row in results)
    return Totals(
        cases=len(results), outcomes={name: counts[name] for name in OUTCOMES},
        share=share.value, ci=_wide(share.ci), difference=change.mean, difference_ci=_wide(change.ci),
    )  # fmt: skip


def _wide(ci: list[float] | None) -> list[float] | None:
    """An interval; none where resampling found no spread."""
    return ci if ci and ci[0] < ci[1] else None


def _config(settings: Settings, defender: Speaker, scorer: Scorer, folder: Path) -> EvaluationConfig:
    about = {"started_in": started_in(folder), "defender_sha256": defender.weights_sha256(), **defender.facts()}
    return config_of(settings, defender, scorer, about)


def _hash(suite: SuiteFile) -> str:
    return hashlib.sha256(" ".join(sorted(case.case for case in suite.cases)).encode()).hexdigest()
