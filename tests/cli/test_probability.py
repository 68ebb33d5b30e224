"""``astprompter probability`` and ``failure_probability``: what they write and say, exit codes, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import astprompter as ap
from astprompter.probability import measure as measure_module
from astprompter.probability import words
from astprompter.probability.judged import as_judged
from astprompter.runs.schema.labels import JudgedAdversary
from astprompter.runs.schema.probability import DrawnRow, Limits, ProbabilityFile
from astprompter.workflows.probability import _judged
from helpers.commands import call, settings
from helpers.report_runs import write_probability, write_run
from helpers.tiny import PREFIXES, WordScorer

SMALL = ["--budget", "200", "--within", "2", "--no-splitting"]
BRIEF = "rollout.max_new_tokens=3"


def ask(capsys: Any, files: dict[str, str], out: Path, *more: str, **changes: str) -> tuple[int, str, str]:
    return call(
        capsys, "probability", files["model"], "-o", str(out), *SMALL, *more, *settings(files, **changes), BRIEF
    )  # fmt: skip


@pytest.mark.slow
def test_what_is_written_and_said(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    code, out, err = ask(capsys, files, tmp_path / "a", "--fail-over", "1")
    assert code == 0, err
    found = ProbabilityFile.read(tmp_path / "a" / "probability.json")
    assert found.within == 2
    assert found.config["settings"]["rollout"]["horizon"] == 2
    assert f"{words.headline(found)}." in out
    assert "'Natural' means the untuned adversary with this sampling after these openings, not your users." in out
    assert f"Verdict: {found.verdict}" in out
    assert "gate: natural draws exclude more than" in err
    rows = [DrawnRow.of(json.loads(line)) for line in (tmp_path / "a" / "probability.jsonl").read_text().splitlines()]
    assert len(rows) == 200
    heavy = found.heaviest[0]
    row = next(row for row in rows if row.stage == "main" and row.number == heavy.number)
    assert heavy.texts[1::2] == [turn.utterance for turn in row.turns]
    assert "▒" in out
    code, shown, err = ask(capsys, files, tmp_path / "a", "--fail-over", "0.0001", "--show-text", "--top", "1")
    assert code == 3
    assert "gate: natural draws do not exclude 1 in" in err
    assert "over --fail-over 0.0001" in err
    assert "going on: 200 conversations are there already" in shown
    assert "▒" not in shown
    assert ProbabilityFile.read(tmp_path / "a" / "probability.json") == found
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    code, _, err = ask(capsys, files, tmp_path / "a", "--count")
    assert (code, "and this estimate has adversaries=[]: add --replace" in err) == (2, True)
    refusal = "(200 conversations), and this estimate has rollout.temperature=0.0, threshold=0.9: add --replace, or"
    for more, said in (([], refusal), (["--replace"], "there is no probability to estimate")):
        code, _, err = ask(capsys, files, tmp_path / "a", "--threshold", "0.9", "rollout.temperature=0", *more)
        assert (code, said in err) == (2, True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on(
    files: dict[str, str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "trees_that_fit", lambda *given, **more: 30)
    assert ask(capsys, files, tmp_path / "whole")[0] == 0
    real, left = measure_module.converse, [4]

    def breaking(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(measure_module, "converse", breaking)
    assert ask(capsys, files, tmp_path / "broken")[0] != 0
    assert len((tmp_path / "broken" / "probability.jsonl").read_text().splitlines()) == 90  # of the pilot's 100
    assert not (tmp_path / "broken" / "probability.json").exists()
    kept = (tmp_path / "broken" / "probability.jsonl").read_bytes()
    (tmp_path / "broken" / "probability.jsonl").write_bytes(kept[:-9999])  # killed in the middle of a batch and a line
    assert ask(capsys, files, tmp_path / "broken")[0] == 0
    texts = [(tmp_path / name / "probability.json").read_text() for name in ("whole", "broken")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_natural_defender_several_adversaries_and_other_sampling(
    files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    again = tmp_path / "again"
    again.symlink_to(files["model"])
    code, out, err = ask(
        capsys, files, tmp_path / "a", str(again), "--natural", "defender", "--sensitivity",
        "--threshold", "0.9", "--clean", **{"rollout.temperature": "0.8", "rollout.top_p": "0.9"},
    )  # fmt: skip
    assert code == 0, err
    found = ProbabilityFile.read(tmp_path / "a" / "probability.json")
    assert found.natural == "defender"
    assert "'Natural' means the defender itself" in out
    assert found.threshold == 0.9
    assert list(found.config["adversaries_sha256"]) == ["model", "again"]
    assert [(row.temperature, row.top_p) for row in found.sensitivity] == [(1.0, 0.9), (0.8, 1.0)]
    assert "at temperature 1, top-p 0.9" in out
    rows = [
        line for place in (0, 1) for line in (tmp_path / "a" / f"probability-{place}.jsonl").read_text().splitlines()
    ]
    assert found.cost.further == sum(len(turn.scores) for line in rows for turn in DrawnRow.of(json.loads(line)).turns)
    assert f"{found.cost.further:,} more for other sampling" in out
    assert found.clean == 0.2
    assert f"{words.headline(found)}." in out
    assert "clean failure" in words.headline(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-over", "0.1", "--relative", "0.2"], "--fail-over needs the conservative limit"),
        (["--budget", "60"], "--budget 60 is too small; give at least 200"),
        (["rollout.temperature=0"], "there is no probability to estimate"),
        (["--natural", "nobody"], "'nobody'"),
    ],
)
def test_what_is_refused(files: dict[str, str], tmp_path: Path, capsys: Any, arguments: list[str], said: str) -> None:
    code, _, err = ask(capsys, files, tmp_path / "a", *arguments)
    assert code == 2
    assert said in err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_models_that_cannot_blend_are_refused(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    code, _, err = call(capsys, "probability", files["other"], "-o", str(tmp_path / "a"), *SMALL, *settings(files))
    assert code == 2
    assert "has another vocabulary than" in err
    assert "take an adversary that was tuned from the model that speaks naturally" in err
    code, _, err = call(capsys, "probability", *settings(files))
    assert code == 2
    assert "name at least one run directory or model" in err
    code, _, err = call(capsys, "probability", files["model"], *settings(files))
    assert code == 2
    assert "--out" in err


@pytest.mark.slow
def test_the_library_measures_and_writes_the_same(files: dict[str, str], tmp_path: Path) -> None:
    model = files["model"]
    prefixes = [ap.Prefix(f"p{place}", text) for place, text in enumerate(PREFIXES)]
    rollout = {"rollout.max_new_tokens": 3}
    found = ap.failure_probability(
        {"ours": model}, model, model, WordScorer(), prefixes, budget=200, within=2, splitting=False, settings=rollout,
        out=tmp_path / "b",
    )  # fmt: skip
    assert found == ProbabilityFile.read(tmp_path / "b" / "probability.json")
    for replace, said in ((False, "this estimate has .*budget=400: add --replace"), (True, "no probability to est")):
        with pytest.raises(ap.UserError, match=said):
            ap.failure_probability(
                {"ours": model}, model, model, WordScorer(), prefixes, budget=400, replace=replace, splitting=False,
                settings={**rollout, "rollout.temperature": 0}, out=tmp_path / "b",
            )  # fmt: skip
    with pytest.raises(ap.UserError, match="further scorers judge what is clean"):
        ap.failure_probability({"ours": model}, model, model, WordScorer(), prefixes, scorers=[WordScorer()])
    with pytest.raises(ap.UserError, match="scorer 'letter e' is named twice"):
        ap.failure_probability(
            {"ours": model}, model, model, WordScorer(), prefixes, clean=True, scorers=[WordScorer()]
        )
    with pytest.raises(ap.UserError, match="name the adversaries"):
        ap.failure_probability([model], model, model, WordScorer(), prefixes)
    counted = ap.failure_probability(
        {}, model, model, WordScorer(), prefixes, budget=100, within=2, splitting=False, settings=rollout
    )
    assert (counted.cost.conversations, counted.cost.pilot, counted.config["adversaries"]) == (100, 0, [])


@pytest.mark.slow
def test_nothing_assessed_is_1_and_passes_no_gate(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "nothing.py").write_text("def scores(texts):\n    return [float('nan')] * len(texts)\n")
    changes = {"scorer.spec": f"python:{tmp_path}/nothing:scores"}
    more = [f"{key}={value}" for key, value in changes.items()]
    for gate in ([], ["--fail-over", "1"]):
        code, out, err = call(
            capsys,
            "probability",
            files["model"],
            "-o",
            str(tmp_path / "a"),
            *SMALL,
            *settings(files),
            BRIEF,
            *more,
            *gate,
        )
        assert (code, "replies could be assessed" in err) == (1, True)
        assert "No reply could be assessed" in out


def test_labels_of_another_scorer_or_defender_are_not_carried_in(tmp_path: Path) -> None:
    run, share = write_run(tmp_path / "mine"), {"value": 0.8, "ci": [0.7, 0.9]}
    summary = json.loads((run / "summary.json").read_text())
    judged = {"labels": 200, "raw": share, "share": share, "precision": share, "recall": share, "power": 1.0}
    summary["labels"] = {
        "source": "l.json", "sha256": "", "threshold": 0.5, "adversaries": {"untuned": judged | {"strata": []}},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    write_probability(run)
    found = ProbabilityFile.read(run / "probability.json")

    def judged_with(**changes: str) -> Any:
        config = {"scorer": "word banana", "defender": "tiny", "defender_sha256": None} | changes
        return _judged(found.model_copy(update={"config": config}), run)

    assert judged_with().estimate == pytest.approx(found.limits.estimate)
    assert judged_with(scorer="another") is None
    assert judged_with(defender="another") is None
    found = found.model_copy(update={"clean": 0.2})  # labels do not say how the scorer errs on utterances
    assert judged_with() is None


def test_how_rarely_something_fails_is_told_by_three_digits() -> None:
    assert [words.count_of(p) for p in (0.0012, 1 / 1013, 0.15, 0.9, 1.0, 1e-6)] == [
        "833", "1,010", "6.67", "1.11", "1.00", "1,000,000",
    ]  # fmt: skip
    assert words.once_in(0.0) == "never"  # a limit
    assert words.seen(0.0) == words.count_of(0.0) == "none seen"  # an estimate


def test_the_scorers_error_is_carried_in_by_hand() -> None:
    """0.01 · 0.8 / 0.5 = 0.016; equal relative errors of all three add as squares."""
    share = {"value": 0.8, "ci": [0.4, 1.6]}
    judged = JudgedAdversary.of(
        {
            "labels": 200, "raw": share, "share": share, "precision": {"value": 0.8, "ci": [0.4, 1.6]},
            "recall": {"value": 0.5, "ci": [0.25, 1.0]}, "power": 1.0, "strata": [],
        }
    )  # fmt: skip
    limits = Limits(estimate=0.01, standard_error=0.001, interval=[0.005, 0.02], conservative=0.03, proven=0.001)
    found = as_judged(limits, judged, "untuned")
    assert found is not None
    assert found.estimate == pytest.approx(0.016)
    assert found.interval == pytest.approx([0.016 * 2 ** -(3**0.5), 0.016 * 2 ** (3**0.5)])
    assert as_judged(limits.model_copy(update={"estimate": 0.0}), judged, "untuned") is None
