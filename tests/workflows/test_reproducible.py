"""Same seed, same machine, same bytes; and nobody's random numbers are touched on the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astprompter.config import settings_from
from astprompter.report.page import write_report
from astprompter.workflows.targets import measure_targets
from astprompter.workflows.train import new_trainer
from helpers.tiny import naming, write_models

SETTINGS = [
    "rollout.max_new_tokens=4", "rollout.horizon=2", "rollout.top_p=0.95", "training.updates=6",
    "training.pairs_per_iteration=9", "training.batch_size=3", "training.dev_prefixes=3", "training.warmup_updates=1",
    "training.save_pairs=true", "training.dev_every=1", "training.learning_rate=1e-3", "scorer.spec=word:a",
    "evaluation.resamples=200",
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("input")
    write_models(folder, model=0)
    return [*naming(folder, "model", "model"), *SETTINGS]


WHOLE = """
import json, sys
from contextlib import suppress
from pathlib import Path
from astprompter.base.files import write_rows
from astprompter.cli.app import main
for words in (["train", "-o", "run", *sys.argv[1:]], ["evaluate", "run"], ["report", "run"]):
    if words[0] == "report":  # wall seconds differ, here and in the report's figure of speed
        rows = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("seconds", None), row.pop("rates", None)
        write_rows(Path("run/log.jsonl"), rows)
    sys.argv = ["astprompter", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(inputs: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """The second one orders its sets differently."""
    contents = []
    for number in range(2):
        home = tmp_path / str(number)
        home.mkdir()
        monkeypatch.chdir(home)
        if number:
            told = os.environ | {"PYTHONHASHSEED": "2", "COLUMNS": "200"}
            subprocess.run([sys.executable, "-c", WHOLE, *inputs], env=told, check=True)  # noqa: S603
        else:
            monkeypatch.setattr(sys, "argv", ["-c", *inputs])
            exec(compile(WHOLE, "whole", "exec"), {})  # noqa: S102
        contents.append({str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()})
    assert contents[0].keys() == contents[1].keys()
    assert "run/report.html" in contents[0]
    differ = [name for name, content in contents[0].items() if contents[1][name] != content]
    # A checkpoint keeps the length of the log, seconds included.
    assert {Path(name).name for name in differ} <= {"state.json", "manifest.json"}
    states = [json.loads(content["run/checkpoint/state.json"])["counters"] for content in contents]
    assert states[0] == states[1]


def world() -> dict[str, Any]:
    """What a library shares with the program that uses it."""
    kind, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),  # type: ignore[union-attr]
        "torch": torch.get_rng_state().tolist(),
        "torch settings": (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        ),
        "numpy settings": np.geterr(),
        "environment": dict(os.environ),
        "path": list(sys.path),
    }


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["adversary.lora_rank=2"], ["training.objective=sft"]])
def test_no_global_state_is_touched(inputs: list[str], tmp_path: Path, more: list[str]) -> None:
    if more and "lora" in more[0]:
        pytest.importorskip("peft")
    chosen = settings_from({}, [*inputs, *more])
    random.seed(1)
    before = world()
    trainer = new_trainer(chosen, tmp_path / "run", resume=False)
    trainer.run()
    measure_targets([str(tmp_path / "run")], [], preset="embedded", out=None)
    write_report([tmp_path / "run"])
    after = world()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.slow
def test_other_peoples_random_numbers_change_nothing(inputs: list[str], tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        trainer = new_trainer(settings_from({}, inputs), tmp_path / str(number), resume=False)
        trainer.run()
        rows.append([(tmp_path / str(number) / name).read_bytes()
                     for name in ("pairs.jsonl", "trees.jsonl", "checkpoint/policy.safetensors")])  # fmt: skip
    assert rows[0] == rows[1]
