"""A quick evaluation does not take the place of a measurement on more prefixes, unless it is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import astprompter as ap
from astprompter.base.errors import UserError
from helpers.tiny import SENTENCES

SETTINGS = {"rollout.horizon": 1, "rollout.max_new_tokens": 3, "evaluation.resamples": 100}


def letters(texts: list[str]) -> list[float]:
    return [min(1.0, text.count("e") / 10) for text in texts]


def test_a_quick_evaluation_replaces_no_larger_one_unless_told_to(make_lm: Any, tmp_path: Path, caplog: Any) -> None:
    model, out = make_lm(), tmp_path / "results"

    def measured(count: int, **options: Any) -> int:
        ap.evaluate({"it": model}, model, letters, SENTENCES[:count], settings=SETTINGS, out=out, **options)
        return int(json.loads((out / "summary.json").read_text())["adversaries"]["it"]["prefixes"])

    caplog.set_level("INFO", "astprompter")
    assert measured(4) == 4
    assert "holds results" not in caplog.text
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"holds results of .* \(it; 4 prefixes\), and this evaluation has 2: add --re"):
        measured(2)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert "are replaced" not in caplog.text
    assert measured(4) == 4  # as many are no loss
    assert "(it; 4 prefixes); they are replaced when this is done" in caplog.text
    assert measured(2, replace=True) == 2
