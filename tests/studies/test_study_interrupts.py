"""Signals to a study's process, which starts a program that pretends to train: nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from astprompter.studies import runner as module
from helpers import pretending
from helpers.files import read_rows
from helpers.report_runs import write_templates
from helpers.zygote import Process, Zygote

pytestmark = pytest.mark.slow
RUN = """
import sys
from types import SimpleNamespace
from astprompter.cli import app as cli
from astprompter.studies import runner, summary
summary.experiment_of = lambda *given: SimpleNamespace(cases={})
runner.PROGRAM, runner._POLL_SECONDS = (sys.executable, sys.argv.pop(1)), 0.01
cli.main()
"""


class Study:
    """An experiment of two seeds of one adversary in a process of its own."""

    def __init__(self, folder: Path, forks: Zygote) -> None:
        self.folder, self.out, self._forks = folder, folder / "out", forks
        write_templates(folder)
        (folder / "run.py").write_text(RUN)
        self.plan = folder / "mine.yaml"
        self.plan.write_text("{summary: s, why: w, seeds: [0, 1], attacks: [untuned], train: {ours: {}}}")
        self.out.mkdir()
        (self.out / "calls.txt").touch()
        self.hold = self.out / "hold-ours-0"

    def start(self) -> Process:
        return self._forks.script(
            self.folder / "run.py", pretending.__file__,
            "experiment", str(self.plan), "--out", str(self.out), "--jobs", "2",
        )  # fmt: skip

    def calls(self) -> list[list[Any]]:
        return read_rows(self.out / "calls.txt", torn=True)

    def count(self, *what: Any) -> int:
        return self.calls().count(list(what))

    def holding(self) -> bool:
        """Whether the training of the first seed waits."""
        return (self.out / "pids" / "ours-0").exists()

    def pid(self) -> int:
        return int((self.out / "pids" / "ours-0").read_text())

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
