"""Trainers on tiny models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from astprompter.base.records import ElicitingText, Prefix
from astprompter.config import Settings, settings_from
from astprompter.models.local.lm import LanguageModel
from astprompter.runs.directory import LOG, RunDirectory
from astprompter.training.preference import PreferenceTrainer
from astprompter.training.state import TrainingModels
from astprompter.training.trainer import Trainer
from helpers.files import config_file
from helpers.tiny import PREFIXES, SHORT, WordScorer, make_model, probed_once

BRIEF = SHORT.changed(max_new_tokens=4)
OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]


TEXTS = [ElicitingText(text) for text in PREFIXES]


def settings(**training: Any) -> Settings:
    values: dict[str, Any] = {
        "rollout": {"horizon": 2, "max_new_tokens": 4},
        "training": {
            "updates": 9,
            "pairs_per_iteration": 12,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_updates": 2,
            "dev_every": 1,
            "dev_prefixes": 4,
            **training,
        },
    }
    return settings_from(values)


def trainer(path: Path, tokenizer: Any, chosen: Settings, *, resume: bool = False, **options: Any) -> PreferenceTrainer:
    lms = []
    for name in ("adversary", "defender"):
        model = make_model("gpt2", len(tokenizer), seed=options.get(f"{name}_seed", 0))
        with probed_once("gpt2", len(tokenizer)):
            lms.append(LanguageModel(model, tokenizer, name=name, sampling=BRIEF))
    lms[1].model.requires_grad_(False)
    same = options.get("defender_seed", 0) == 0
    reference = lms[1]
    if not same:
        frozen = copy.deepcopy(lms[0].model).requires_grad_(False)
        with probed_once("gpt2", len(tokenizer)):
            reference = LanguageModel(frozen, tokenizer, name="reference", sampling=BRIEF)
    models = TrainingModels(lms[0], reference, lms[1], options.get("scorer", WordScorer()), free_reference=same)
    run = RunDirectory.open(path) if resume else RunDirectory.create(path, config_file(chosen))
    result = PreferenceTrainer(chosen, models, OPENINGS, OPENINGS[:4], options.get("texts", TEXTS), run)
    if resume:
        result.resume()
    return result


def stable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in {"seconds", "rates"}} for row in rows]


def begun(run: Trainer[Any], *, measured: bool) -> None:
    """Take a run through its start and its first iteration to a checkpoint; ``measured``: with a dev evaluation."""
    run.measure_dev()
    run._save()
    run._log(LOG, [run.iterate()])
    if measured:
        run.measure_dev()
    run._save()
