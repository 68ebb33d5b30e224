"""A model in GGUF is the model that it was made from: its numbers, its tokens, its template; all else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from astprompter.base.errors import UserError
from astprompter.config import ModelSettings, RolloutSettings, ScorerSettings
from astprompter.models.local.chat import ChatModel
from astprompter.models.local.gguf import parts_of
from astprompter.models.local.lm import LanguageModel, weights_hash
from astprompter.models.local.loading import load_model, load_tokenizer
from astprompter.models.local.reference import choose_reference
from astprompter.scorers import load_scorer
from astprompter.workflows.load import build_lm
from helpers.judges import judge_folder
from helpers.tiny import SHORT, make_chat_tokenizer, make_model, make_tokenizer, naming, run_command, write_models

gguf_files = pytest.importorskip("helpers.gguf_files")
IDS = torch.tensor([[5, 9, 30, 31, 7, 250]])
TEXT = "He said 12 things.\nAnd <|end|> é"


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "Q8_0"])
def pair(request: Any, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A GGUF file and a folder of safetensors with the same weights and the same chat tokenizer."""
    folder: Path = tmp_path_factory.mktemp("gguf")
    tokenizer = make_chat_tokenizer()
    model = make_model("llama", len(tokenizer), seed=3)
    file = gguf_files.write_gguf(folder / "tiny.gguf", model, tokenizer, quantised=request.param)
    model.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    return file, folder / "plain"


@pytest.mark.slow
def test_its_log_probabilities_tokens_and_template_are_those_of_the_same_weights(pair: tuple[Path, Path]) -> None:
    file, plain = map(str, pair)
    model, same = load_model(file), load_model(plain)
    assert torch.equal(logits(model), logits(same))
    assert weights_hash(model) == weights_hash(same)
    tokenizer, other = load_tokenizer(file), load_tokenizer(plain)
    assert tokenizer(TEXT)["input_ids"] == other(TEXT)["input_ids"]
    assert tokenizer.get_vocab() == other.get_vocab() and tokenizer.chat_template == other.chat_template
    assert (tokenizer.eos_token, tokenizer.bos_token) == (other.eos_token, other.bos_token)
    lm = build_lm(ModelSettings(path=file, chat="auto"), RolloutSettings(max_new_tokens=6))
    twin = build_lm(ModelSettings(path=plain, chat="auto"), RolloutSettings(max_new_tokens=6))
    assert isinstance(lm, ChatModel) and lm.vocabulary == twin.vocabulary and lm.end_ids == twin.end_ids
    both = (build_lm(ModelSettings(path=path), RolloutSettings(max_new_tokens=6)) for path in (file, file))
    assert choose_reference(*both).free
    assert torch.equal(logits(load_model(f"{Path(file).parent}#tiny.gguf")), logits(same))


def test_it_saves_and_trains_like_any_other(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = load_model(str(pair[0]))
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    assert "quantization" not in (tmp_path / "config.json").read_text()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.slow
def test_a_run_on_it_leaves_a_normal_folder(tmp_path: Path, monkeypatch: Any) -> None:
    tokenizer = make_tokenizer()
    file = gguf_files.write_gguf(tmp_path / "tiny.gguf", make_model("llama", len(tokenizer)), tokenizer, quantised=True)
    write_models(tmp_path)
    small = ["scorer.spec=word:the", "rollout.max_new_tokens=4", "rollout.min_new_tokens=1", "rollout.horizon=1",
             "training.updates=1", "training.pairs_per_iteration=2", "training.batch_size=2",
             "training.learning_rate=1e-3", "training.dev_prefixes=2", "training.min_margin=0"]  # fmt: skip
    out = tmp_path / "run"
    named = naming(tmp_path, file.name, file.name, texts="train dev test")
    assert run_command(monkeypatch, "train", *named, *small, "supervision.q=0", "--out", str(out)) == 0
    assert (out / "best" / "model.safetensors").is_file()
    assert "quantization_config" not in json.loads((out / "best" / "config.json").read_text())
    assert load_tokenizer(str(out / "best")).get_vocab() == tokenizer.get_vocab()
    load_model(str(out / "best"))


@pytest.mark.slow
def test_the_end_of_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    tokenizer = make_chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    more = {"tokenizer.ggml.eot_token_id": end}
    file = str(gguf_files.write_gguf(tmp_path / "it.gguf", make_model("llama", len(tokenizer)), tokenizer, **more))
    lm = LanguageModel(load_model(file), load_tokenizer(file), name="it", sampling=SHORT)
    assert lm.end_ids == (tokenizer.eos_token_id, end)


@pytest.mark.slow
def test_a_judge_in_gguf_gives_the_scores_of_its_folder(tmp_path: Path) -> None:
    folder = judge_folder(tmp_path / "judge")
    file = gguf_files.write_gguf(tmp_path / "judge.gguf", load_model(str(folder)), load_tokenizer(str(folder)))
    texts, options = ["Good day.", "You lie, and you know it."], ScorerSettings()
    scores = load_scorer(f"judge:{file}", options).score(texts)
    assert scores == pytest.approx(load_scorer(f"judge:{folder}", options).score(texts), rel=1e-5)  # its eps is float32
    with pytest.raises(UserError, match=r"classifier '.*judge\.gguf' is in GGUF, which holds language models"):
        load_scorer(f"hf:{file}", options)


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    assert parts_of("org/name#file.gguf") == ("org/name", "file.gguf")
    assert parts_of("org/name") == ("org/name", None)
    tokenizer = make_tokenizer()
    model = make_model("llama", len(tokenizer))
    unknown = gguf_files.write_gguf(tmp_path / "unknown.gguf", model, tokenizer, architecture="plamo")
    with pytest.raises(UserError, match=r"unknown\.gguf': GGUF model with architecture plamo .*; serve it"):
        load_model(str(unknown))
    scaling = {"llama.rope.scaling.type": "yarn"}
    scaled = gguf_files.write_gguf(tmp_path / "scaled.gguf", model, tokenizer, **scaling)
    with pytest.raises(UserError, match=r"scaled\.gguf' scales its positions \(llama\.rope\.scaling\.type\)"):
        load_model(str(scaled))
    fine = gguf_files.write_gguf(tmp_path / "fine.gguf", model, tokenizer, quantised=True)
    monkeypatch.setattr("gguf.quants._type_traits", {})
    with pytest.raises(UserError, match=r"fine\.gguf': Dequantization for Q8_0 is not yet implemented; serve it"):
        load_model(str(fine))
    monkeypatch.setattr("astprompter.models.local.gguf.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'fine\.gguf' is in GGUF, which needs .*pip install 'astprompter\[gguf\]'"):
        load_tokenizer(str(fine))
    with pytest.raises(UserError, match=r"GGUF file '.*none\.gguf' does not exist"):
        load_model(str(tmp_path / "none.gguf"))
    with pytest.raises(UserError, match=r"holds weights in GGUF; name the file: .*fine\.gguf"):
        load_model(str(tmp_path))
