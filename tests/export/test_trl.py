"""The example for a trainer of one's own, where TRL is installed: exported pairs in, a model folder out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from helpers.tiny import write_models

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
EXAMPLE = Path(__file__).parents[2] / "examples" / "repair_with_trl.py"


def test_a_model_is_tuned_on_exported_pairs(tmp_path: Path) -> None:
    write_models(tmp_path, model=0)
    row = {"prompt": "The rain.", "chosen": " A plum is good.", "rejected": " A pear, a pear!", "chosen_toxicity": 0.0}
    (tmp_path / "hardening.jsonl").write_text("".join(json.dumps(row | {"candidates": i}) + "\n" for i in range(8)))
    spec = importlib.util.spec_from_file_location("repair_with_trl", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.repair(str(tmp_path / "model"), str(tmp_path / "hardening.jsonl"), str(tmp_path / "out"), steps=2)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != (tmp_path / "model/model.safetensors").read_bytes()
