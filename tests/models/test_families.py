"""Eight families of models, one of each way to compute: what they say and hear is what they compute by themselves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WAYS = {
    "gpt2": ("shared", "all", True),
    "llama": ("shared", "all", True),
    "gemma2": ("copied", "layers", True),
    "gpt_oss": ("copied", "layers", True),
    "cohere2": ("shared", "layers", True),
    "bloom": ("copied", "valid", False),
    "mamba": ("stepwise", "valid", False),
    "qwen3_next": ("cached", "valid", False),
}


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("families")


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in WAYS if name != "llama")]
)
def test_a_family_computes_what_the_model_does_by_itself(families: Any, tokenizer: Any, family: str) -> None:
    found = families.compared(families.small(family, vocabulary=len(tokenizer)), tokenizer, tokens=100)
    assert found["conversation"] < 1e-4
    assert found["update"] < 1e-4
    assert (found["cache"], found["masks"], found["packs"]) == WAYS[family]
