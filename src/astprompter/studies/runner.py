"""Run what a plan still misses: trainings and measurements as processes of their own, several at once.

Every job is a plain ``astprompter train`` or ``astprompter evaluate`` that a user could type; its output stands beside
its folder as ``NAME.txt``, its settings as ``NAME.yaml``. What is done is told by its files (:mod:`.done`), so an
experiment that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from ..base.errors import RunError
from ..base.files import hold, write_text
from ..base.progress import Advance, Progress
from ..base.signals import Interrupted
from ..runs.directory import SUMMARY, RunDirectory
from .done import is_done, recorded
from .jobs import Job, Measurement, Training

_log = logging.getLogger(__package__)
PROGRAM = (sys.executable, "-m", "astprompter")
_POLL_SECONDS = 0.5


def command_of(job: Job) -> list[str]:
    """The command line of a job, after ``astprompter``."""
    files = ["--preset", str(settings_file(job)), "--out", str(job.folder)]
    if isinstance(job, Training):
        return ["train", *files, *(["--resume"] if recorded(job) is not None else [])]
    measure = ["--no-baseline", "--replace", "--top", "0", "--max-errors", "1"]  # tables count errors
    return ["evaluate", job.target, *files, *measure]


def settings_file(job: Job) -> Path:
    """Where a job's settings stand, as a preset."""
    return job.folder.with_name(f"{job.folder.name}.yaml")


def output_file(job: Job) -> Path:
    """Where a job's terminal output stands."""
    return job.folder.with_name(f"{job.folder.name}.txt")


@dataclass(slots=True)
class _Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun: float
    updates: int


class Runner:
    """A pool of processes; :meth:`run` is the main loop."""

    def __init__(self, out: Path, *, jobs: int, progress: Progress) -> None:
        """Set up.

        Args:
            out: Folder of the experiments, locked while they run.
            jobs: Processes at once.
            progress: Where progress is shown.
        """
        self._out, self._count, self._progress = out, jobs, progress
        self._plan: Sequence[Job] = ()
        self._running: list[_Running] = []
        self._failed: list[Job] = []

    def run(self, plan: Sequence[Job]) -> None:
        """Run all jobs that are not done.

        A failed job takes with it only what needs it; the others go on.

        Raises:
            UserError: The folder is in use.
            RunError: A job failed: names the first one's output file.
        """
        self._plan = plan
        waiting = [job for job in plan if not is_done(job)]
        if not waiting:
            return
        updates = sum(
            job.settings.training.updates - self._trained(job) for job in waiting if isinstance(job, Training)
        )
        with (
            _lock(self._out) as handle,
            self._progress.task("experiment", len(waiting), "jobs") as jobs_done,
            self._progress.task("training", updates, "updates") as updates_done,
        ):
            try:
                while waiting or self._running:
                    waiting = self._start_ready(waiting, handle)
                    time.sleep(_POLL_SECONDS)
                    self._collect(jobs_done, updates_done)
            except Interrupted as stop:
                self._stop(stop.number)
                raise
            finally:
                self._stop(signal.SIGTERM)
        if self._failed:
            first = self._failed[0]
            raise RunError(
                f"{len(self._failed)} of the jobs failed, first '{first}': {_last_line(output_file(first))} "
                f"(see '{output_file(first)}'); mend it and run the experiment again, what is done stays"
            )

    def _start_ready(self, waiting: list[Job], handle: int | None) -> list[Job]:
        """Start jobs while there is room; returns those that still wait."""
        busy = [entry.job for entry in self._running]
        kept: list[Job] = []
        for job in waiting:
            needs = None if isinstance(job, Training) else job.needs
            if needs in self._failed:
                continue  # its failure is reported
            if len(self._running) < self._count and needs not in busy and needs not in waiting:
                self._start(job, handle)
            else:
                kept.append(job)
        return kept

    def _start(self, job: Job, handle: int | None) -> None:
        command = command_of(job)
        for other in self._plan:  # figures that stop being true: its own, and those of what it trains
            if isinstance(other, Measurement) and job in (other, other.needs):
                (other.folder / SUMMARY).unlink(missing_ok=True)
        preset = {
            "summary": str(job),
            "why": "Written by 'astprompter experiment'.",
            "settings": job.settings.as_dict(),
        }
        write_text(settings_file(job), yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))
        output = output_file(job).open("wb")
        # Threads are shared out among the processes, unless the user has decided.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self._count))}
        # The lock lives on in the children: should this process be killed, nobody starts a second one beside them.
        process = subprocess.Popen(  # noqa: S603
            [*PROGRAM, *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**threads, **os.environ, "COLUMNS": "120"}, pass_fds=() if handle is None else (handle,),
        )  # fmt: skip
        self._running.append(_Running(job, process, output, time.monotonic(), self._trained(job)))

    def _collect(self, jobs_done: Advance, updates_done: Advance) -> None:
        """Show how far everybody is, and put away what has ended."""
        for entry in list(self._running):
            code = entry.process.poll()
            now = self._trained(entry.job)
            updates_done(now - entry.updates)
            entry.updates = now
            if code is None:
                continue
            self._running.remove(entry)
            entry.output.close()
            jobs_done(1)
            seconds = time.monotonic() - entry.begun
            if code or not is_done(entry.job):
                self._failed.append(entry.job)
                _log.info(f"failed after {seconds:.0f} s: {entry.job} (see '{output_file(entry.job)}')")
            else:
                _log.info(f"done in {seconds:.0f} s: {entry.job}")

    def _stop(self, number: int) -> None:
        """Send a signal to every job under way, and wait until they have ended."""
        for entry in self._running:
            entry.process.send_signal(number)  # nothing is sent to one that has ended
        for entry in self._running:
            entry.process.wait()
            entry.output.close()
        self._running.clear()

    @staticmethod
    def _trained(job: Job) -> int:
        return (RunDirectory(job.folder).updates() or 0) if isinstance(job, Training) else 0


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no output"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no output")[:300]


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[int | None]:
    """Hold the folder for this process and its children; yields the descriptor they inherit.

    Raises:
        UserError: Another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise RunError(f"cannot write to '{out}': {error.strerror or error}") from None
    handle = hold(
        out / ".lock",
        f"'{out}' is in use by another experiment (or by jobs of one that was killed); wait for it, or use another "
        "--out",
    )
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)
