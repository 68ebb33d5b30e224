"""An evaluation does not take the place of one of more, or of something else, unless it is told to."""

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


def long(texts: list[str]) -> list[float]:
    return [min(1.0, len(text) / 60) for text in texts]


@pytest.mark.slow
def test_a_quick_evaluation_replaces_no_larger_one_unless_told_to(make_lm: Any, tmp_path: Path, caplog: Any) -> None:
    model, out = make_lm(), tmp_path / "results"

    def measured(count: int, **options: Any) -> int:
        ap.evaluate({"it": model}, model, letters, SENTENCES[:count], settings=SETTINGS, out=out, **options)
        return int(json.loads((out / "summary.json").read_text())["adversaries"]["it"]["prefixes"])

    caplog.set_level("INFO", "astprompter")
    assert measured(4) == 4
    assert "holds results" not in caplog.text
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(
        UserError, match=r"holds results of .* \(it; 4 prefixes\), and this .* has 2 prefixes: add --re"
    ):
        measured(2)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert "are replaced" not in caplog.text
    assert measured(4) == 4  # as many are no loss
    assert "(it; 4 prefixes); they are replaced when this is done" in caplog.text
    assert measured(2, replace=True) == 2


@pytest.mark.slow
def test_what_was_measured_is_not_lost_without_being_told_to(make_lm: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "horizon": 2, "threshold": 0.5, "adversaries": ["it", "other"], "defender": 0, "scorer": letters,
        "scorers": [long], "prefixes": SENTENCES[:3],
    }  # fmt: skip

    def measured(replace: bool = False, **changes: Any) -> None:
        now = given | changes
        settings = SETTINGS | {"rollout.horizon": now["horizon"], "evaluation.threshold": now["threshold"]}
        ap.evaluate(
            dict.fromkeys(now["adversaries"], make_lm()), make_lm(seed=now["defender"]), now["scorer"],
            now["prefixes"], scorers=now["scorers"], settings=settings, out=tmp_path, replace=replace,
        )  # fmt: skip

    measured()
    before = (tmp_path / "summary.json").read_bytes()
    for change, told in (
        ({"horizon": 1}, "rollout.horizon=1"), ({"adversaries": ["it"]}, "no 'other'"),
        ({"defender": 2}, "the defender 'tiny-gpt2'"), ({"prefixes": SENTENCES[1:4]}, "other prefixes"),
        ({"scorer": long, "scorers": [letters]}, "the scorer '.*long', no scorer '.*long'"),
        ({"scorers": []}, "no scorer '.*long'"), ({"threshold": 0.7}, "evaluation.threshold=0.7"),
        ({"horizon": 1, "threshold": 0.7}, "rollout.horizon=1, evaluation.threshold=0.7"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"and this evaluation has {told}: add --replace"):
            measured(**change)
        assert (tmp_path / "summary.json").read_bytes() == before
    measured(prefixes=SENTENCES[:4], adversaries=["it", "other", "third"])  # all that was measured, and more
    measured(replace=True, horizon=1)
