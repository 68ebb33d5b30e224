"""Signals to real processes: the run that goes on is the unbroken run, and the exit code says what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.files import read_rows
from helpers.tiny import naming, write_models
from helpers.zygote import Zygote

pytestmark = pytest.mark.slow
SETTINGS = [
    "rollout.max_new_tokens=3", "rollout.horizon=2", "training.updates=8", "training.pairs_per_iteration=4",
    "training.batch_size=2", "training.dev_every=2", "training.dev_prefixes=4", "training.learning_rate=1e-3",
    "training.warmup_updates=1", "training.save_pairs=true", "scorer.spec=word:a", "evaluation.resamples=100",
]  # fmt: skip
FILES = ("checkpoint/policy.safetensors", "checkpoint/optimizer.safetensors", "best/model.safetensors", "trees.jsonl",
         "pairs.jsonl", "frozen.json")  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("input")
    write_models(folder, model=0)
    return [*naming(folder, "model", "model"), *SETTINGS]


@pytest.fixture(scope="module")
def whole(forks: Zygote, inputs: list[str], tmp_path_factory: Any) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = forks.run("train", "-o", str(run), *inputs)
    assert code == 0, err
    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in {"seconds", "rates"}} for row in read_rows(path)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_goes_on_as_if_unbroken(
    forks: Zygote, inputs: list[str], whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    log = run / "log.jsonl"
    process = forks.start("train", "-o", str(run), *inputs)
    process.until(lambda: log.exists() and log.read_text().count('"type": "iteration"') >= 2)
    process.send(number)
    assert process.wait() == code, process.err
    last = process.err.strip().splitlines()[-1]
    assert last.startswith(f"interrupted by {number.name}: ")
    assert last.endswith(f"go on with 'astprompter train --out {run} --resume'")
    assert "Traceback" not in process.err
    assert 0 < json.loads((run / "checkpoint" / "state.json").read_text())["counters"]["updates"] < 8
    code, _, err = forks.run("train", "-o", str(run), "--resume")
    assert code == 0, err
    assert [name for name in FILES if (run / name).read_bytes() != (whole / name).read_bytes()] == []
    assert rows(log) == rows(whole / "log.jsonl")


def test_a_reader_that_was_interrupted_too_is_no_error() -> None:
    program = (
        "import os, signal, sys, time; from astprompter.cli import app as cli\n"
        "@cli.app.command()\n"
        "def stop():\n"
        "    print('unread'); sys.stdin.read(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
        "sys.argv = ['astprompter', 'stop']; cli.main()\n"
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert err == b"interrupted by SIGTERM: run the command again\n"


SLOW = """
import os, pathlib, time
def score(texts):
    pathlib.Path(os.environ["REACHED"]).touch()
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("evaluate", signal.SIGTERM, 143), ("data prepare", signal.SIGINT, 130), ("play", signal.SIGINT, 130)],
)
def test_other_commands_say_so_too(
    forks: Zygote, inputs: list[str], whole: Path, tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    """In the middle of somebody else's code: a scorer, or the wait for a key."""
    os.mkfifo(tmp_path / "keys")
    typist = os.open(tmp_path / "keys", os.O_RDWR)  # nothing is typed, and the end never comes
    (tmp_path / "slow.py").write_text(SLOW)
    reached, slow = tmp_path / "reached", "scorer.spec=python:slow:score"
    texts = next(value for value in inputs if value.startswith("data.test=")).partition("=")[2]
    arguments = {
        "evaluate": [str(whole), "-o", str(tmp_path / "results"), slow],
        "data prepare": [texts, "--as", "prefixes", "--name", "mine", slow],
        "play": [str(whole)],
    }
    process = forks.start(
        *command.split(), *arguments[command], stdin=str(tmp_path / "keys"),
        PYTHONPATH=str(tmp_path), REACHED=str(reached), ASTPROMPTER_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    process.until(lambda: reached.exists() or "prefix:" in process.out)
    process.send(number)
    assert process.wait() == code, process.err
    os.close(typist)
    assert process.err.strip().splitlines()[-1] == f"interrupted by {number.name}: run the command again"
    assert "Traceback" not in process.err
    assert not (tmp_path / "results").exists()
    assert not list(tmp_path.rglob("cache/**/*.jsonl"))


def test_a_run_that_stopped_before_its_first_checkpoint_begins_again(
    forks: Zygote, inputs: list[str], whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = forks.start("train", "-o", str(run), *inputs)
    process.until((run / "config.json").exists)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for name in ("checkpoint", "checkpoint.old", "checkpoint.tmp"):  # should the kill have been slower
        shutil.rmtree(run / name, ignore_errors=True)
    dev = next(line for line in (whole / "log.jsonl").read_text().splitlines(keepends=True))
    (run / "log.jsonl").write_text(dev + dev[:20])
    code, out, err = forks.run("train", "-o", str(run), "--resume")
    assert code == 0, err
    assert "it begins again" in out
    assert rows(run / "log.jsonl") == rows(whole / "log.jsonl")
