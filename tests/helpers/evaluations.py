"""An evaluation of tiny models."""

from __future__ import annotations

from typing import Any

from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import evaluate
from helpers.tiny import PREFIXES, WordScorer

OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]


def run(
    make_lm: Any, *, trees_per_batch: int = 64, names: Any = (("untuned", 0), ("tuned", 3)), scorer: Any = None
) -> Any:
    settings = settings_from({"rollout": {"horizon": 3, "trees_per_batch": trees_per_batch}})
    adversaries = {name: make_lm(seed=seed) for name, seed in names}
    return evaluate(adversaries, make_lm(seed=0), scorer or WordScorer(), OPENINGS, settings)
