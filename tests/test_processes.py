"""Two processes do what one does: the same texts, the same pairs, the same updates to rounding."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astprompter.cli import main
from astprompter.errors import UserError
from astprompter.models.lm import load_model
from astprompter.processes import decode_tree, encode_tree, is_main, join, rank, spread, sum_gradients, world
from astprompter.reward import RewardWeights
from astprompter.rollout import grow_trees
from astprompter.runlog import read_rows
from astprompter.training.checkpoint import damage
from astprompter.types import Node, Prefix, RolloutTree, Speech, Turn
from conftest import PREFIXES, WordScorer, keys_for, naming, write_models

SETTINGS = [
    "rollout.max_new_tokens=5", "rollout.horizon=2", "rollout.top_p=0.95", "training.updates=5",
    "training.pairs_per_iteration=9", "training.batch_size=3", "training.dev_every=1", "training.dev_prefixes=5",
    "training.learning_rate=1e-3", "training.warmup_updates=1", "training.save_pairs=true", "scorer.spec=word:a",
    "evaluation.resamples=100",
]  # fmt: skip
LAUNCH = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
    "--num_cpu_threads_per_process", "1", "--main_process_port", "0",
]  # fmt: skip


def alone(monkeypatch: Any, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["astprompter", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def launched(*arguments: str, by: list[str] = LAUNCH) -> str:
    """What two processes say, of ``-m astprompter ...`` or of a script."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, *by, *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_inputs(folder: Path) -> list[str]:
    """Two models and their texts; returns the settings that name them."""
    write_models(folder, adversary=0, defender=3)
    return [*naming(folder, "adversary", "defender"), *SETTINGS]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    return write_inputs(tmp_path_factory.mktemp("input"))


def flat(row: Any, name: str = "", kinds: Any = (int, float)) -> dict[str, Any]:
    """Every number (or text) below a value, by its path; times are left out."""
    if isinstance(row, dict | list):
        inner = row.items() if isinstance(row, dict) else enumerate(row)
        parts = [flat(value, f"{name}/{key}", kinds) for key, value in inner if key not in ("seconds", "rates")]
        return {key: value for part in parts for key, value in part.items()}
    return {name: row} if isinstance(row, kinds) else {}


def same_rows(path: Path, other: Path) -> None:
    """Equal texts, and numbers equal to rounding."""
    rows, others = read_rows(path), read_rows(other)
    assert [flat(row, kinds=str) for row in rows] == [flat(row, kinds=str) for row in others]
    for a, b in zip(rows, others, strict=True):
        assert flat(a) == pytest.approx(flat(b), rel=1e-4, abs=1e-3)


def same_checkpoints(one: Path, two: Path, inputs: list[str]) -> None:
    """The policy moved, to the same place, with the same moments."""
    weights, moments = (
        [load_file(path / "checkpoint" / f"{name}.safetensors") for path in (one, two)]
        for name in ("policy", "optimizer")
    )
    start = load_model(inputs[0].partition("=")[2]).state_dict()
    moved = sum(float((weights[0][name] - start[name]).norm()) for name in weights[0])
    assert moved > 0.01
    assert sum(float((weights[0][name] - weights[1][name]).norm()) for name in weights[0]) < 0.02 * moved
    assert moments[0].keys() == moments[1].keys()
    for name, first in moments[0].items():
        assert float((first - moments[1][name]).norm()) <= 1e-3 * float(first.norm()) + 1e-6, name


def test_two_processes_train_and_evaluate_as_one(inputs: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone(monkeypatch, "train", "-o", str(one), *inputs)
    said = launched("-m", "astprompter", "train", "-o", str(two), *inputs)
    assert said.count("astprompter evaluate") == 1  # one process speaks for both
    counts = [json.loads((path / "config.json").read_text())["processes"] for path in (one, two)]
    assert counts == [1, 2]
    same_rows(one / "pairs.jsonl", two / "pairs.jsonl")
    same_rows(one / "log.jsonl", two / "log.jsonl")
    same_checkpoints(one, two, inputs)
    alone(monkeypatch, "evaluate", str(two), "-o", str(one), "--top", "0")
    launched("-m", "astprompter", "evaluate", str(two), "--top", "0")
    same_rows(one / "trajectories.jsonl", two / "trajectories.jsonl")
    adversaries = [json.loads((path / "summary.json").read_text())["adversaries"] for path in (one, two)]
    assert flat(adversaries[0]) == pytest.approx(flat(adversaries[1]), rel=1e-4, abs=1e-4)


def test_processes_that_are_stopped_leave_a_run_that_goes_on(
    inputs: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    run = tmp_path / "run"
    log = run / "log.jsonl"
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *LAUNCH, "-m", "astprompter", "train", "-o", str(run), *inputs, "training.updates=30"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not log.exists() or log.read_text().count('"type": "iteration"') < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60)  # the launcher's own code
    assert damage(run / "checkpoint") is None
    alone(monkeypatch, "train", "-o", str(run), "--resume")
    made = [row for row in read_rows(log) if row["type"] == "iteration"]
    assert [row["iteration"] for row in made] == list(range(1, len(made) + 1))
    assert made[-1]["updates"] == 30


def test_a_launcher_that_starts_one_process_only_is_found_out(monkeypatch: Any) -> None:
    # What 'accelerate launch --cpu --num_processes 2' leaves in the environment.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="--multi_gpu --num_processes"):
        join()


def test_alone_everything_is_local(monkeypatch: Any) -> None:
    assert (rank(), world(), is_main()) == (0, 1, True)
    assert spread(3, lambda mine: [i * i for i in mine], str, int) == [0, 1, 4]
    parameter = torch.nn.Parameter(torch.ones(2))
    sum_gradients([parameter])
    assert parameter.grad is None


def test_trees_travel_unchanged(make_lm: Any) -> None:
    openings = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES[:3])]
    trees = grow_trees(
        make_lm(), make_lm(seed=1), WordScorer(), openings, keys_for(3),
        horizon=2, branching=2, weights=RewardWeights(),
    )  # fmt: skip
    for tree in trees:
        assert decode_tree(json.loads(json.dumps(encode_tree(tree)))) == tree


def test_error_turns_travel_too() -> None:
    speech, failed = Speech(" a\ud83d"), Speech("", error="remote: timeout")
    turn = Turn(speech, failed, math.nan, (), 0.0, 0.0, 0.0, math.nan, "remote: timeout")
    tree = decode_tree(json.loads(json.dumps(encode_tree(RolloutTree(Prefix("p", "x"), [Node(turn, None)])))))
    got = tree.children[0]
    assert (got.turn.utterance, got.turn.reply, got.turn.error) == (speech, failed, "remote: timeout")
    assert math.isnan(got.turn.nll)
    assert got.prompt_ids is None
