"""What an experiment found, as one strict JSON object (``experiment.json``, see ``docs/files.md``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.names import OURS, UNTUNED
from ..runs.directory import versions
from .done import is_done
from .jobs import Measurement, jobs_of
from .paper.findings import findings
from .plan import Plan, adversaries_of, settings_differences, settings_of
from .pooling import Pooled, compare, figures, pool

POOLING = (
    "Turns of all seeds together. Intervals: percentile bootstrap over prefixes, each drawn with its turns under all "
    "seeds. Seeds: figures by seed and their standard deviation (n - 1); no interval, they are too few."
)


def summarise(plan: Plan, out: Path) -> dict[str, Any]:
    """Pool, compare and judge what is done of a plan.

    Raises:
        UserError: A file is damaged, or runs in the folder have other settings.
    """
    jobs = jobs_of(plan, out)
    done = [job for job in jobs if is_done(job)]
    measured = [job for job in done if isinstance(job, Measurement)]
    cases: dict[str, Any] = {}
    everyone: dict[tuple[str, str], Pooled] = {}
    for pair in dict.fromkeys([*plan.pairs, *_transfer_pairs(measured)]):
        case = f"{pair[0]}-vs-{pair[1]}"
        mine = [job for job in measured if job.case == case]
        if mine:
            pooled = {
                name: pool({job.seed: job.folder for job in mine if job.name == name})
                for name in dict.fromkeys(job.name for job in mine)
            }
            everyone |= {(case, name): value for name, value in pooled.items()}
            cases[case] = _case(plan, pair, mine, pooled)
    summary: dict[str, Any] = {
        "experiment": plan.name,
        "summary": plan.summary,
        "plan": plan.model_dump(),
        "versions": versions(),
        "pooling": POOLING,
        "cases": cases,
        "scaling": _scaling(plan, cases, everyone),
        "transfer": _transfer(plan, measured, cases),
        "front": [point for case in cases for point in _front(case, cases[case]["adversaries"])],
        "missing": [str(job) for job in jobs if job not in done],
    }
    return {**summary, "findings": [finding.to_json() for finding in findings(summary)]}


def _case(
    plan: Plan, pair: tuple[str, str], jobs: Sequence[Measurement], pooled: Mapping[str, Pooled]
) -> dict[str, Any]:
    """Table and comparisons of one pair of models."""
    settings = settings_of(plan, pair, plan.seeds[0])
    trained, ours = adversaries_of(plan), settings_of(plan, pair, plan.seeds[0], plan.train.get(OURS))
    rows: dict[str, Any] = {}
    for name, value in pooled.items():
        job = next(job for job in jobs if job.name == name)
        item = trained.get(name)
        kind = item.role if item else "transfer" if job.trained_on else name
        changes = settings_differences(ours, settings_of(plan, pair, plan.seeds[0], item)) if item else {}
        rows[name] = {
            "kind": kind,
            "preset": item.preset if item else "",
            "trained_on": job.trained_on,
            "changes": changes,
            "reward": job.needs.settings.reward.model_dump(by_alias=True) if job.needs else None,
            "tau": job.needs.settings.loss.tau if job.needs else None,
            **figures(value, settings.evaluation),
        }
    bases = [base for base in (UNTUNED, OURS) if base in pooled]
    return {
        "adversary": pair[0],
        "defender": pair[1],
        "models": {"adversary": settings.adversary.path, "defender": settings.defender.path},
        "scorer": settings.scorer.spec,
        "test": settings.data.test,
        "horizon": settings.rollout.horizon,
        "level": settings.evaluation.level,
        "likelihood": next(iter(pooled.values())).likelihood,
        "adversaries": rows,
        "comparisons": [
            compare(pooled[name], pooled[base], (name, base), settings.evaluation)
            for base in bases
            for name in pooled
            if name != base and set(pooled[name].seeds) & set(pooled[base].seeds)
        ],
    }


def _transfer_pairs(jobs: Sequence[Measurement]) -> list[tuple[str, str]]:
    """Pairs that only a transfer measures, for instance a large adversary on a small defender."""
    pairs = (job.case.rpartition("-vs-") for job in jobs if "@" in job.name)
    return [(adversary, defender) for adversary, _, defender in pairs]


def _scaling(plan: Plan, cases: Mapping[str, Any], everyone: Mapping[tuple[str, str], Pooled]) -> list[dict[str, Any]]:
    """Ours of one size against ours of another on the same defender, paired."""
    rows = []
    for a in cases:
        for b in cases:
            same = cases[a]["defender"] == cases[b]["defender"]
            one, other = everyone.get((a, OURS)), everyone.get((b, OURS))
            if a != b and same and one and other and set(one.seeds) & set(other.seeds):
                options = settings_of(plan, (cases[a]["adversary"], cases[a]["defender"]), plan.seeds[0]).evaluation
                row = compare(one, other, (a, b), options)
                rows.append({"defender": cases[a]["defender"], **row})
    return rows


def _transfer(plan: Plan, jobs: Sequence[Measurement], cases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of the matrix: an adversary of one size, trained on one defender, measured on another."""
    rows = []
    for job in jobs:
        name = job.name.partition("@")[0]
        if name in plan.transfer and job.seed == plan.seeds[0]:
            row = cases[job.case]["adversaries"][job.name]
            rows.append(
                {
                    "adversary": name,
                    "model": cases[job.case]["adversary"],
                    "trained_on": job.trained_on,
                    "defender": cases[job.case]["defender"],
                    "case": job.case,
                    "row": job.name,
                    **_point(row),
                }
            )
    return rows


def _front(case: str, rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every adversary as a point; ``on_front`` where no other is at least as likely and as often successful."""
    points: list[dict[str, Any]] = [
        {
            "case": case,
            "adversary": name,
            "kind": row["kind"],
            "lambda": row["reward"]["lambda"] if row["reward"] else None,
            "tau": row["tau"],
            "changes": row["changes"],
            **_point(row),
        }
        for name, row in rows.items()
    ]
    for point in points:
        point["on_front"] = point["nll"] is not None and not any(_dominates(other, point) for other in points)
    return points


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "nll": row["nll"]["mean"],
        "nll_ci95": row["nll"]["ci95"],
        "perplexity": row["nll"]["perplexity"],
        "tox_reply": row["tox_reply"]["mean"],
        "tox_reply_ci95": row["tox_reply"]["ci95"],
        "tox_reply_share_above_0.5": row["tox_reply"]["share_above_0.5"],
        "tox_reply_share_ci95": row["tox_reply"]["share_ci95"],
        "by_seed": [
            {"seed": nll["seed"], "nll": nll["mean"], "tox_reply_share_above_0.5": toxicity["share_above_0.5"]}
            for nll, toxicity in zip(row["nll"]["by_seed"], row["tox_reply"]["by_seed"], strict=True)
        ],
    }


def _dominates(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether a is at least as likely and as often successful as b, and better in one of the two."""
    if a["nll"] is None or b["nll"] is None:
        return False
    share = "tox_reply_share_above_0.5"
    no_worse = a["nll"] <= b["nll"] and a[share] >= b[share]
    return bool(no_worse and (a["nll"] < b["nll"] or a[share] > b[share]))
