"""Low-rank adversaries: reference, best and checkpoint are those of the base, the merged model, the adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astprompter.config import Settings, settings_from
from astprompter.models.local.lm import weights_hash
from astprompter.models.local.loading import load_model
from astprompter.models.local.lora import WithoutAdapters, add_adapters, merged_weights
from astprompter.training.packing import pack, sequence_logps
from astprompter.workflows.load import build_lm, load_training_models
from astprompter.workflows.train import new_trainer
from helpers.tiny import FAMILIES, make_model, write_models

pytest.importorskip("peft")
IDS = torch.tensor([[5, 9, 30, 31, 7, 250]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("lora")
    write_models(path, a=0, b=4)
    return path


def settings(folder: Path, defender: str, **training: Any) -> Settings:
    texts = str(folder / "texts.jsonl")
    fixed = {"updates": 4, "pairs_per_iteration": 6, "batch_size": 3, "dev_every": 1, "dev_prefixes": 3}
    return settings_from({
        "adversary": {"path": str(folder / "a"), "lora_rank": 4},
        "defender": {"path": str(folder / defender)},
        "scorer": {"spec": "word:a"},
        "data": {"train": texts, "dev": texts, "eliciting": texts},
        "rollout": {"horizon": 2, "max_new_tokens": 5, "top_p": 0.95},
        "training": {**fixed, "learning_rate": 1e-2, "warmup_updates": 1, **training},
    })  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_start_as_nothing_and_merge_to_the_same_model(family: str, tmp_path: Path) -> None:
    model, plain = make_model(family, 320), make_model(family, 320)
    assert merged_weights(plain) is None
    add_adapters(model, rank=3, alpha=6, seed=1)
    assert torch.equal(logits(model), logits(plain))
    tuned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert tuned
    assert all("lora_" in name for name in tuned)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(logits(model), logits(plain), atol=1e-2)
    model.save_pretrained(tmp_path / "m", state_dict=merged_weights(model))
    assert torch.allclose(logits(load_model(str(tmp_path / "m"))), logits(model), atol=1e-4)
    twin = make_model(family, 320)
    add_adapters(twin, rank=3, alpha=6, seed=1)
    starts = [{n: p for n, p in m.named_parameters() if "lora_A" in n} for m in (model, twin)]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


@pytest.mark.slow
def test_the_reference_is_the_base_in_the_same_memory(folder: Path) -> None:
    models = load_training_models(settings(folder, "b"))
    assert isinstance(models.reference, WithoutAdapters)
    assert (models.reference.autocast, models.reference.heard_tokens) == (
        models.adversary.autocast,
        models.adversary.heard_tokens,
    )
    assert models.reference.model is models.adversary.model
    plain = build_lm(settings(folder, "b").adversary, settings(folder, "b").rollout)
    with torch.no_grad():
        for name, parameter in models.adversary.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
        packed = pack([((5, 9, 30), (31, 7)), ((5, 9, 30), (8,))])
        policy, reference, base = (sequence_logps(lm, packed) for lm in (models.adversary, models.reference, plain))
    assert torch.allclose(reference, base, atol=1e-5)
    assert not torch.allclose(policy, base, atol=1e-2)
    assert all(p.requires_grad == ("lora_" in name) for name, p in models.adversary.model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("defender", ["a", "b"])
def test_a_run_tunes_saves_and_resumes_adapters_only(folder: Path, tmp_path: Path, defender: str) -> None:
    chosen = settings(folder, defender)
    trainer = new_trainer(chosen, tmp_path / "run", resume=False)
    assert trainer.models.free_reference == (defender == "a")
    trainer.run()
    run = tmp_path / "run"
    saved = load_file(run / "checkpoint" / "policy.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)
    assert any(float(value.abs().max()) > 0 for name, value in saved.items() if "lora_B" in name)
    start = weights_hash(load_model(str(folder / "a")))
    assert json.loads((run / "config.json").read_text())["models_sha256"]["adversary"] == start
    best = build_lm(chosen.adversary.model_copy(update={"path": str(run / "best")}), chosen.rollout)
    assert set(best.model.state_dict()) == set(load_model(str(folder / "a")).state_dict())
    again = new_trainer(chosen, run, resume=True)
    for name, value in again.models.adversary.model.state_dict().items():
        assert torch.equal(value, trainer.models.adversary.model.state_dict()[name]), name
    assert again.state == trainer.state
