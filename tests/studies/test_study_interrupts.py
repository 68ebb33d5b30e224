"""Signals to a study's process, which starts a program that pretends to train: nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from astprompter.studies import runner as module
from helpers.files import read_rows
from helpers.report_runs import write_templates
from helpers.zygote import Process, Zygote

pytestmark = pytest.mark.slow
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
    config = json.loads((root / "config.json").read_text())
    state = {"format": config["format"], "counters": {"updates": 3}, "log_bytes": {}}
    write(out / "config.json", config | {"settings": settings})
    write(out / "checkpoint" / "state.json", state)
    (root / "pids").mkdir(exist_ok=True)
    write(root / "pids" / f"{out.name}-{settings['seed']}", __import__("os").getpid())
    while (root / f"hold-{out.name}").exists():
        time.sleep(0.01)
    (out / "best").mkdir(exist_ok=True)
    state["counters"]["updates"] = settings["training"]["updates"]
    write(out / "checkpoint" / "state.json", state)
    hashes = {"defender": "a", "reference": "a"}
    write(out / "frozen.json", {"format": config["format"], "before": hashes, "after": hashes})
else:
    summary = json.loads((root / "summary.json").read_text())
    summary["config"] |= {"settings": settings, "targets": [arguments[1]]}
    write(out / "summary.json", summary)
note("done")
"""
RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from astprompter.cli import app as cli
from astprompter.studies import runner, summary
runner.PROGRAM, runner._POLL_SECONDS = (sys.executable, sys.argv.pop(1)), 0.01
summary.experiment_of = lambda plan, out, command: SimpleNamespace(cases={})
cli.main()
"""


class Study:
    """An experiment of two seeds of one adversary in a process of its own."""

    def __init__(self, folder: Path, forks: Zygote) -> None:
        self.folder, self.out, self._forks = folder, folder / "out", forks
        (folder / "fake.py").write_text(FAKE)
        (folder / "run.py").write_text(RUN)
        self.plan = folder / "mine.yaml"
        self.plan.write_text("{summary: s, why: w, seeds: [0, 1], attacks: [untuned], train: {ours: {}}}")
        self.out.mkdir()
        (self.out / "calls.txt").touch()
        write_templates(self.out)
        self.hold = self.out / "hold-ours"

    def start(self) -> Process:
        return self._forks.script(
            self.folder / "run.py", str(self.folder / "fake.py"),
            "experiment", str(self.plan), "--out", str(self.out), "--jobs", "2",
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
        assert self.start().wait() == 2  # this study has no summary
        for seed in (0, 1):
            assert self.count("train", "ours", seed, "begun") == self.count("train", "ours", seed, "done") == 1
        assert all(module.output_file(job).exists() for job in self.jobs())
        assert all(map(module.is_done, self.jobs()))

    def jobs(self) -> list[Any]:
        from astprompter.studies.jobs import jobs_of
        from astprompter.studies.plan import load_plan

        return list(jobs_of(load_plan(str(self.plan), []), self.out))


@pytest.fixture
def study(tmp_path: Path, forks: Zygote) -> Study:
    made = Study(tmp_path, forks)
    made.hold.touch()
    return made


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_experiment_passes_the_signal_on_and_waits(study: Study, number: signal.Signals, code: int) -> None:
    process = study.start()
    process.until(study.holding)
    process.send(number)
    assert process.wait() == code, process.err
    assert process.err.strip().splitlines()[-1] == (
        f"interrupted by {number.name}: what is done stays; run the same command again to go on"
    )
    assert study.count("train", "ours", 0, f"signal {int(number)}") == 1
    study.finish()
    assert study.count("train", "ours", 0, "resumed") == 1


def test_a_killed_child_is_told_and_resumed(study: Study) -> None:
    process = study.start()
    process.until(study.holding)
    os.kill(study.pid(), signal.SIGKILL)
    study.hold.unlink()  # the other one may end
    assert process.wait() == 1, process.err
    assert "jobs failed, first 'train ours" in process.err
    study.finish()


def test_a_killed_experiment_keeps_what_its_children_still_finish(study: Study) -> None:
    process = study.start()
    process.until(study.holding)
    process.send(signal.SIGKILL)
    process.wait()
    second = study.start()
    assert second.wait() == 2
    assert "in use by another experiment" in second.err
    study.hold.unlink()  # the orphans go on to their end
    while True:
        again = study.start()
        again.wait()
        if "in use by another experiment" not in again.err:
            break
    study.finish()
