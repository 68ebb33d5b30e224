"""Evaluations: of tiny models, and tables of figures that are drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import measure
from astprompter.evaluation.summarise import METRICS, Measured
from helpers.tiny import PREFIXES, WordScorer

OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]
_made: dict[Any, Any] = {}


def run(
    make_lm: Any, *, trees_per_batch: int = 64, names: Any = (("untuned", 0), ("tuned", 3)), scorer: Any = None
) -> Any:
    """An evaluation, made once in a process where no ``scorer`` is given: it is always the same."""
    key = (trees_per_batch, names)
    if scorer is None and key in _made:
        return _made[key]
    settings = settings_from({"rollout": {"horizon": 3, "trees_per_batch": trees_per_batch}})
    adversaries = {name: make_lm(seed=seed) for name, seed in names}
    result = measure(adversaries, make_lm(seed=0), scorer or WordScorer(), OPENINGS, settings)
    if scorer is None:
        _made[key] = result
    return result


def pooled(seed: int, seeds: int = 2, *, shift: float = 0.0, holes: bool = True) -> Measured:
    rng = np.random.default_rng(seed)
    tables = {metric: rng.random((seeds, 9, 3)) for metric in METRICS}
    tables["nll"] = 2.0 + shift + rng.random((seeds, 9, 3))
    tables["utterance_perplexity"] = np.exp(tables["nll"])
    if holes:
        for table in tables.values():
            table[0, 4, 1] = np.nan
    row = {"distinct_1": 0.5, "vendi": None}
    prefixes = tuple(map(str, range(9)))
    return Measured(tuple(range(seeds)), prefixes, tables, (row,) * seeds, {"other": 3})
