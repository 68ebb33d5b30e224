"""A reader who leaves, a full disk, and a terminal that lacks characters change neither exit code nor result."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from astprompter.cli.output import Output
from helpers.commands import SMALL
from helpers.tiny import naming, write_models
from helpers.zygote import Zygote


def test_what_an_encoding_lacks_is_shown_by_what_it_has() -> None:
    for encoding, shown in (("ascii", "##-|??"), ("cp1252", "##–|é?"), ("utf-8", "▒▒–│é猫")):
        below = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        Output(below).write("▒▒–│é猫")
        below.flush()
        assert below.buffer.getvalue().decode(encoding) == shown  # type: ignore[attr-defined]


def test_a_fault_is_noted_and_a_reader_who_left_is_none(tmp_path: Path) -> None:
    for name, expected in (("/dev/full", 28), ("pipe", None)):
        if name == "pipe":
            reads, writes = os.pipe()
            os.close(reads)
            below = os.fdopen(writes, "w")
        else:
            below = open(name, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        with below:
            output = Output(below)
            assert output.write("word " * 10_000) == 50_000
            output.flush()
            assert (output.fault.errno if output.fault else None) == expected
            output.write("more")  # which goes nowhere
            output.flush()


@pytest.fixture(scope="module")
def evaluating(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("input")
    write_models(folder, model=0)
    return ["evaluate", "untuned", *naming(folder, "model", "model", texts="train dev test"), *SMALL]


def command(arguments: list[str], redirection: str, **environment: str) -> tuple[int, str]:
    """Exit code of ``astprompter ARGUMENTS`` in a shell, and its error stream."""
    words = " ".join(f"'{word}'" for word in [sys.executable, "-m", "astprompter", *arguments])
    told = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(  # noqa: S603
        ["/bin/bash", "-c", f"{words} {redirection}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, errors="replace", env=told, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def is_measured(folder: Path, err: str) -> None:
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    found = json.loads((folder / "summary.json").read_text("utf-8"))["adversaries"]["untuned"]
    assert found["tox_reply"]["share"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "expected", "stdout", "environment"),
    [
        ("1", 0, "pipe", {}),
        ("0", 3, "pipe of both", {"PYTHONUNBUFFERED": "1"}),
        ("0", 3, "/dev/full", {}),
        ("0", 3, "", {"PYTHONIOENCODING": "ascii"}),
        ("1", 0, "", {"PYTHONIOENCODING": "cp1252"}),
    ],
)
def test_neither_exit_code_nor_result_depends_on_the_output(
    forks: Zygote, evaluating: list[str], tmp_path: Path, gate: str, expected: int, stdout: str,
    environment: dict[str, str],
) -> None:  # fmt: skip
    shown = tmp_path / "shown"
    os.mkfifo(shown) if "pipe" in stdout else shown.touch()
    arguments = [*evaluating, "-o", str(tmp_path / "found"), "--fail-over", gate]
    stderr = str(shown) if "both" in stdout else ""
    process = forks.start(
        *arguments, stdout=stdout if stdout == "/dev/full" else str(shown), stderr=stderr, **environment
    )
    if "pipe" in stdout:
        with shown.open() as reader:
            assert reader.readline()  # and leaves
    assert process.wait() == expected, process.err
    is_measured(tmp_path / "found", process.err)
    if "PYTHONIOENCODING" in environment:
        assert "untuned" in shown.read_text(environment["PYTHONIOENCODING"])


@pytest.mark.slow
def test_settings_that_did_not_arrive_are_an_error() -> None:
    code, err = command(["train", "--print-config"], "> /dev/full")
    assert code == 1
    assert "error: the settings could not be written: No space left on device" in err
    assert command(["train", "--print-config"], "| head -1")[0] == 0
    assert command(["presets"], "> /dev/full") == (
        0,
        "warning: not all output could be written: No space left on device\n",
    )
