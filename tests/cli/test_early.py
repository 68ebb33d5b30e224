"""What can be known before models are loaded is told before: no command here gets as far as loading one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.config import dotted, load_settings
from astprompter.workflows import load, objects, probability, suite, targets
from helpers.commands import call
from helpers.report_runs import write_probability, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Two measured runs, one of them without ``best``; prefixes; and a file where a folder would have to be."""
    path: Path = tmp_path_factory.mktemp("early")
    write_run(path / "runs" / "mine", count=4)
    write_run(path / "runs" / "tuned", count=4)
    (path / "runs" / "tuned" / "best").mkdir()
    write_probability(path / "runs" / "tuned")
    (path / "file").write_text("")
    texts = (f'{{"text": "An opening of some words, number {i}."}}\n' for i in range(9))
    (path / "texts.jsonl").write_text("".join(texts))
    return path


@pytest.fixture(autouse=True)
def _nothing_is_loaded(folder: Path, monkeypatch: Any) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("something was loaded")

    for module in (load, objects, probability, suite, targets):
        for name in ("build_scorer", "build_defender", "build_lm", "load_scorer"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, loaded)
    monkeypatch.chdir(folder)


_SMALL = "evaluation.prefixes=2"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["evaluate", "untuned", "-o", "out", "--fail-over", "replys=0.1"], 2, "unknown figure 'replys'"),
        (["evaluate", "untuned", "-o", "out", "--junit", "file/x.xml"], 1, "cannot write 'file/x.xml'"),
        (["evaluate", "untuned", "-o", "file/x"], 1, "cannot write 'file/x'"),
        (["evaluate", "untuned", "-o", "out", "data.test=gone.jsonl"], 2, "gone.jsonl"),
        (["evaluate", "human:gone.jsonl", "-o", "out"], 2, "gone.jsonl"),
        (["evaluate", "runs/mine"], 2, "has no best adversary yet"),
        (["evaluate", "untuned", "-o", "out", "defender.path=./gone"], 2, "model folder './gone' does not exist"),
        (["evaluate", "untuned", "-o", "out", "evaluation.encoder=./gone"], 2, "model folder './gone' does not exist"),
        (["evaluate", "runs/tuned", "data.test=texts.jsonl", _SMALL], 2, "this evaluation has 2 prefixes"),
        (["evaluate", "runs/tuned", "--no-baseline", "data.test=texts.jsonl", "evaluation.encoder=x"], 2,
         "no 'untuned', evaluation.encoder=x: add --replace"),
        (["train", "-o", "file/x"], 1, "cannot write 'file/x/config.json'"),
        (["train", "-o", "out", "data.train=gone.jsonl"], 2, "gone.jsonl"),
        (["train", "-o", "out", "adversary.path=./gone"], 2, "model folder './gone' does not exist"),
        (["train", "-o", "out", "defender.path=./gone"], 2, "model folder './gone' does not exist"),
        (["probability", "runs/mine"], 2, "has no best adversary yet"),
        (["probability", "runs/tuned", "--budget", "60"], 2, "--budget 60 is too small; give at least 200"),
        (["probability", "runs/tuned", "-o", "file/x"], 1, "cannot write 'file/x/probability.json'"),
        (["probability", "runs/tuned", "--no-splitting"], 2, "and this estimate has no splitting: add --replace"),
        (["suite", "runs/mine", "-o", "file/x"], 1, "cannot write 'file/x/suite.json'"),
        (["retest", "suite", "--junit", "file/x.xml"], 1, "cannot write 'file/x.xml'"),
        (["export", "runs/mine", "--to", "hardening", "-o", "file/x"], 1, "cannot write 'file/x/config.json'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    words: list[str], code: int, told: str, capsys: Any
) -> None:
    found, _, err = call(capsys, *words)
    assert told in err
    assert found == code
    assert not any(Path(name).exists() for name in ("out", "out.xml"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-0.1", "1.5", "x"])
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "untuned", "-o", "out", "--max-errors"], ["evaluate", "untuned", "-o", "out", "--fail-over"],
        ["retest", "suite", "--fail-over"], ["probability", "runs/tuned", "--fail-over"],
        ["probability", "runs/tuned", "--relative"], ["probability", "runs/tuned", "--threshold"],
    ],
)  # fmt: skip
def test_what_is_no_share_is_a_mistake_of_usage(words: list[str], value: str, capsys: Any) -> None:
    code, _, err = call(capsys, *words, value)
    assert code == 2
    assert "share" in err


def test_a_setting_that_is_no_number_is_a_mistake_of_usage() -> None:
    values = dotted(load_settings("embedded").as_dict())
    keys = [key for key, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    assert len(keys) > 40
    for key in keys:
        for value in (".nan", ".inf", "-.inf"):
            with pytest.raises(UserError, match=key):
                load_settings("embedded", [f"{key}={value}"])
