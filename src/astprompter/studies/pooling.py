"""Pool the measurements of one adversary over seeds.

Two sources of chance are kept apart. *Prefixes*: intervals come from a bootstrap that draws prefixes, each with its
turns under all seeds, since these belong together. *Seeds* (training and sampling): too few to resample, so every
figure also comes for each seed, with the standard deviation over seeds. An interval therefore says how far the figure
would move with other prefixes, the spread how far with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.errors import UserError
from ..base.records import FAILURE_THRESHOLD
from ..base.strict_json import read_object
from ..config import EvaluationSettings
from ..evaluation.statistics import above, overall, paired_difference, replies_by_utterance
from ..evaluation.themes import STRATEGIES
from ..runs.directory import FAILURES, SUMMARY, TRAJECTORIES, read_rows
from ..runs.schema import DiverseFile

Floats = npt.NDArray[np.float64]
METRICS = ("nll", "utterance_perplexity", "tox_reply", "tox_turn", "tox_utterance")
"""As in ``summary.json``, and exp(nll) of each utterance, whose spread the paper reports."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """What all seeds measured of one adversary.

    Attributes:
        seeds: The seeds, in the order of the first axis.
        prefixes: Ids of the prefixes, in the order of the second axis.
        tables: Values of each metric, [seeds, prefixes, turns]; ``nan`` for turns in error.
        diversity: ``diversity`` of each seed's summary.
        strategies: Failures by strategy, all seeds together.
        inputs: Hashes of the prefixes and of the defender; empty where not known (a served defender has none).
        likelihood: Whose likelihood every nll is.
    """

    seeds: tuple[int, ...]
    prefixes: tuple[str, ...]
    tables: Mapping[str, Floats]
    diversity: tuple[Mapping[str, float | None], ...]
    strategies: Mapping[str, int]
    inputs: tuple[str, str] = ("", "")
    likelihood: str = "defender"


def pool(folders: Mapping[int, Path]) -> Pooled:
    """Read the measurements of one adversary, one folder per seed.

    Raises:
        UserError: A file is damaged, or the seeds were measured on different prefixes or defenders.
    """
    values: list[dict[str, list[list[float]]]] = []
    prefixes: list[tuple[str, ...]] = []
    diversity, inputs = [], []
    strategies = dict.fromkeys(STRATEGIES, 0)
    for folder in folders.values():
        rows = read_rows(folder / TRAJECTORIES)
        prefixes.append(tuple(row["prefix_id"] for row in rows))
        values.append({metric: [[_value(turn, metric) for turn in row["turns"]] for row in rows] for metric in METRICS})
        summary = read_object(folder / SUMMARY, DiverseFile)
        (found,) = summary["adversaries"].values()
        diversity.append(found["diversity"])
        config = summary["config"]
        inputs.append((config["prefixes"].get("sha256", ""), config.get("defender_sha256") or ""))
        for failure in read_rows(folder / FAILURES):
            strategies[failure["strategy"]] += 1
    if len(set(prefixes)) > 1 or not all(_same(inputs[0], other) for other in inputs):
        place = folders[min(folders)].parent.parent
        raise UserError(f"'{place}': the seeds were measured on different prefixes or defenders; measure them again")
    tables = {metric: np.array([table[metric] for table in values], dtype=np.float64) for metric in METRICS}
    likelihood = config.get("likelihood", "defender")
    return Pooled(tuple(folders), prefixes[0], tables, tuple(diversity), strategies, inputs[0], likelihood)


def _value(turn: Mapping[str, Any], metric: str) -> float:
    if turn["error"] is not None:
        return math.nan
    return math.exp(turn["nll"]) if metric == "utterance_perplexity" else float(turn[metric])


def figures(pooled: Pooled, options: EvaluationSettings) -> dict[str, Any]:
    """All figures of one adversary, for ``experiment.json``."""
    row: dict[str, Any] = {metric: _metric(pooled, table, options) for metric, table in pooled.tables.items()}
    mean = row["nll"]["mean"]
    row["nll"]["perplexity"] = None if mean is None else math.exp(mean)
    row["failure_within_horizon"] = _failures(pooled, options)
    row["replies_by_utterance"] = replies_by_utterance(
        _by_prefix(pooled.tables["tox_reply"]), _by_prefix(pooled.tables["tox_utterance"]),
        seed=0, resamples=options.resamples, level=options.level,
    )  # fmt: skip
    row["diversity"] = {
        name: _mean([seed[name] for seed in pooled.diversity])
        for name in (pooled.diversity[0] if pooled.diversity else ())
    }
    row["strategies"] = dict(pooled.strategies)
    row["prefixes"], row["seeds"] = len(pooled.prefixes), list(pooled.seeds)
    row["errors"] = int(np.isnan(pooled.tables["nll"]).sum())
    return row


def compare(a: Pooled, b: Pooled, names: tuple[str, str], options: EvaluationSettings) -> dict[str, Any]:
    """Differences a − b over the seeds of both, paired on prefixes, for ``experiment.json``.

    Raises:
        UserError: The two were measured on different prefixes or defenders.
        ValueError: They have no seed in common.
    """
    if a.prefixes != b.prefixes or not _same(a.inputs, b.inputs):
        raise UserError(
            f"'{names[0]}' and '{names[1]}' were measured on different prefixes or defenders; measure them again"
        )
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    if not seeds:
        raise ValueError(f"'{names[0]}' and '{names[1]}' have no seed in common")
    row: dict[str, Any] = {"a": names[0], "b": names[1], "seeds": seeds, "by_seed": [{"seed": seed} for seed in seeds]}
    chosen: dict[str, Any] = {"seed": 0, "resamples": options.resamples, "level": options.level}
    for metric in METRICS:
        one, other = (of.tables[metric][[of.seeds.index(seed) for seed in seeds]] for of in (a, b))
        found = paired_difference(_by_prefix(one), _by_prefix(other), **chosen).to_json()
        row[metric] = found["mean"]
        for place, own in enumerate(row["by_seed"]):
            own[metric] = _difference(one[place], other[place])
        if metric.startswith("tox_"):
            key = f"{metric}_share_above_0.5"
            row[key] = found["share_above_0.5"]
            for place, own in enumerate(row["by_seed"]):
                own[key] = _difference(above(one[place]), above(other[place]))
    difference = row["nll"]["difference"]
    row["perplexity_change"] = None if difference is None else math.expm1(difference)
    return row


def _same(a: tuple[str, str], b: tuple[str, str]) -> bool:
    return all(x == y or not (x and y) for x, y in zip(a, b, strict=True))


def _metric(pooled: Pooled, table: Floats, options: EvaluationSettings) -> dict[str, Any]:
    def of(values: Floats) -> dict[str, Any]:
        return overall(values, seed=0, resamples=options.resamples, level=options.level).to_json()

    row = of(_by_prefix(table))
    row["per_turn"] = [of(table[:, :, turn].T) for turn in range(table.shape[2])]
    seeds = []
    for seed, values in zip(pooled.seeds, table, strict=True):
        valid = values[~np.isnan(values)]
        seeds.append(
            {
                "seed": seed,
                "mean": float(valid.mean()) if valid.size else None,
                "std": float(valid.std(ddof=1)) if valid.size > 1 else None,
                "share_above_0.5": float((valid > FAILURE_THRESHOLD).mean()) if valid.size else None,
            }
        )
    row["by_seed"] = seeds
    row["seed_std"] = {key: _std([seed[key] for seed in seeds]) for key in ("mean", "share_above_0.5")}
    return row


def _failures(pooled: Pooled, options: EvaluationSettings) -> dict[str, Any]:
    """Share of conversations with a failure; unassessed are those where a turn in error hides the answer."""
    toxicity = pooled.tables["tox_reply"]
    failed = np.any(toxicity > FAILURE_THRESHOLD, axis=2)  # nan compares false
    assessed = failed | ~np.any(np.isnan(toxicity), axis=2)
    flags = np.where(assessed, failed.astype(np.float64), np.nan)
    found = overall(flags.T, seed=0, resamples=options.resamples, level=options.level)
    shares = [float(row[~np.isnan(row)].mean()) if (~np.isnan(row)).any() else None for row in flags]
    return {
        "share": found.mean.value,
        "ci95": None if found.mean.ci is None else list(found.mean.ci),
        "failed": int(failed.sum()),
        "assessed": int(assessed.sum()),
        "unassessed": int((~assessed).sum()),
        "by_seed": [{"seed": seed, "share": share} for seed, share in zip(pooled.seeds, shares, strict=True)],
        "seed_std": _std(shares),
    }


def _difference(a: Floats, b: Floats) -> float | None:
    """Difference of the means of what is valid."""
    parts = [values[~np.isnan(values)] for values in (a, b)]
    return float(parts[0].mean() - parts[1].mean()) if all(part.size for part in parts) else None


def _by_prefix(table: Floats) -> Floats:
    """[seeds, prefixes, turns] -> [prefixes, seeds · turns]: what one prefix gave under all seeds is one cluster."""
    return table.transpose(1, 0, 2).reshape(table.shape[1], -1)


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _std(values: Sequence[float | None]) -> float | None:
    """Standard deviation over seeds (n − 1); ``None`` below two."""
    found = [value for value in values if value is not None]
    return float(np.std(found, ddof=1)) if len(found) > 1 else None
