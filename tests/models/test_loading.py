"""What is loaded is what was trained: adapters with their base, all weights; all else is refused with its reason."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaModel,
)

import astprompter as ap
from astprompter.base.errors import UserError
from astprompter.config import RolloutSettings, settings_from
from astprompter.models.local.chat import speaker_from
from astprompter.models.local.lm import LanguageModel, weights_hash
from astprompter.models.local.loading import load_model, load_tokenizer
from astprompter.models.local.lora import add_adapters
from astprompter.models.local.reference import choose_reference
from astprompter.training.packing import pack, sequence_logps
from astprompter.workflows.load import build_lm, load_training_models
from helpers.tiny import SHORT, make_model, make_tokenizer, write_models

IDS = torch.tensor([[5, 9, 30, 31, 7, 250]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Models ``base`` and ``other``, an ``adapter`` for the first, and what it computes."""
    peft = pytest.importorskip("peft")
    path: Path = tmp_path_factory.mktemp("adapters")
    write_models(path, base=0, other=4)
    chosen = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of the library
        tuned = peft.get_peft_model(load_model(str(path / "base")), chosen)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    tuned.save_pretrained(path / "adapter")
    save_file({"logits": logits(tuned.eval())}, path / "wanted.safetensors")
    return path


@pytest.mark.slow
def test_an_adapter_is_loaded_with_its_base_and_merged(folder: Path) -> None:
    model = load_model(str(folder / "adapter"))
    base = load_model(str(folder / "base"))
    assert torch.allclose(logits(model), load_file(folder / "wanted.safetensors")["logits"], atol=1e-5)
    assert not torch.allclose(logits(model), logits(base), atol=1e-2)
    assert set(model.state_dict()) == set(base.state_dict())
    assert weights_hash(model) != weights_hash(base)
    assert load_tokenizer(str(folder / "adapter")).get_vocab() == load_tokenizer(str(folder / "base")).get_vocab()


@pytest.mark.slow
def test_an_adapter_is_not_taken_for_its_base(folder: Path, tmp_path: Path) -> None:
    """With a tokenizer beside it, it had the hash of its base, so the reference was the wrong model."""
    shutil.copytree(folder / "adapter", tmp_path / "adapter")
    load_tokenizer(str(folder / "base")).save_pretrained(tmp_path / "adapter")
    models = {
        name: build_lm(settings_from({"adversary": {"path": str(path)}}).adversary, RolloutSettings(), role="defender")
        for name, path in (("adapter", tmp_path / "adapter"), ("base", folder / "base"))
    }
    assert choose_reference(models["base"], models["adapter"]).policy is not models["adapter"]
    assert choose_reference(models["adapter"], models["base"]).policy is not models["base"]


def test_an_adapter_is_tuned_further_by_one_of_ours(folder: Path) -> None:
    settings = settings_from({
        "adversary": {"path": str(folder / "adapter"), "lora_rank": 2},
        "defender": {"path": str(folder / "base")},
        "scorer": {"spec": "word:a"},
    })  # fmt: skip
    models = load_training_models(settings)
    tuned = [name for name, value in models.adversary.model.named_parameters() if value.requires_grad]
    assert tuned
    assert all(".astprompter." in name for name in tuned)
    packed = pack([((5, 9, 30), (31, 7)), ((5, 9, 30), (8,))])
    with torch.no_grad():
        for name, value in models.adversary.model.named_parameters():
            if "lora_B" in name:
                value.add_(0.1)
        merged = build_lm(settings.adversary, settings.rollout)
        start, reference, policy = (sequence_logps(lm, packed) for lm in (merged, models.reference, models.adversary))
    assert torch.allclose(reference, start, atol=1e-5)
    assert not torch.allclose(policy, start, atol=1e-2)
    assert models.adversary_sha256 == merged.weights_sha256()


def test_adapters_of_others_count_as_weights(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    plain, theirs, ours = (load_model(str(folder / "base")) for _ in range(3))
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True), theirs)
    add_adapters(ours, rank=2, alpha=4, seed=0)
    assert weights_hash(ours) == weights_hash(plain) != weights_hash(theirs)
    with pytest.raises(UserError, match="has adapters already; merge them"):
        add_adapters(theirs, rank=2, alpha=4, seed=0)


def test_a_model_of_peft_speaks_with_its_adapters_and_is_not_tuned_with_them(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.PeftModel.from_pretrained(load_model(str(folder / "base")), str(folder / "adapter"))
    tokenizer = load_tokenizer(str(folder / "base"))
    speaker = speaker_from(tuned, tokenizer, sampling=SHORT, role="defender")
    assert torch.allclose(logits(speaker.model), load_file(folder / "wanted.safetensors")["logits"], atol=1e-5)
    assert speaker.weights_sha256() != weights_hash(load_model(str(folder / "base")))
    with pytest.raises(UserError, match="has adapters already; merge them"):
        ap.load_model(tuned, tokenizer=tokenizer, trainable=True)


def changed(source: Path, target: Path, **values: Any) -> str:
    """A copy of an adapter folder with other values in its config."""
    shutil.copytree(source, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | values))
    return str(target)


def test_an_adapter_of_a_classifier_is_refused_as_what_it_is(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is an adapter for the model '.*base', and holds no labels; merge it"):
        load_model(str(folder / "adapter"), classifier=True)


def test_an_adapter_without_its_base_says_where_the_base_is_named(folder: Path, tmp_path: Path) -> None:
    for base in ("/gone/base", "nobody/no-such-base"):
        lost = changed(folder / "adapter", tmp_path / base.replace("/", "-"), base_model_name_or_path=base)
        told = f"'{lost}' is an adapter for the model '{base}', which is missing on this machine: "
        for load in (load_model, load_tokenizer):
            with pytest.raises(UserError, match=f"^{told}.*adapter_config.json, as base_model_name_or_path"):
                load(lost)
    nameless = changed(folder / "adapter", tmp_path / "nameless", base_model_name_or_path=None)
    with pytest.raises(UserError, match="names no base_model_name_or_path"):
        load_model(nameless)


def test_weights_that_are_cut_short_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all")
    GPT2ForSequenceClassification(make_model("gpt2", 320).config).save_pretrained(tmp_path / "all" / "judge")
    make_model("gpt2", 320).save_pretrained(tmp_path / "all" / "parts", max_shard_size="30KB")
    last = sorted((tmp_path / "all" / "parts").glob("*.safetensors"))[-1]
    assert last.name != "model.safetensors"
    whole = dict.fromkeys(("base", "judge"), "model.safetensors")
    for name, file in (whole | {"adapter": "adapter_model.safetensors", "parts": last.name}).items():
        path = tmp_path / "all" / name / file
        content = path.read_bytes()
        for keep in (0, len(content) - 1) if name == "base" else (len(content) - 1,):
            path.write_bytes(content[:keep])
            told = rf"'.*{name}': '{re.escape(str(path))}' is cut short or damaged \(.*\); copy or download that file"
            with pytest.raises(UserError, match=told):
                load_model(str(tmp_path / "all" / name), classifier=name == "judge")
        path.write_bytes(content)


def test_a_part_of_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    part = changed(folder / "adapter", tmp_path / "part")
    weights = load_file(tmp_path / "part" / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "part" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"cannot load adapter .*missing adapter keys"):
        load_model(part)
    (tmp_path / "part" / "adapter_model.safetensors").rename(tmp_path / "part" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"cannot load adapter .*adapter_model\.safetensors"):
        load_model(part)


TINY: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def test_a_head_that_was_never_trained_is_refused_by_name(tmp_path: Path) -> None:
    LlamaModel(make_model("llama", 320).config).save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match=r"headless' is not a trained causal language model: .*'lm_head\.weight'"):
        load_model(str(tmp_path / "headless"))
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"no weights for 'cls\.predictions"):
        load_model(str(tmp_path / "bert"))


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    whole = make_model("gpt2", 320)
    whole.transformer.save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["architectures"] == [GPT2Model.__name__]
    assert torch.equal(logits(load_model(str(tmp_path / "base"))), logits(whole))


def test_other_kinds_of_model_are_refused_by_what_they_are(tmp_path: Path) -> None:
    bart = BartConfig(
        vocab_size=320, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    for model, told in (
        (BertForMaskedLM(BertConfig(**TINY)), "(BertForMaskedLM) is an encoder"),
        (BartForConditionalGeneration(bart), "(BartForConditionalGeneration) is an encoder-decoder model"),
        (
            GPT2ForSequenceClassification(make_model("gpt2", 320).config),
            "(GPT2ForSequenceClassification) is a classifier",
        ),
    ):
        model.save_pretrained(tmp_path / type(model).__name__)
        with pytest.raises(UserError, match=re.escape(told)):
            load_model(str(tmp_path / type(model).__name__))
    encoder = BertLMHeadModel(BertConfig(**TINY, initializer_range=0.3)).eval()
    with pytest.raises(UserError, match=r"'it' \(BertLMHeadModel\) is an encoder: .* depends on the tokens after it"):
        LanguageModel(encoder, make_tokenizer(), name="it", sampling=SHORT)


def test_files_that_cannot_be_read_are_told_with_what_to_do(tmp_path: Path) -> None:
    write_models(tmp_path, whole=0)
    pickled = tmp_path / "pickled"
    shutil.copytree(tmp_path / "whole", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"not in safetensors; convert them: python -c .*pickled-safetensors"):
        load_model(str(pickled))
    (pickled / "pytorch_model.bin").rename(pickled / "model.gguf")
    with pytest.raises(UserError, match=r"holds weights in GGUF; name the file: .*model\.gguf"):
        load_model(str(pickled))
    with pytest.raises(UserError, match=r"model\.gguf': .*; the file is cut short or no GGUF; copy"):
        load_model(str(pickled / "model.gguf"))
    for file in (tmp_path / "whole").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"whole' has no tokenizer; copy the tokenizer's files"):
        load_tokenizer(str(tmp_path / "whole"))
