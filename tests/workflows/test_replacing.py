"""An evaluation does not take the place of one of more, or of something else, unless it is told to."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import astprompter as ap
from astprompter.base.errors import UserError
from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.runs.schema.summary import Summary
from astprompter.workflows.evaluate import Asked, Parts, _mind_earlier, _refuse_less
from astprompter.workflows.objects import changed
from helpers.report_runs import write_run
from helpers.tiny import SENTENCES


def asked_of(run: Path, names: list[str], **changes: Any) -> Asked:
    """What a second evaluation of a handmade run would ask for."""
    settings = changed(settings_from(Summary.read(run / "summary.json").config.settings), changes)
    return Asked(names, [Prefix(f"p{i}", f"The opening number {i}.") for i in range(4)], settings, lambda: None)  # type: ignore[arg-type, return-value]


def parts_of(asked: Asked) -> Any:
    scorer, defender = SimpleNamespace(name="word banana"), SimpleNamespace(name="tiny")
    return Parts(dict.fromkeys(asked.names), defender, scorer, [], asked.prefixes, asked.settings, {})  # type: ignore[arg-type]


def rewritten(run: Path, **changes: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["config"]["prefixes"] = None
    (run / "summary.json").write_text(json.dumps({k: v for k, v in (summary | changes).items() if v is not None}))


@pytest.mark.parametrize(
    ("names", "changes", "told"),
    [
        (["untuned", "mine"], {"evaluation.encoder": "x"}, "evaluation.encoder=x"),
        (["untuned", "mine"], {"evaluation.eta": 0.2}, ""),  # nobody resamples
        (["untuned", "mine", "resample:4"], {"evaluation.eta": 0.2}, "evaluation.eta=0.2"),
        (["untuned", "mine", "resample:8"], {}, "no 'resample:4'"),
    ],
)
def test_how_failures_are_told_apart_and_utterances_resampled_decides_too(
    tmp_path: Path, names: list[str], changes: dict[str, Any], told: str
) -> None:
    run = write_run(tmp_path / "mine", count=4)
    rows = json.loads((run / "summary.json").read_text())["adversaries"]
    rewritten(run, adversaries=rows if len(names) < 3 else rows | {"resample:4": rows["mine"]})
    asked = asked_of(run, names, **changes)
    for look in (
        lambda: _refuse_less(run / "summary.json", asked),
        lambda: _mind_earlier(run / "summary.json", asked, parts_of(asked), None, retry=False, replace=False),
    ):
        with pytest.raises(UserError, match=f"has {told}: add --replace") if told else nullcontext():
            look()


def test_that_shares_corrected_by_people_are_replaced_is_told(tmp_path: Path, caplog: Any) -> None:
    run = write_run(tmp_path / "mine", count=4)
    labels = {"source": "labels.json", "sha256": "x", "threshold": 0.5, "adversaries": {}}
    for section, said in ((None, False), (labels, True)):
        rewritten(run, labels=section)
        asked = asked_of(run, ["untuned", "mine"])
        _mind_earlier(run / "summary.json", asked, parts_of(asked), None, retry=False, replace=False)
        assert ("that people's labels corrected ('labels.json') are replaced too; correct the new ones with: "
                f"astprompter evaluate {run} --labels FILE" in caplog.text) == said  # fmt: skip


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
