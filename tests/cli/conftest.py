"""Inputs of the command line's tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.tiny import PREFIXES, make_model, make_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("input")
    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    other = make_tokenizer(300)
    make_model("llama", len(other), seed=2).save_pretrained(folder / "other")
    other.save_pretrained(folder / "other")
    (folder / "prefixes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PREFIXES))
    return {name: str(folder / name) for name in ("model", "other", "prefixes.jsonl")}
