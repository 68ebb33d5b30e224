"""A policy in shards learns what a whole one does, and what is saved is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astprompter.base.errors import UserError
from astprompter.base.processes import rank, share
from astprompter.config import load_settings
from astprompter.models.local.lm import LanguageModel
from astprompter.models.local.loading import load_model
from astprompter.training.packing import pack, sequence_logps
from astprompter.training.sharding import Placement, check_shard, kept_weights, placed_like, whole
from astprompter.workflows.resume import check_resumable
from helpers import sharded_runs
from helpers.forked import in_two_processes
from helpers.launching import alone, same_checkpoints, same_rows, together, write_inputs
from helpers.tiny import SHORT, keys_for, make_model, make_tokenizer
from helpers.zygote import Zygote


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    # Of a minibatch of one pair, one of two processes has none; with few tokens a pass, two pairs are two passes.
    uneven = ["training.batch_size=4", "training.max_tokens_per_batch=20"]
    return [*write_inputs(tmp_path_factory.mktemp("input")), *uneven]


@pytest.mark.slow
def test_shards_learn_what_the_whole_does(forks: Zygote, inputs: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    together(forks.script, sharded_runs.__file__, str(tmp_path), *inputs)
    alone(monkeypatch, "train", "-o", str(one), *inputs)
    same_checkpoints(one, two, inputs)
    same_rows(one / "pairs.jsonl", two / "pairs.jsonl")
    same_rows(one / "log.jsonl", two / "log.jsonl")
    facts = [json.loads((tmp_path / f"facts{rank}.json").read_text()) for rank in (0, 1)]
    for held in ("policy", "moments", "reference"):
        assert sum(fact[held] for fact in facts) == facts[0]["whole"]
        assert all(fact[held] < 0.55 * fact["whole"] for fact in facts)
    assert facts[0]["empty"] == 0 < facts[1]["empty"]

    alone(monkeypatch, "train", "-o", str(tmp_path / "alone"), "--resume", "training.shard=false")
    same_checkpoints(one, tmp_path / "alone", inputs)
    same_rows(one / "log.jsonl", tmp_path / "alone" / "log.jsonl")

    alone(monkeypatch, "sft", "-o", str(tmp_path / "sft1"), *inputs)
    same_checkpoints(tmp_path / "sft1", tmp_path / "sft", inputs)
    policy = load_file(tmp_path / "sft" / "checkpoint" / "policy.safetensors")
    best = load_file(tmp_path / "sft" / "best" / "model.safetensors")  # of SFT the last policy
    assert best.keys() == load_file(tmp_path / "sft1" / "best" / "model.safetensors").keys()  # tied ones stored once
    assert all(torch.equal(best[name], policy[name]) for name in policy)
    assert load_model(str(tmp_path / "sft" / "best")).num_parameters() == facts[0]["whole"]


def test_shards_need_company_and_no_adapters(monkeypatch: Any) -> None:
    check_shard(load_settings("embedded", ["adversary.lora_rank=4"]))
    with pytest.raises(UserError, match=r"needs several processes: start them with 'torchrun"):
        check_shard(load_settings("embedded", ["training.shard=true"]))
    monkeypatch.setattr("astprompter.training.sharding.world", lambda: 2)
    check_shard(load_settings("embedded", ["training.shard=true"]))
    with pytest.raises(UserError, match=r"does not go with adversary\.lora_rank"):
        check_shard(load_settings("embedded", ["training.shard=true", "adversary.lora_rank=4"]))


def test_where_weights_are_may_change_on_resume() -> None:
    recorded = load_settings("embedded", ["training.shard=true"])
    assert not check_resumable(load_settings("embedded", []), recorded).training.shard


def test_without_shards_nothing_is_moved(make_lm: Any) -> None:
    lm = make_lm()
    before = dict(lm.model.named_parameters())
    placement, tensor = Placement(lm, shard=False), torch.arange(3.0)
    with placement.gathered():
        assert placement.in_step([[0], [1]]) == [[0], [1]]
    assert all(parameter is before[name] for name, parameter in lm.model.named_parameters())
    assert whole(tensor) is tensor
    assert placed_like(tensor, tensor) is tensor
    assert kept_weights(lm.model) is None


def test_shards_give_the_values_and_gradients_of_the_whole() -> None:
    """Two processes with a sequence each; what they keep is put together, and cut up again."""
    sequences = [((5, 9, 17), (7, 8)), ((5, 9), (30, 31, 32))]

    def work() -> Any:
        tokenizer = make_tokenizer()
        lms = [LanguageModel(make_model("gpt2", len(tokenizer)), tokenizer, name="x", sampling=SHORT) for _ in range(2)]
        plain, lm = lms
        packed = pack(list(share(sequences)))
        mine = sequence_logps(plain, packed)
        sequence_logps(plain, pack(sequences)).sum().backward()
        placement = Placement(lm, shard=True)
        values = placement.logps(packed)
        values.sum().backward()
        placement.sum_gradients()
        with torch.no_grad():
            again = placement.logps(packed)
        with placement.gathered():
            spoken = lm.start(["Hello."], turns=1).speak(keys_for(1))[0].text
        groups = placement.in_step([[0]] * (1 + rank()))
        (name, parameter), wanted = next(iter(lm.model.named_parameters())), next(iter(plain.model.parameters()))
        assert parameter.grad is not None
        assert wanted.grad is not None
        weights = kept_weights(lm.model) or {}
        return {
            "values": torch.allclose(values, mine, atol=1e-5) and torch.allclose(again, mine, atol=1e-5),
            "gradient": float((whole(parameter.grad) - wanted.grad).norm() / wanted.grad.norm()),
            "held": parameter.to_local().numel() / wanted.numel(),  # type: ignore[attr-defined]
            "same again": bool((placed_like(wanted.detach(), parameter).to_local() == parameter.to_local()).all()),  # type: ignore[attr-defined]
            "kept": sum(value.numel() for value in weights.values()),
            "tied": weights["lm_head.weight"] is weights[name],
            "groups": [list(group) for group in groups],
            "spoken": spoken == plain.start(["Hello."], turns=1).speak(keys_for(1))[0].text,
        }

    first, second = in_two_processes(work)
    for found in (first, second):
        assert (found["values"], found["tied"], found["same again"], found["spoken"]) == (True,) * 4
        assert found["gradient"] < 1e-4
        assert found["held"] == pytest.approx(0.5, abs=0.01)
    assert first["kept"] > 10_000
    assert second["kept"] == 0  # nothing is kept but in the first process
    assert (first["groups"], second["groups"]) == ([[0], []], [[0], [0]])
