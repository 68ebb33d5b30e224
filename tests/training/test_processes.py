"""Two processes do what one does: the same texts, the same pairs, the same updates to rounding."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base.errors import UserError
from astprompter.base.processes import from_json, is_main, join, rank, spread, sum_gradients, to_json, world
from astprompter.base.records import Node, Prefix, RolloutTree, Speech, Turn
from astprompter.config import RewardSettings
from astprompter.rollout.grow import grow_trees
from astprompter.training.checkpoint import damage
from helpers.files import read_rows
from helpers.launching import LAUNCH, alone, flat, same_checkpoints, same_rows, started_together, together, write_inputs
from helpers.tiny import PREFIXES, WordScorer, keys_for
from helpers.zygote import Zygote


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    return [*write_inputs(tmp_path_factory.mktemp("input")), "rollout.max_new_tokens=3"]


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(
    forks: Zygote, inputs: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone(monkeypatch, "train", "-o", str(one), *inputs)
    said = together(forks.start, "train", "-o", str(two), *inputs)
    assert said.count("astprompter evaluate") == 1  # one process speaks for both
    counts = [json.loads((path / "config.json").read_text())["processes"] for path in (one, two)]
    assert counts == [1, 2]
    same_rows(one / "pairs.jsonl", two / "pairs.jsonl")
    same_rows(one / "log.jsonl", two / "log.jsonl")
    same_checkpoints(one, two, inputs)
    alone(monkeypatch, "evaluate", str(two), "-o", str(one), "--top", "0")
    together(forks.start, "evaluate", str(two), "--top", "0")
    same_rows(one / "trajectories.jsonl", two / "trajectories.jsonl")
    adversaries = [json.loads((path / "summary.json").read_text())["adversaries"] for path in (one, two)]
    assert flat(adversaries[0]) == pytest.approx(flat(adversaries[1]), rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_processes_that_are_stopped_leave_a_run_that_goes_on(
    forks: Zygote, inputs: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    run = tmp_path / "run"
    log = run / "log.jsonl"
    processes = started_together(forks.start, "train", "-o", str(run), *inputs, "training.updates=12")
    processes[0].until(lambda: log.exists() and log.read_text().count('"type": "iteration"') >= 2)
    for process in processes:
        process.send(signal.SIGTERM)  # as a launcher does that is stopped
    assert all(process.wait() for process in processes)
    assert damage(run / "checkpoint") is None
    alone(monkeypatch, "train", "-o", str(run), "--resume")
    made = [row for row in read_rows(log) if row["type"] == "iteration"]
    assert [row["iteration"] for row in made] == list(range(1, len(made) + 1))
    assert made[-1]["updates"] == 12


@pytest.mark.slow
def test_a_launcher_tells_processes_what_they_join_by(forks: Zygote, tmp_path: Path) -> None:
    launcher, child = importlib.util.find_spec("accelerate.commands.launch"), tmp_path / "child.py"
    assert launcher is not None
    assert launcher.origin is not None
    child.write_text(
        "import json, os; print(json.dumps(dict(os.environ)), file=open(__file__ + os.environ['RANK'], 'w'))"
    )
    process = forks.script(Path(launcher.origin), *LAUNCH, str(child))
    assert process.wait() == 0, process.err
    for number in ("0", "1"):
        told = json.loads((tmp_path / f"child.py{number}").read_text())
        assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == (number, number, "2")
        assert {"MASTER_ADDR", "MASTER_PORT"} <= told.keys()


def test_a_launcher_that_starts_one_process_only_is_found_out(monkeypatch: Any) -> None:
    # What 'accelerate launch --cpu --num_processes 2' leaves in the environment.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="--multi_gpu --num_processes"):
        join()


def test_alone_everything_is_local(monkeypatch: Any) -> None:
    assert (rank(), world(), is_main()) == (0, 1, True)
    assert spread(int, 3, lambda mine: [i * i for i in mine]) == [0, 1, 4]
    parameter = torch.nn.Parameter(torch.ones(2))
    sum_gradients([parameter])
    assert parameter.grad is None


@pytest.mark.slow
def test_trees_travel_unchanged(make_lm: Any) -> None:
    openings = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES[:3])]
    trees = grow_trees(
        make_lm(), make_lm(seed=1), WordScorer(), openings, keys_for(3),
        horizon=2, branching=2, weights=RewardSettings(),
    )  # fmt: skip
    assert from_json(RolloutTree, to_json(RolloutTree, trees)) == trees


def test_error_turns_travel_too() -> None:
    speech, failed = Speech(" a\ud83d"), Speech("", error="remote: timeout")
    turn = Turn(speech, failed, math.nan, (), 0.0, 0.0, 0.0, math.nan, "remote: timeout")
    (tree,) = from_json(RolloutTree, to_json(RolloutTree, [RolloutTree(Prefix("p", "x"), [Node(turn, None)])]))
    got = tree.children[0]
    assert (got.turn.utterance, got.turn.reply, got.turn.error) == (speech, failed, "remote: timeout")
    assert math.isnan(got.turn.nll)
    assert got.prompt_ids is None
