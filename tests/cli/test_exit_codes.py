"""Every exit code of the command line, by real processes; the tests that need a run share one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from astprompter.base.errors import RunError, UserError
from astprompter.cli.app import _words_and_code
from astprompter.cli.commands.shared import is_setting
from helpers.server import serving
from helpers.tiny import PREFIXES, make_model, make_tokenizer, naming, write_models
from helpers.zygote import Zygote

SETTINGS = [
    "rollout.max_new_tokens=4", "rollout.horizon=1", "training.updates=2", "training.pairs_per_iteration=4",
    "training.batch_size=2", "training.dev_prefixes=4", "training.learning_rate=1e-3", "supervision.q=0",
    "scorer.spec=word:a", "evaluation.resamples=100",
]  # fmt: skip
SCORERS = """
import math
def nothing(texts):
    return [math.nan for _ in texts]
def everything(texts):
    return [1.0 for _ in texts]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    made = tmp_path_factory.mktemp("input")
    write_models(made, model=0)
    (made / "odd_scorers.py").write_text(SCORERS)
    return made


@pytest.fixture(scope="module")
def chosen(folder: Path) -> list[str]:
    return [*naming(folder, "model", "model", texts="train dev test"), *SETTINGS]


@pytest.fixture(scope="module")
def run(forks: Zygote, chosen: list[str], tmp_path_factory: Any) -> Path:
    made = tmp_path_factory.mktemp("run") / "mine"
    code, _, err = forks.run("train", "-o", str(made), *chosen)
    assert code == 0, err
    return made


def last_line(err: str) -> str:
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


@pytest.mark.slow
def test_done_is_0_and_a_mistake_is_2(forks: Zygote, run: Path, chosen: list[str]) -> None:
    assert forks.run("presets")[0] == 0
    code, _, err = forks.run("train", "-o", str(run), *chosen)
    assert code == 2
    assert last_line(err).startswith(f"error: '{run}' already holds a run")
    assert forks.run("evaluate")[0] == 2  # usage, told by the command line library
    for share in ("1.5", "nan", "some", "replies=2", "replys=0.1"):
        assert forks.run("evaluate", str(run), "--fail-over", share)[0] == 2


@pytest.mark.slow
def test_a_gate_that_is_exceeded_is_3(forks: Zygote, run: Path, folder: Path, tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(folder)}
    arguments = ["evaluate", str(run), "-o", str(tmp_path), "scorer.spec=python:odd_scorers:everything"]
    code, _, err = forks.run(*arguments, "--fail-over", "0.99", **here)
    assert code == 3
    start = "gate: share of replies above 0.5 is over --fail-over replies=0.99: mine 1.0000 (interval"
    assert last_line(err).startswith(start)
    assert last_line(err).endswith("8 of 8 replies assessed)")
    assert "untuned" not in last_line(err)
    assert (tmp_path / "summary.json").exists()
    code, _, err = forks.run(*arguments, "--fail-over", "1", **here)
    assert code == 0, err
    assert "is not over --fail-over replies=1: mine 1.0000" in last_line(err)
    written = tmp_path / "gates.xml"
    code, _, err = forks.run(*arguments, "--junit", str(written), "--fail-over", "replies=1", "prefixes=0.5", **here)
    assert code == 3
    assert "share of prefixes with a reply above 0.5 is over --fail-over prefixes=0.5" in last_line(err)
    root = ElementTree.parse(written).getroot()  # noqa: S314
    assert [root.get(name) for name in ("tests", "failures", "errors")] == ["4", "1", "0"]
    code, _, err = forks.run(*arguments, "--fail-over", "replies=1", "colours=0.5", **here)
    assert code == 2


@pytest.mark.slow
def test_nothing_assessed_is_null_and_1(forks: Zygote, run: Path, folder: Path, tmp_path: Path) -> None:
    code, _, err = forks.run(
        "evaluate", str(run), "-o", str(tmp_path), "scorer.spec=python:odd_scorers:nothing", "--fail-over", "0",
        PYTHONPATH=str(folder),
    )  # fmt: skip
    assert code == 1
    assert last_line(err).startswith("error: no turn of 'untuned', 'mine' could be assessed, so its figures are null")
    row = json.loads((tmp_path / "summary.json").read_text())["adversaries"]["mine"]
    assert (row["tox_reply"]["mean"], row["tox_reply"]["share"]) == (None, None)
    assert row["nll"]["errors"] == 0  # the likelihood is known all the same
    assert (row["tox_reply"]["valid"], row["errors"]) == (0, len(PREFIXES))
    assert row["failure_within_horizon"]["share"] is None


@pytest.mark.slow
def test_a_training_that_assessed_nothing_is_1(forks: Zygote, chosen: list[str], folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "run"
    arguments = [*chosen, "scorer.spec=python:odd_scorers:nothing"]
    code, _, err = forks.run("train", "-o", str(made), *arguments, PYTHONPATH=str(folder))
    assert code == 1
    assert "20 iterations in a row gave no preference pair" in last_line(err)
    assert "score is not finite" in last_line(err)
    supervised = ["supervision.q=1", "supervision.unit=episode", f"data.eliciting={folder / 'texts.jsonl'}"]
    code, _, err = forks.run("train", "-o", str(tmp_path / "other"), *arguments, *supervised, PYTHONPATH=str(folder))
    assert code == 1
    assert "could be assessed, so no model was kept" in last_line(err)


@pytest.mark.slow
def test_a_server_that_is_down_is_1(forks: Zygote, chosen: list[str], folder: Path, tmp_path: Path) -> None:
    served = [*chosen, "defender.path=openai:tiny", "remote.retries=0", f"likelihood.path={folder / 'model'}"]
    code, _, err = forks.run("train", "-o", str(tmp_path / "run"), *served, "remote.base_url=http://127.0.0.1:1/v1")
    assert code == 1
    assert "remote: connection" in last_line(err)
    tokenizer = make_tokenizer()
    with serving(make_model("gpt2", len(tokenizer)), tokenizer) as server:
        broken: list[str] = []
        server.fault = lambda number, body: broken[0] if broken else None
        address = f"remote.base_url={server.url}"
        code, _, err = forks.run("train", "-o", str(tmp_path / "run"), *served, address, "training.updates=1")
        assert code == 0, err
        broken.append("status:503")
        code, _, err = forks.run("evaluate", str(tmp_path / "run"), address)
        assert code == 1
        assert "HTTP 503" in last_line(err)
        broken[0] = "status:401"
        code, _, err = forks.run("evaluate", str(tmp_path / "run"), address)
        assert code == 2
        assert "the key is missing or wrong" in last_line(err)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_1(forks: Zygote, run: Path, chosen: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = forks.run("train", "-o", str(tmp_path / "file" / "run"), *chosen)
    assert code == 1
    assert f"cannot write '{tmp_path / 'file' / 'run' / 'config.json'}'" in last_line(err)
    code, _, err = forks.run("evaluate", str(run), "-o", str(tmp_path / "file"))
    assert code == 1
    assert f"cannot write '{tmp_path / 'file'}" in last_line(err)


@pytest.mark.slow
def test_a_bug_is_1_and_its_traceback_is_shown_on_demand() -> None:
    program = (
        "import sys; from astprompter.cli import app as cli\n"
        "@cli.app.command()\n"
        "def bug():\n    raise ValueError('boom [bold] \\x1b[31m')\n"
        "sys.argv = ['astprompter', 'bug']; cli.main()\n"
    )
    for debug in ("", "1"):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env=os.environ | {"ASTPROMPTER_DEBUG": debug},
        )  # fmt: skip
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == bool(debug)
        assert done.stderr.splitlines()[-1] == (
            "error: unexpected ValueError: boom [bold] ·[31m (<string>, line 4); this should not happen: "
            "ASTPROMPTER_DEBUG=1 shows the traceback"
        )


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a\nb"), 2, "a b"),
        (RunError("a"), 1, "a"),
        (MemoryError(), 1, "out of memory (MemoryError:); lower rollout.trees_per_batch"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory (Run"),
        (OSError(28, "No space left on device", "x"), 1, "[Errno 28] No space left on device: 'x'"),
    ],
)
def test_what_is_said_of_errors(error: Exception, code: int, words: str) -> None:
    said, found = _words_and_code(error)
    assert found == code
    assert said.startswith(words)


def test_settings_and_names_with_an_equals_sign_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "run=2").mkdir()
    assert is_setting("data.test=x.jsonl")
    with pytest.raises(UserError, match=r"unknown setting 'dta.test'. Did you mean 'data.test'"):
        is_setting("dta.test=x.jsonl")  # a mistake in a setting, not a folder that is missing
    assert not is_setting(str(tmp_path / "run=2"))
    assert not is_setting("human:talks=v2.json")
    assert not is_setting("untuned")
