"""The larger language model of ``scripts/build_embedded.py lm-large``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

IDS = torch.arange(40).reshape(2, 20) * 7 % 61


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=24, n_embd=16, n_layer=2, n_head=4))
    with torch.no_grad():
        for param in model.parameters():  # trained models have no zero biases and no norms of one
            param.add_(0.3 * torch.randn_like(param))
    return model.eval()


def test_grown_model_is_larger_and_says_the_same(script: Any) -> None:
    small = small_model()
    large = script("embedded.growth").grow(small, 4).eval()
    assert (large.config.n_embd, large.config.n_head, large.config.n_layer) == (32, 8, 4)
    assert large.lm_head.weight is large.transformer.wte.weight
    expected, got = small(IDS).logits, large(IDS).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_copies_learn_different_things_and_new_blocks_learn(script: Any) -> None:
    large = script("embedded.growth").grow(small_model(), 3).train()
    large(IDS, labels=IDS).loss.backward()
    for name, param in large.transformer.h[0].named_parameters():
        outputs = param.grad.chunk(3, dim=-1)[2] if "c_attn" in name else param.grad  # value, for q, k and v
        first, second = outputs.chunk(2, dim=-1)
        assert not torch.allclose(first, second, rtol=1e-2, atol=0), name
    new = large.transformer.h[2]
    assert new.attn.c_proj.weight.grad.norm() > 0
    assert new.mlp.c_proj.weight.grad.norm() > 0


def test_training_that_is_shortened_still_anneals(script: Any) -> None:
    recipe = script("embedded.lm").Recipe
    tokens = script("embedded.lm").BATCH_TOKENS
    full, short = (recipe("x", updates * tokens, warmup=10, decay=1.0) for updates in (100, 60))
    rates = [full.learning_scale(step) for step in range(40)] + [short.learning_scale(step) for step in range(40, 60)]
    assert rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 60)
    assert recipe("x", 1000 * tokens).learning_scale(549) == 1.0
    assert recipe("x", 1000 * tokens).sequence_length(549) == 128
    assert recipe("x", 1000 * tokens).sequence_length(999) == 512
