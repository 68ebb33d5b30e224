"""Real processes of the command line that start at once: forked from one that has loaded the libraries before.

That one is forked from the tests' own process, which has loaded most of them, and forgets that it ever ran tests.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import logging
import os
import pkgutil
import runpy
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.branches import stop_counting


class Process:
    """A command under way.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, zygote: Zygote, pid: int, folder: Path) -> None:
        self.pid, self._zygote, self._folder = pid, zygote, folder

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text(encoding="utf-8")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Exit code, or ``None`` while it runs."""
        code: int | None = self._zygote.ask({"poll": self.pid})
        return code

    def wait(self, seconds: float = 120) -> int:
        """Exit code."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s:\n{self.out}\n{self.err}")
            time.sleep(0.03)
        return code

    def until(self, met: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for a condition while it runs."""
        deadline = time.monotonic() + seconds
        while not met():
            code = self.poll()
            assert code is None, f"ended with {code}:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Zygote:
    """The process that others are forked from."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._count = folder, 0
        (asked, asks), (answers, answered) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads only wait for orders from outside
            self._pid = os.fork()
        if self._pid == 0:
            os.close(asks)  # else it would never see the end
            os.close(answers)
            _serve(asked, answered, environment)
        os.close(asked)
        os.close(answered)
        self._asks, self._answers = os.fdopen(asks, "w"), os.fdopen(answers)

    def ask(self, what: dict[str, Any]) -> Any:
        print(json.dumps(what), file=self._asks, flush=True)
        return json.loads(self._answers.readline())

    def start(
        self, *arguments: str, stdin: str = os.devnull, stdout: str = "", stderr: str = "", cwd: str = ".",
        **environment: str,
    ) -> Process:  # fmt: skip
        """Start ``astprompter ARGUMENTS``; ``stdout`` and ``stderr`` name files in the place of ``out`` and ``err``."""
        command = ["astprompter", *arguments]
        return self._fork(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, environment=environment)

    def script(self, path: Path, *arguments: str, **environment: str) -> Process:
        """Start ``python PATH ARGUMENTS``."""
        return self._fork([str(path), *arguments], script=True, environment=environment)

    def _fork(self, command: list[str], **told: Any) -> Process:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        standard = {"stdin": os.devnull, "stdout": "", "stderr": "", "cwd": ".", "environment": {}, "script": False}
        told = {**standard, **told, "command": command, "folder": str(folder)}
        return Process(self, self.ask({"start": told}), folder)

    def run(self, *arguments: str, cwd: str = ".", **environment: str) -> tuple[int, str, str]:
        """Exit code and output of ``astprompter ARGUMENTS``."""
        process = self.start(*arguments, cwd=cwd, **environment)
        return process.wait(), process.out, process.err

    def close(self) -> None:
        self._asks.close()
        self._answers.close()
        os.waitpid(self._pid, 0)


@contextlib.contextmanager
def zygote(folder: Path, **environment: str) -> Iterator[Zygote]:
    made = Zygote(folder, environment)
    try:
        yield made
    finally:
        made.close()


def _become(told: dict[str, Any]) -> None:
    """The child: the command line, or a script, with files for its input and output."""
    from astprompter.cli.app import main

    os.environ.update(told["environment"])
    sys.path[:0] = told["environment"].get("PYTHONPATH", "").split(os.pathsep)
    folder = Path(told["folder"])
    for target, name, flags in ((0, told["stdin"], os.O_RDONLY), (1, told["stdout"] or folder / "out", os.O_WRONLY),
                                (2, told["stderr"] or folder / "err", os.O_WRONLY)):  # fmt: skip
        handle = os.open(name, flags)
        os.dup2(handle, target)
    _open_streams(told["environment"])
    os.chdir(told["cwd"])
    sys.argv = told["command"]
    code = 1
    try:
        if told["script"]:
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = 120  # as an interpreter ends that cannot write all that was said
        os._exit(code)


def _open_streams(environment: dict[str, str]) -> None:
    """Standard streams, as an interpreter opens them when it begins."""
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    unbuffered = "PYTHONUNBUFFERED" in environment
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding=encoding, closefd=False)  # type: ignore[misc]
    for handle, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        below = os.fdopen(handle, "wb", 0 if unbuffered else -1, closefd=False)
        stream = io.TextIOWrapper(below, encoding, errors, line_buffering=handle == 2, write_through=unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _forget_the_tests(environment: dict[str, str]) -> None:
    """Be as an interpreter that has just begun, but for what is loaded."""
    stop_counting()
    importlib.reload(warnings)  # with the filters that an interpreter begins with
    logging.root.handlers.clear()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment)


def _serve(asked: int, answered: int, environment: dict[str, str]) -> None:
    """The process that the others are forked from; never returns, as it would into the midst of a test."""
    try:
        _forget_the_tests(environment)
        _load_everything()
        with os.fdopen(asked) as asks, os.fdopen(answered, "w") as answers:
            ended: dict[int, int] = {}
            for line in asks:
                print(json.dumps(_answer(json.loads(line), ended, (asked, answered))), file=answers, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _load_everything() -> None:
    import torch
    import torch._dynamo  # which optimizers load

    import astprompter

    for module in pkgutil.walk_packages(astprompter.__path__, "astprompter."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    gc.freeze()  # no search for garbage touches, and so copies, what all children share


def _answer(what: dict[str, Any], ended: dict[int, int], own: tuple[int, int]) -> int | None:
    """Process id of what was to be started, or the exit code of what was asked for, if it has ended."""
    if "start" in what:
        pid = os.fork()
        if pid == 0:
            for handle in own:
                os.close(handle)
            _become(what["start"])
        return pid
    pid = what["poll"]
    if pid not in ended:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)
