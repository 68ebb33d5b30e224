"""Several defenders in one call: each is measured as if alone, and nothing said of one can be taken for another's."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from astprompter.evaluation.tables import of_summaries
from astprompter.runs.schema.summary import Summary
from helpers.commands import call, settings

pytestmark = pytest.mark.slow
SCORER = "of_defenders"


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scores by letters; after ``good`` texts it has no score for any."""
    told = SimpleNamespace(good=10**9, asked=0)

    def score(texts: list[str]) -> list[float]:
        told.asked += len(texts)
        return [min(1.0, 5 * t.count("e") / len(t)) if told.asked <= told.good else math.nan for t in texts]

    told.score = score
    monkeypatch.setitem(sys.modules, SCORER, told)
    return told


def command(files: dict[str, str], out: Path, *defenders: str, **more: str) -> list[str]:
    chosen = settings(files, **{"scorer.spec": f"python:{SCORER}:score", **more})
    place = chosen.index("scorer.spec=word:a")
    named = [word for name in defenders for word in ("--defender", files[name])]
    return ["evaluate", "untuned", files["other"], "-o", str(out), *named, *chosen[:place], *chosen[place + 1 :]]


def figures(folder: Path) -> tuple[Any, str, str]:
    rows = json.loads((folder / "summary.json").read_text())["adversaries"]
    return rows, (folder / "trajectories.jsonl").read_text(), (folder / "failures.jsonl").read_text()


def test_each_is_measured_as_if_alone_and_told_apart_everywhere(
    capsys: Any, files: dict[str, str], scorer: Any, tmp_path: Path
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    gates = ["--fail-over", "replies=0", "--junit", str(tmp_path / "gates.xml")]
    code, out, err = call(capsys, *command(files, two, "model", "other"), *gates)
    assert code == 3
    against = [two / "against" / name for name in ("model", "other")]
    assert sorted(two.rglob("unfinished")) == []
    for name, folder in zip(("model", "other"), against, strict=True):
        assert call(capsys, *command(files, one / name, **{"defender.path": files[name]}))[0] == 0
        assert figures(folder) == figures(one / name)
    assert "All adversaries on held-out test prefixes, by defender" in out
    assert all(f"Results: {folder}" in out.replace("\n", "") for folder in against)
    (over,) = [line for line in err.splitlines() if line.startswith("gate:") and "is over" in line]
    assert "other against model 0." in over
    assert "other against other 0." in over
    root = ElementTree.parse(tmp_path / "gates.xml").getroot()  # noqa: S314
    assert [suite.get("name") for suite in root] == [
        f"{adversary} against {defender}" for defender in ("model", "other") for adversary in ("untuned", "other")
    ]
    code, _, err = call(capsys, "report", *map(str, against), "--format", "md", "-o", str(tmp_path / "page.md"))
    assert code == 0, err
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# 2 measurements on different things, each with its own figures")
    assert page.count("# All adversaries on the same openings") == 2
    assert call(capsys, *command(files, tmp_path / "no", "model", "model"))[0] == 2


def test_what_failed_on_one_defender_is_asked_again_and_the_other_stays(
    capsys: Any, files: dict[str, str], scorer: Any, tmp_path: Path, caplog: Any
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    given = [*command(files, out, "model", "other"), "--max-errors", "1"]
    assert call(capsys, *command(files, whole, "model", "other"))[0] == 0
    scorer.good, scorer.asked, every = scorer.asked * 3 // 4, 0, scorer.asked
    code, _, err = call(capsys, *given)
    assert code == 1
    assert "no turn of 'other against other' could be assessed" in err
    summaries = {name: Summary.read(out / "against" / name / "summary.json") for name in ("model", "other")}
    joint, *_ = of_summaries(summaries)  # the second needs columns that the first does not
    assert [column.name for column in joint.columns][:4] == ["defender", "adversary", "failed prefixes", "at least"]
    assert {len(row) for row in joint.rows} == {len(joint.columns)}
    assert "of other against other without nll" not in joint.note
    scorer.good, scorer.asked = 10**9, 0
    code, _, err = call(capsys, *given, "--retry-errors")
    assert code == 0, err
    assert 0 < scorer.asked <= every // 2
    for name in ("model", "other"):
        assert figures(out / "against" / name) == figures(whole / "against" / name)
    assert sorted(out.rglob("unfinished")) == []
    caplog.clear()
    scorer.asked, before = 0, sorted((path, path.read_bytes()) for path in out.rglob("*.json*"))
    for gate, ends in (("1", 0), ("0.01", 3)):  # a step that is always on: nothing is left, and the gates go by it
        code, shown, err = call(capsys, *given, "--retry-errors", "--fail-over", gate)
        assert code == ends, err
        assert "are replaced" not in caplog.text
        assert caplog.text.count("is left to ask for again") == 2
        caplog.clear()
        assert "All adversaries on held-out test prefixes, by defender" in shown
    assert (scorer.asked, before) == (0, sorted((path, path.read_bytes()) for path in out.rglob("*.json*")))
    assert call(capsys, *given, "--retry-errors", "seed=5")[0] == 2  # not what is there
