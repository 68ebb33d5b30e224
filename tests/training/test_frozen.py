"""Training leaves defender and reference as they were, and says so with hashes; if it did not, the run fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base.errors import RunError
from astprompter.config import Settings, settings_from
from astprompter.models.local.lm import weights_hash
from astprompter.models.local.loading import load_model
from astprompter.training.trainer import Trainer
from astprompter.workflows.train import new_trainer
from helpers.tiny import write_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    made = tmp_path_factory.mktemp("models")
    write_models(made, a=0, b=5)
    return made


def chosen(folder: Path, defender: str, lora_rank: int = 0) -> Settings:
    return settings_from(
        {
            "adversary": {"path": str(folder / "a"), "lora_rank": lora_rank},
            "defender": {"path": str(folder / defender)},
            "data": {name: str(folder / "texts.jsonl") for name in ("train", "dev", "eliciting")},
            "scorer": {"spec": "word:a"},
            "rollout": {"horizon": 1, "max_new_tokens": 4},
            "training": {"updates": 2, "pairs_per_iteration": 6, "batch_size": 3, "dev_prefixes": 3,
                         "learning_rate": 1e-2, "warmup_updates": 1},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("defender", "lora_rank"),
    [("a", 0), *(pytest.param(name, rank, marks=pytest.mark.slow) for name, rank in (("b", 0), ("a", 2), ("b", 2)))],
)
def test_hashes_before_and_after_are_recorded_and_equal(
    folder: Path, tmp_path: Path, defender: str, lora_rank: int
) -> None:
    if lora_rank:
        pytest.importorskip("peft")
    trainer = new_trainer(chosen(folder, defender, lora_rank), tmp_path / "run", resume=False)
    trainer.run()
    recorded = json.loads((tmp_path / "run" / "frozen.json").read_text())
    expected = {"defender": defender, "reference": "a"}
    hashes = {name: weights_hash(load_model(str(folder / path))) for name, path in expected.items()}
    assert recorded == {"format": 4, "before": hashes, "after": hashes}
    if not lora_rank:
        assert weights_hash(trainer.models.adversary.model) != hashes["reference"]


@pytest.mark.parametrize("who", ["defender", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_changed_defender_or_reference_fails_the_run(
    folder: Path, tmp_path: Path, who: str, monkeypatch: Any
) -> None:
    trainer = new_trainer(chosen(folder, "b"), tmp_path / "run", resume=False)
    loop = Trainer._loop

    def meddling(self: Trainer) -> None:
        loop(self)
        with torch.no_grad():
            next(getattr(self.models, who).model.parameters()).view(-1)[0].add_(1e-3)

    monkeypatch.setattr(Trainer, "_loop", meddling)
    with pytest.raises(RunError, match=f"changed the weights of the {who}"):
        trainer.run()
    recorded = json.loads((tmp_path / "run" / "frozen.json").read_text())
    assert [name for name in recorded["before"] if recorded["before"][name] != recorded["after"][name]] == [who]
