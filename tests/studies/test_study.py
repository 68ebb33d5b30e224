"""A study as a whole, through the command line; its tables."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.base.progress import Silent
from astprompter.evaluation.grid import comma_separated, guarded, latex, markdown
from astprompter.evaluation.statistics import Options
from astprompter.evaluation.summarise import figures_of
from astprompter.runs.schema.study import Case, CaseModels, Experiment, Finding, StudyAdversary
from astprompter.studies import runner as module
from astprompter.studies.jobs import jobs_of
from astprompter.studies.paper.tables import every_figure, grids, write_all
from astprompter.studies.plan import (
    load_plan,
)
from astprompter.studies.runner import Runner
from astprompter.studies.summary import experiment_of
from helpers.commands import SMALL, call
from helpers.evaluations import pooled
from helpers.files import read_rows
from helpers.tiny import SENTENCES, write_models

OPTIONS = Options(seed=0, resamples=200, level=0.95, threshold=0.5)


class InProcess:
    """Runs a job's command in this process: as :class:`subprocess.Popen`, without its seconds of loading."""

    def __init__(self, command: Sequence[str], *, stdout: Any, env: Any, **options: Any) -> None:
        from contextlib import redirect_stderr, redirect_stdout

        from astprompter.cli import app as cli

        del options
        assert command[:3] == [sys.executable, "-m", "astprompter"]
        assert env["OMP_NUM_THREADS"]
        text = io.StringIO()
        before = sys.argv
        try:
            sys.argv = ["astprompter", *command[3:]]
            with redirect_stdout(text), redirect_stderr(text):
                cli.main()
            self.code = 0
        except SystemExit as stop:
            self.code = int(stop.code or 0)
        finally:
            sys.argv = before
        stdout.write(text.getvalue().encode())

    def poll(self) -> int:
        return self.code


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("study")
    write_models(folder, small=0, large=3)
    rows = [{"dialogue": [[text, "Yes."], ["Is it so?", ""]]} for text in SENTENCES]
    (folder / "human.json").write_text(json.dumps(rows))
    plan = """
        summary: s
        why: w
        models: {small: null, large: null}
        pairs: [[small, small], [small, large]]
        train: {ours: {role: ours}, sft: {preset: sft, role: baseline, pairs: first}}
        transfer: [ours]
        seeds: [0, 1]
        attacks: [untuned]
        claims: [1, 4a]
    """
    (folder / "mini.yaml").write_text(plan)
    data = [f"data.{name}={folder / 'texts.jsonl'}" for name in ("train", "dev", "test", "eliciting")]
    small = [value for value in SMALL if "scorer" not in value and "updates" not in value]
    return [str(folder / "mini.yaml"), f"models.small={folder / 'small'}", f"models.large={folder / 'large'}",
            f"human={folder / 'human.json'}", *data, *small, "scorer.spec=word:e", "training.updates=2",
            "rollout.max_new_tokens=3", "rollout.horizon=1"]  # fmt: skip


@pytest.mark.slow
def test_a_study_end_to_end(inputs: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0)
    out = str(tmp_path / "out")
    code, text, err = call(capsys, "experiment", *inputs, "--out", out, "--dry-run")
    assert (code, text.count("to do"), text.count("done ")) == (0, 24, 0)
    assert f"astprompter train --preset {out}/runs/small-vs-small/seed-0/ours.yaml" in text
    code, text, err = call(capsys, "experiment", *inputs, "--out", out)
    assert code == 0, err + text
    folder = tmp_path / "out" / "mini"
    assert {path.name for path in folder.iterdir()} == {
        "experiment.json", "tables.md", "tables.tex", "tables.csv", "findings.md",
    }  # fmt: skip
    summary = json.loads((folder / "experiment.json").read_text())
    assert summary["missing"] == []
    main = summary["cases"]["small-vs-small"]["adversaries"]
    assert list(main) == ["untuned", "human", "ours", "sft", "ours@large"]
    assert list(summary["cases"]["small-vs-large"]["adversaries"]) == ["untuned", "human", "ours", "ours@small"]
    assert main["ours"]["seeds"] == [0, 1]
    assert [main[name]["kind"] for name in main] == ["untuned", "human", "ours", "baseline", "transfer"]
    measured = tmp_path / "out" / "evaluations" / "small-vs-small"
    rows = [
        turn["nll"]
        for seed in (0, 1)
        for row in read_rows(measured / f"seed-{seed}" / "sft" / "trajectories.jsonl")
        for turn in row["turns"]
    ]  # fmt: skip
    assert main["sft"]["nll"]["mean"] == pytest.approx(np.mean(rows))
    assert len(summary["transfer"]) == 4
    assert len(summary["front"]) == 9
    assert [item["id"] for item in summary["findings"]] == ["1", "4a"]  # those that the plan names
    assert {item["id"]: item["verdict"] for item in summary["findings"]}["4a"] == "not measurable"
    assert Experiment.read(folder / "experiment.json").plain() == summary  # nothing is written that is not described
    assert "Transfer" in (folder / "tables.md").read_text()
    table = list(csv.DictReader(io.StringIO((folder / "tables.csv").read_text())))
    found = [row for row in table if row["adversary"] == "sft" and row["metric"] == "nll" and row["turn"] == "all"]
    assert float(found[0]["mean"]) == pytest.approx(main["sft"]["nll"]["mean"])
    assert "not measurable" in text
    code, text, err = call(capsys, "experiment", *inputs, "--out", out, "--dry-run")
    assert (code, text.count("to do"), text.count("done ")) == (0, 0, 24)
    run = json.loads((tmp_path / "out" / "runs" / "small-vs-small" / "seed-1" / "sft" / "config.json").read_text())
    assert run["settings"]["training"]["objective"] == "sft"


@pytest.mark.slow
def test_tables_of_a_part_say_so(inputs: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    code, _, err = call(capsys, "experiment", *inputs, "--out", str(tmp_path), "--tables-only")
    assert code == 2
    assert "nothing of experiment 'mini' is measured yet" in err
    plan = load_plan(inputs[0], inputs[1:])
    jobs = jobs_of(plan, tmp_path)
    Runner(tmp_path, jobs=2, progress=Silent()).run(jobs[:2])
    code, _, err = call(capsys, "experiment", *inputs, "--out", str(tmp_path), "--tables-only")
    assert code == 0, err
    for name in ("tables.md", "findings.md"):
        assert "22 jobs are still to be done" in (tmp_path / "mini" / name).read_text()
    assert experiment_of(plan, tmp_path).cases["small-vs-small"].adversaries.keys() == {"untuned", "human"}


def test_cells_cannot_be_formulas_or_markup() -> None:
    assert [guarded(cell) for cell in ("=1+1", "+a", "-a", "@a", "a=b", -1.5)] == [
        "'=1+1",
        "'+a",
        "'-a",
        "'@a",
        "a=b",
        -1.5,
    ]
    summary = minimal("=cmd|' /C calc'!A0 & 50_%")
    text = comma_separated(every_figure(summary))
    assert all(not cell.startswith("=") for row in csv.reader(io.StringIO(text)) for cell in row)
    (grid, *_) = grids(summary)
    assert "| =cmd\\|' /C calc'\\!A0 \\& 50\\_% |" in markdown(grid)
    assert r"=cmd\textbar{}' /C calc'!A0 \& 50\_\%" in latex(grid)
    assert "90 % interval" in grid.note
    table = list(csv.DictReader(io.StringIO(text)))
    found = {row["metric"]: row for row in table if row["turn"] == "all"}
    assert float(found["diversity vendi"]["mean"]) == 3.0
    assert float(found["failure_within_horizon"]["mean"]) <= 1.0
    bounds = [float(found[f"failure_within_horizon at {end}"]["mean"]) for end in ("least", "most")]
    assert bounds[0] <= float(found["failure_within_horizon"]["mean"]) <= bounds[1]
    assert "replies: blocked" in found
    assert (found["nll"]["share"], found["nll"]["threshold"], found["nll"]["seed_std_share"]) == ("", "", "")
    assert (found["tox_reply"]["share"] != "", found["tox_reply"]["threshold"]) == (True, "0.5")


def minimal(name: str) -> Experiment:
    row = StudyAdversary(
        **dict(figures_of(pooled(0), OPTIONS)), kind="variant", preset="", trained_on=None, changes={}, reward=None,
        tau=None,
    )  # fmt: skip
    row = row.model_copy(update={"diversity": {"distinct_utterances": 0.5, "self_bleu": None, "vendi": 3.0}})
    models = CaseModels(adversary="a", defender="d")
    case = Case(
        adversary="a", defender="d", models=models, scorer="w", test="t", horizon=3, level=0.9, likelihood="defender",
        adversaries={name: row}, comparisons=[],
    )  # fmt: skip
    return Experiment(
        experiment="x", summary="s", command=[], plan={}, versions={}, pooling="p", cases={"c": case}, scaling=[],
        transfer=[], front=[], missing=[], findings=[],
    )  # fmt: skip


def test_writing_replaces_all_files(tmp_path: Path) -> None:
    finding = Finding(id="1", claim="one claim", verdict="not measurable", evidence="", figures={})
    summary = minimal("one").model_copy(update={"findings": [finding]})
    write_all(summary, tmp_path)
    assert "one claim" in (tmp_path / "findings.md").read_text()
    write_all(minimal("two").model_copy(update={"experiment": "two"}), tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text())["experiment"] == "two"
    for name in ("tables.md", "tables.tex", "tables.csv"):
        text = (tmp_path / name).read_text()
        assert "two" in text
        assert "one" not in text
    assert not (tmp_path / "findings.md").exists()  # of a plan that names no claims


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["experiments"], ["experiment", "--dry-run"], ["experiment", "--tables-only"]])
def test_what_trains_nothing_loads_no_torch(inputs: list[str], tmp_path: Path, arguments: list[str]) -> None:
    command, *options = arguments
    words = [command, *options, *([*inputs, "--out", str(tmp_path)] if options else [])]
    code = (
        "import atexit, sys\n"
        "from astprompter.cli.app import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'transformers' in sys.modules))\n"
        f"sys.argv = ['astprompter', *{words!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "False False", done.stdout + done.stderr
    assert done.returncode == (2 if "--tables-only" in options else 0), done.stderr
