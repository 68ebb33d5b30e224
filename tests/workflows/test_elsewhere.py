"""A run works from any working directory, and when it is moved together with what it was started with."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from astprompter.config import load_settings
from astprompter.runs.directory import RunDirectory
from astprompter.runs.started import settings_here, started_in
from helpers.tiny import run_command, write_models

SMALL = [
    "rollout.max_new_tokens=5", "rollout.horizon=2", "training.updates=2", "training.pairs_per_iteration=4",
    "training.batch_size=4", "training.dev_prefixes=3", "training.min_margin=0", "evaluation.resamples=100",
    "scorer.spec=python:mine.scores:letters",
]  # fmt: skip
SCORER = "def letters(texts):\n    return [min(1.0, 3 * text.count('e') / max(1, len(text))) for text in texts]\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with models, texts, a scorer and a run that was started there by relative names."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_models(folder, model=0)
    (folder / "mine").mkdir()
    (folder / "mine" / "scores.py").write_text(SCORER)
    monkeypatch.chdir(folder)
    data = [f"data.{name}=texts.jsonl" for name in ("train", "dev", "test", "eliciting")]
    models = ["adversary.path=model", "defender.path=./model"]
    assert run_command(monkeypatch, "train", "-o", "runs/mine", *models, *data, *SMALL) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_a_run_is_evaluated_played_and_resumed_from_elsewhere(
    project: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, moved: bool
) -> None:
    assert RunDirectory(Path("runs/mine")).settings().defender.path == "./model"  # at home names stay what they are
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if moved:
        project = Path(shutil.move(project, tmp_path / "other-name"))
    run = project / "runs" / "mine"
    before = (run / "log.jsonl").read_text()
    assert run_command(monkeypatch, "train", "-o", str(run), "--resume") == 0
    assert (run / "log.jsonl").read_text() == before
    monkeypatch.setattr("sys.stdin", io.StringIO("It rains.\n\n\n"))
    assert run_command(monkeypatch, "play", str(run)) == 0
    assert run_command(monkeypatch, "evaluate", str(run), "--out", "results") == 0
    assert "8 of 8 test prefixes also stand in the training set" in capsys.readouterr().out
    config = json.loads((elsewhere / "results" / "summary.json").read_text())["config"]
    assert (config["started_in"], config["settings"]["data"]["test"]) == ("..", f"../{project.name}/texts.jsonl")
    assert run_command(monkeypatch, "export", "results", "--to", "hardening", "-o", "pairs", "--samples", "2") == 0
    assert str(tmp_path) not in (run / "config.json").read_text()


def test_only_what_names_something_there_is_sought_there(tmp_path: Path, monkeypatch: Any) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there / "clf", there / "run", there / "embedded", here):
        folder.mkdir(parents=True)
    for name in ("texts.jsonl", "judge.py"):
        (there / name).touch()
    monkeypatch.chdir(there)
    written = load_settings(
        overrides=[
            "data.train=texts.jsonl#column", "data.dev=nowhere.jsonl", f"data.test={there / 'texts.jsonl'}",
            "scorer.spec=hf:clf#label", "evaluation.scorers=[python:judge:harsh, python:absent:f, word:clf]",
            "defender.path=openai:model",
        ]
    )  # fmt: skip
    config: Any = SimpleNamespace(settings=written.as_dict(), started_in=started_in(Path("run")))
    assert config.started_in == ".."
    assert settings_here(config, Path("run")) == written
    monkeypatch.chdir(here)
    found = settings_here(config, there / "run", ["seed=3"])
    assert found.seed == 3
    assert (found.data.train, found.data.dev) == ("../there/texts.jsonl#column", "nowhere.jsonl")
    assert found.data.test == str(there / "texts.jsonl")
    assert found.scorer.spec == "hf:../there/clf#label"
    assert found.evaluation.scorers == ["python:../there/judge:harsh", "python:absent:f", "word:clf"]
    assert (found.adversary.path, found.defender.path) == ("embedded", "openai:model")
    assert Path(found.data.train.partition("#")[0]).samefile(there / "texts.jsonl")
    config.started_in = None  # not known
    assert settings_here(config, there / "run") == written
