"""The command line called in this process, on tiny models."""

from __future__ import annotations

import sys
from typing import Any

from astprompter.cli.app import main

SMALL = [
    "rollout.max_new_tokens=5", "rollout.horizon=2", "training.updates=4", "training.pairs_per_iteration=6",
    "training.batch_size=3", "training.dev_every=1", "training.dev_prefixes=4", "training.learning_rate=1e-3",
    "training.warmup_updates=1", "scorer.spec=word:a", "evaluation.resamples=100",
]  # fmt: skip


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    sys.argv = ["astprompter", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def settings(files: dict[str, str], **changes: str) -> list[str]:
    values = {
        "adversary.path": files["model"],
        "defender.path": files["model"],
        **{f"data.{name}": files["prefixes.jsonl"] for name in ("train", "dev", "test", "eliciting")},
        **changes,
    }
    return [f"{key}={value}" for key, value in values.items()] + SMALL
