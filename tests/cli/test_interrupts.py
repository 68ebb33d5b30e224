"""Signals to real processes: the run that goes on is the unbroken run, and the exit code says what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.signals import Interrupted, going_on, interruptible
from astprompter.studies import runner as module
from helpers.files import read_rows
from helpers.tiny import naming, write_models
from helpers.zygote import Zygote, zygote

SETTINGS = [
    "rollout.max_new_tokens=4", "rollout.horizon=2", "training.updates=12", "training.pairs_per_iteration=6",
    "training.batch_size=2", "training.dev_every=2", "training.dev_prefixes=4", "training.learning_rate=1e-3",
    "training.warmup_updates=1", "training.save_pairs=true", "scorer.spec=word:a", "evaluation.resamples=100",
]  # fmt: skip
FILES = ("checkpoint/policy.safetensors", "checkpoint/optimizer.safetensors", "best/model.safetensors", "trees.jsonl",
         "pairs.jsonl", "frozen.json")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def listening() -> Iterator[None]:
    """Children meet SIGINT as in a terminal, also where the tests run as a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: Any) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("forks")) as made:
        yield made


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
    assert 0 < json.loads((run / "checkpoint" / "state.json").read_text())["progression"]["updates"] < 12
    code, _, err = forks.run("train", "-o", str(run), "--resume")
    assert code == 0, err
    assert [name for name in FILES if (run / name).read_bytes() != (whole / name).read_bytes()] == []
    assert rows(log) == rows(whole / "log.jsonl")


def test_a_second_signal_leaves_at_once() -> None:
    program = (
        "import time; from astprompter.base.signals import interruptible\n"
        "with interruptible():\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('unwinding', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    with process.stdout as said:
        for expected in ("ready", "unwinding"):
            assert said.readline() == f"{expected}\n"
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM  # a shell calls it 143


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


def test_what_is_ignored_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(Interrupted) as caught, interruptible(), going_on("knock twice"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        assert (caught.value.code, caught.value.remedy) == (130, "knock twice")
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


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


# ---- experiments, with a program that pretends to train

FAKE = """
import json, pathlib, signal, sys, time, yaml
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
settings = yaml.safe_load(open(arguments[arguments.index("--preset") + 1]))["settings"]
root = next(path for path in out.parents if (path / "calls.txt").exists())
def note(*what):
    with open(root / "calls.txt", "a") as log:
        print(json.dumps([arguments[0], out.name, settings["seed"], *what]), file=log)
def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
def stop(number, frame):
    note(f"signal {number}")
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
note("resumed" if "--resume" in arguments else "begun")
if arguments[0] == "train":
    write(out / "config.json", {"settings": settings})
    write(out / "checkpoint" / "state.json", {"progression": {"updates": 3}})
    (root / "pids").mkdir(exist_ok=True)
    write(root / "pids" / f"{out.name}-{settings['seed']}", __import__("os").getpid())
    while (root / f"hold-{out.name}").exists():
        time.sleep(0.01)
    (out / "best").mkdir(exist_ok=True)
    write(out / "checkpoint" / "state.json", {"progression": {"updates": settings["training"]["updates"]}})
    write(out / "frozen.json", {"before": {}, "after": {}})
else:
    config = {"settings": settings, "targets": [arguments[1]], "prefixes": {}}
    write(out / "summary.json", {"config": config, "adversaries": {out.name: {"tox_reply": {"valid": 1}}}})
note("done")
"""
RUN = """
import sys
from pathlib import Path
from astprompter.cli import app as cli
from astprompter.studies import runner, summary
runner.PROGRAM, runner._POLL_SECONDS = (sys.executable, sys.argv.pop(1)), 0.01
summary.summarise = lambda plan, out: {"cases": {}}
cli.main()
"""


def until(met: Any, process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a process is alive."""
    deadline = time.monotonic() + 60
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Study:
    """An experiment of two seeds of one adversary in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "fake.py").write_text(FAKE)
        (folder / "run.py").write_text(RUN)
        self.plan = folder / "mine.yaml"
        self.plan.write_text("{summary: s, why: w, seeds: [0, 1], attacks: [untuned], train: {ours: {}}}")
        self.out.mkdir()
        (self.out / "calls.txt").touch()
        self.hold = self.out / "hold-ours"

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, str(self.folder / "run.py"), str(self.folder / "fake.py"), "experiment", str(self.plan),
             "--out", str(self.out), "--jobs", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def calls(self) -> list[list[Any]]:
        return read_rows(self.out / "calls.txt", torn=True)

    def count(self, *what: Any) -> int:
        return self.calls().count(list(what))

    def holding(self) -> bool:
        """Whether a training waits."""
        return (self.out / "pids").is_dir() and bool(list((self.out / "pids").iterdir()))

    def pid(self) -> int:
        return int(next((self.out / "pids").iterdir()).read_text())

    def finish(self) -> None:
        """Let everything run to its end, and check that nothing was done twice."""
        self.hold.unlink(missing_ok=True)
        process = self.start()
        process.communicate(timeout=60)
        assert process.returncode == 2  # this study has no summary
        for seed in (0, 1):
            assert self.count("train", "ours", seed, "begun") == self.count("train", "ours", seed, "done") == 1
        assert all(module.output_file(job).exists() for job in self.jobs())
        assert all(map(module.is_done, self.jobs()))

    def jobs(self) -> list[Any]:
        from astprompter.studies.jobs import jobs_of
        from astprompter.studies.plan import load_plan

        return list(jobs_of(load_plan(str(self.plan), []), self.out))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path)
    made.hold.touch()
    return made


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_experiment_passes_the_signal_on_and_waits(study: Study, number: signal.Signals, code: int) -> None:
    process = study.start()
    until(study.holding, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert err.strip().splitlines()[-1] == (
        f"interrupted by {number.name}: what is done stays; run the same command again to go on"
    )
    assert study.count("train", "ours", 0, f"signal {int(number)}") == 1
    study.finish()
    assert study.count("train", "ours", 0, "resumed") == 1


def test_a_killed_child_is_told_and_resumed(study: Study) -> None:
    process = study.start()
    until(study.holding, process)
    os.kill(study.pid(), signal.SIGKILL)
    study.hold.unlink()  # the other one may end
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    assert "jobs failed, first 'train ours" in err
    study.finish()


def test_a_killed_experiment_keeps_what_its_children_still_finish(study: Study) -> None:
    process = study.start()
    until(study.holding, process)
    process.kill()
    process.communicate()
    second = study.start()
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2
    assert "in use by another experiment" in err
    study.hold.unlink()  # the orphans go on to their end
    while True:
        again = study.start()
        _, err = again.communicate(timeout=60)
        if "in use by another experiment" not in err:
            break
    study.finish()
