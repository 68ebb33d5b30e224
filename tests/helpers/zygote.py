"""Real processes of the command line that start at once: forked from one that has loaded the libraries before."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


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
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment,
        )  # fmt: skip

    def ask(self, what: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(
        self, *arguments: str, stdin: str = os.devnull, stdout: str = "", cwd: str = ".", **environment: str
    ) -> Process:
        """Start ``astprompter ARGUMENTS``; where ``stdout`` names a file, it ends as an interpreter ends by itself."""
        command = ["astprompter", *arguments]
        return self._fork(command, stdin=stdin, stdout=stdout, cwd=cwd, environment=environment)

    def script(self, path: Path, *arguments: str, **environment: str) -> Process:
        """Start ``python PATH ARGUMENTS``."""
        return self._fork([str(path), *arguments], script=True, environment=environment)

    def _fork(self, command: list[str], **told: Any) -> Process:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        standard = {"stdin": os.devnull, "stdout": "", "cwd": ".", "environment": {}, "script": False}
        told = {**standard, **told, "command": command, "folder": str(folder)}
        return Process(self, self.ask({"start": told}), folder)

    def run(self, *arguments: str, cwd: str = ".", **environment: str) -> tuple[int, str, str]:
        """Exit code and output of ``astprompter ARGUMENTS``."""
        process = self.start(*arguments, cwd=cwd, **environment)
        return process.wait(), process.out, process.err

    def close(self) -> None:
        with self._process:
            pass


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

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(told["environment"])
    sys.path[:0] = told["environment"].get("PYTHONPATH", "").split(os.pathsep)
    folder = Path(told["folder"])
    for target, name, flags in ((0, told["stdin"], os.O_RDONLY), (1, told["stdout"] or folder / "out", os.O_WRONLY),
                                (2, folder / "err", os.O_WRONLY)):  # fmt: skip
        handle = os.open(name, flags)
        os.dup2(handle, target)
    if encoding := told["environment"].get("PYTHONIOENCODING"):  # which an interpreter reads when it begins
        sys.stdout.reconfigure(encoding=encoding)  # type: ignore[union-attr]
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
        if told["stdout"]:
            sys.exit(code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    import torch
    import torch._dynamo  # which optimizers load
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: F401

    import astprompter

    for module in pkgutil.walk_packages(astprompter.__path__, "astprompter."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    gc.freeze()  # no search for garbage touches, and so copies, what all children share
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            pid = os.fork()
            if pid == 0:
                _become(asked["start"])
            answer: int | None = pid
        else:
            pid = asked["poll"]
            if pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
