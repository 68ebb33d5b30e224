"""Trackers get every number of the log and no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from astprompter.runs.schema.run import LogRow, NllMean
from astprompter.runs.trackers import Trackers
from helpers.files import read_rows
from helpers.tiny import run_command, write_models


class Kept:
    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.rows.append((numbers, step))


def test_numbers_alone_pass_under_their_paths() -> None:
    kept = Kept()
    row = LogRow(type="dev", iteration=3, updates=7, best=True, nll=NllMean(mean=1.5, likelihood="x"), loss=None)
    Trackers([kept]).log(row)
    expected = {"dev/iteration": 3.0, "dev/updates": 7.0, "dev/best": 1.0, "dev/nll/mean": 1.5}
    assert kept.rows == [(expected, 7)]
    with pytest.raises(ValidationError, match="finite number"):
        LogRow(type="dev", iteration=3, updates=7, h=float("nan"))


@pytest.mark.slow
def test_tensorboard_holds_the_log_and_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_models(tmp_path, m=0)
    chosen = [f"data.{name}={tmp_path / 'texts.jsonl'}" for name in ("train", "dev", "eliciting")]
    chosen += [f"{name}.path={tmp_path / 'm'}" for name in ("adversary", "defender")]
    chosen += ["rollout.max_new_tokens=4", "rollout.horizon=2", "training.updates=4", "training.pairs_per_iteration=4"]
    chosen += ["training.batch_size=2", "training.dev_every=1", "training.dev_prefixes=3", "scorer.spec=word:a"]
    run = tmp_path / "run"
    assert run_command(monkeypatch, "train", "-o", str(run), "--tracker", "tensorboard", *chosen) == 0
    events = EventAccumulator(str(run / "trackers" / "run")).Reload()
    assert events.Tags()["tensors"] == []
    assert not any(events.Tags()[kind] for kind in ("images", "audio", "histograms"))
    rows = read_rows(run / "log.jsonl")
    for kind, head in (("dev", "dev"), ("iteration", "train")):
        expected = [(row["updates"], row["reward"]["mean"]) for row in rows if row["type"] == kind]
        found = [(event.step, event.value) for event in events.Scalars(f"{head}/reward/mean")]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_a_tracker_that_cannot_be_used_is_refused_at_once(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run_command(monkeypatch, "train", "-o", str(tmp_path / "a"), "--tracker", "tensorbord") == 2
    assert "Did you mean 'tensorboard'?" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else object())
    assert run_command(monkeypatch, "train", "-o", str(tmp_path / "a"), "--tracker", "mlflow") == 2
    assert "pip install 'astprompter[mlflow]'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
