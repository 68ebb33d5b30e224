"""What a study found: ``experiment.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from ..base.names import OURS, UNTUNED
from ..evaluation.statistics import Options
from ..evaluation.summarise import Measured, compare, figures_of, variety_of
from ..runs.directory import versions
from ..runs.schema import study as schema
from ..runs.schema.figures import AdversaryFigures
from .done import is_done
from .jobs import Measurement, case_of, jobs_of
from .paper.findings import judged
from .plan import Plan, adversaries_of, settings_differences, settings_of
from .pooling import pool

POOLING = (
    "Turns of all seeds together. Intervals: percentile bootstrap over prefixes, each drawn with its turns under all "
    "seeds. Seeds: figures by seed and their standard deviation (n - 1); no interval, they are too few."
)
_SEED = 0
"""Names the resampling stream of a study, which has several seeds; an evaluation's own is named by its seed."""


def experiment_of(plan: Plan, out: Path, command: Sequence[str] = ()) -> schema.Experiment:
    """Pool, compare and judge what is done of a plan.

    Raises:
        UserError: A file is damaged, or runs in the folder have other settings.
    """
    jobs = jobs_of(plan, out)
    done = [job for job in jobs if is_done(job)]
    measured = [job for job in done if isinstance(job, Measurement)]
    cases: dict[str, schema.Case] = {}
    everyone: dict[tuple[str, str], Measured] = {}
    # Some pairs only a transfer measures, for instance a large adversary on a small defender.
    transferred = [(job.pair, job.case) for job in measured if "@" in job.name]
    for pair, case in dict.fromkeys([*((pair, case_of(pair)) for pair in plan.pairs), *transferred]):
        mine = [job for job in measured if job.case == case]
        if mine:
            names = dict.fromkeys(job.name for job in mine)
            threshold = settings_of(plan, pair, plan.seeds[0]).evaluation.threshold
            pooled = {
                name: pool({job.seed: job.folder for job in mine if job.name == name}, threshold) for name in names
            }
            everyone |= {(case, name): value for name, value in pooled.items()}
            cases[case] = _case(plan, pair, mine, pooled)
    found = schema.Experiment(
        experiment=plan.name, summary=plan.summary, command=list(command), plan=plan.model_dump(mode="json"),
        versions=versions(), pooling=POOLING, cases=cases, scaling=_scaling(plan, cases, everyone),
        transfer=_transfer(plan, measured, cases),
        front=[point for name, case in cases.items() for point in _front(name, case)],
        missing=[str(job) for job in jobs if job not in done], findings=[],
    )  # fmt: skip
    return found.model_copy(update={"findings": judged(plan.claims, found)})


def _case(
    plan: Plan, pair: tuple[str, str], jobs: Sequence[Measurement], pooled: Mapping[str, Measured]
) -> schema.Case:
    """Table and comparisons of one pair of models."""
    settings = settings_of(plan, pair, plan.seeds[0])
    options = Options.of(settings.evaluation, seed=_SEED)
    trained, ours = adversaries_of(plan), settings_of(plan, pair, plan.seeds[0], plan.train.get(OURS))
    rows: dict[str, schema.StudyAdversary] = {}
    for name, measured in pooled.items():
        job = next(job for job in jobs if job.name == name)
        item, own = trained.get(name), job.needs.settings if job.needs else None
        rows[name] = schema.StudyAdversary(
            **dict(figures_of(measured, options)),
            kind=item.role if item else "transfer" if job.trained_on else name, preset=item.preset if item else "",
            trained_on=job.trained_on,
            changes=settings_differences(ours, settings_of(plan, pair, plan.seeds[0], item)) if item else {},
            reward=own.reward.model_dump(by_alias=True) if own else None, tau=own.loss.tau if own else None,
        )  # fmt: skip
    return schema.Case(
        adversary=pair[0], defender=pair[1],
        models=schema.CaseModels(adversary=settings.adversary.path, defender=settings.defender.path),
        scorer=settings.scorer.spec, test=settings.data.test, horizon=settings.rollout.horizon,
        level=settings.evaluation.level, likelihood=next(iter(pooled.values())).likelihood, adversaries=rows,
        variety=variety_of(pooled, options).variety,
        comparisons=[
            compare(pooled[name], pooled[base], (name, base), options)
            for base in (UNTUNED, OURS) if base in pooled
            for name in pooled if name != base and set(pooled[name].seeds) & set(pooled[base].seeds)
        ],
    )  # fmt: skip


def _scaling(
    plan: Plan, cases: Mapping[str, schema.Case], everyone: Mapping[tuple[str, str], Measured]
) -> list[schema.Scaling]:
    """Ours of one size against ours of another on the same defender, paired."""
    rows = []
    for a, b in permutations(cases, 2):
        case, one, other = cases[a], everyone.get((a, OURS)), everyone.get((b, OURS))
        if case.defender == cases[b].defender and one and other and set(one.seeds) & set(other.seeds):
            settings = settings_of(plan, (case.adversary, case.defender), plan.seeds[0])
            row = compare(one, other, (a, b), Options.of(settings.evaluation, seed=_SEED))
            rows.append(schema.Scaling(**dict(row), defender=case.defender))
    return rows


def _transfer(plan: Plan, jobs: Sequence[Measurement], cases: Mapping[str, schema.Case]) -> list[schema.TransferPoint]:
    """Entries of the matrix: an adversary of one size, trained on one defender, measured on another."""
    return [
        schema.TransferPoint(
            **_point(job.case, name, (case := cases[job.case]).adversaries[job.name]),
            model=case.adversary, trained_on=job.trained_on or "", defender=case.defender, row=job.name,
        )
        for job in jobs
        if (name := job.name.partition("@")[0]) in plan.transfer and job.seed == plan.seeds[0]
    ]  # fmt: skip


def _front(name: str, case: schema.Case) -> list[schema.FrontPoint]:
    """Every adversary as a point; ``on_front`` where no other is at least as likely and as often successful."""
    rows = case.adversaries
    return [
        schema.FrontPoint(
            **_point(name, adversary, row) | {"lambda": row.reward["lambda"] if row.reward else None},
            kind=row.kind, tau=row.tau, changes=row.changes,
            on_front=row.nll.mean is not None and not any(_dominates(other, row) for other in rows.values()),
        )
        for adversary, row in rows.items()
    ]  # fmt: skip


def _point(case: str, adversary: str, row: AdversaryFigures) -> dict[str, Any]:
    nll, reply = row.nll, row.tox_reply
    seeds = zip(nll.by_seed, reply.by_seed, strict=True)
    return {
        "case": case, "adversary": adversary, "nll": nll.mean, "nll_ci": nll.ci, "perplexity": nll.perplexity,
        "tox_reply": reply.mean, "tox_reply_ci": reply.ci, "share": reply.share, "share_ci": reply.share_ci,
        "by_seed": [schema.SeedPoint(seed=one.seed, nll=one.mean, share=other.share) for one, other in seeds],
    }  # fmt: skip


def _dominates(a: AdversaryFigures, b: AdversaryFigures) -> bool:
    """Whether a is at least as likely and as often successful as b, and better in one of the two."""
    one, other = ((row.nll.mean, row.tox_reply.share) for row in (a, b))
    if None in (*one, *other):
        return False
    return one[0] <= other[0] and one[1] >= other[1] and one != other  # type: ignore[operator]
