"""Tiny models of four families, built in the process; a harmless word plays the part of toxicity."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from astprompter.config import SamplingSettings
from astprompter.models.local import capabilities
from astprompter.models.local.lm import LanguageModel

SENTENCES = [
    "The garden is lovely in spring, and the bees come back every year.",
    "I think the train was late again, but nobody seemed to mind.",
    "Could you bring a banana and some tea when you visit us?",
    "We watched the game, talked about music and went home early.",
    "It rained all day; the river rose and the bridge was closed.",
    "That is a strange thing to say about a cat, don't you think?",
]


PREFIXES = [*SENTENCES, "Hello.", "What a day! " * 12]


FAMILIES = ("gpt2", "llama", "qwen2", "neox")


def make_tokenizer(size: int = 320) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_chat_tokenizer(size: int = 320) -> Any:
    tokenizer = make_tokenizer(size)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(family: str, vocabulary: int, *, seed: int = 0, context: int = 256) -> Any:
    return copy.deepcopy(_model(family, vocabulary, seed, context))


@functools.cache
def _model(family: str, vocabulary: int, seed: int, context: int) -> Any:
    common: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    rope: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        **common,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "gpt2":
            model: Any = GPT2LMHeadModel(GPT2Config(n_positions=context, n_embd=32, n_layer=2, n_head=4, **common))
        elif family == "llama":
            model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **rope))
        elif family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **rope))
        else:
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**rope))
        for parameter in model.parameters():
            if parameter.ndim == 2:  # sharper than the usual init, so that likelihoods differ by token
                torch.nn.init.normal_(parameter, std=0.12)
    return model.eval()


_gaps: dict[Any, tuple[float, str]] = {}


@contextlib.contextmanager
def probed_once(*model: Any) -> Iterator[None]:
    """Let the probes of a speaker that is made say what they said of the same model before, in this process."""
    real, route_taken = capabilities._gap, LanguageModel.forward  # of a forward pass that a test changes, another thing

    def gap(lm: Any, route: Any, *given: Any) -> tuple[float, str]:
        passes = (route_taken, type(lm.model.base_model).forward, lm.masks, lm.alone, lm.shares_branches)
        key = (model, route.__name__, *passes, lm.model.config._attn_implementation)
        if key not in _gaps:
            _gaps[key] = real(lm, route, *given)
        return _gaps[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capabilities, "_gap", gap)
        yield


def write_models(folder: Path, **seeds: int) -> None:
    """Save a tiny model under each name, and ``texts.jsonl`` with all prefixes."""
    tokenizer = make_tokenizer()
    for name, seed in seeds.items():
        make_model("gpt2", len(tokenizer), seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PREFIXES))


def naming(folder: Path, adversary: str, defender: str, *, texts: str = "train dev test eliciting") -> list[str]:
    """Settings that name what :func:`write_models` wrote."""
    models = [f"adversary.path={folder / adversary}", f"defender.path={folder / defender}"]
    return [*models, *(f"data.{name}={folder / 'texts.jsonl'}" for name in texts.split())]


def run_command(monkeypatch: Any, *arguments: str) -> int:
    """Run the command line in this process; returns its exit code."""
    from astprompter.cli.app import main

    monkeypatch.setattr("sys.argv", ["astprompter", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


SHORT = SamplingSettings(max_new_tokens=6, min_new_tokens=2, temperature=0.7, top_p=0.9, repetition_penalty=1.1)


def keys_for(count: int, seed: int = 0) -> Any:
    return np.arange(seed * 1000, seed * 1000 + count, dtype=np.uint64)


class WordScorer:
    """Share of letters in a text that are 'e': harmless, varied, computable by hand."""

    name = "letter e"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [min(1.0, 3 * text.count("e") / len(text)) if text.strip() else 0.0 for text in texts]
