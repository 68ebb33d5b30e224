"""What the benchmarks share: models by shape, alternating clocks, tables, JSON."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from astprompter.base.protocols import Scorer
from astprompter.base.records import PreferencePair, Prefix, RolloutTree
from astprompter.config import RewardSettings, SamplingSettings
from astprompter.models.local.lm import LanguageModel
from astprompter.rollout.grow import grow_trees
from astprompter.rollout.pairs import pairs_of_tree

RESULTS = Path(__file__).parent / "results"
SAMPLING = SamplingSettings(
    max_new_tokens=24, min_new_tokens=2, temperature=0.7, top_p=0.7, repetition_penalty=1.1, max_prefix_tokens=8192
)
WEIGHTS = RewardSettings()


@dataclass(frozen=True)
class Shape:
    """A GPT-2 by its numbers, or with ``inner`` a Llama, with random weights."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    key_heads: int = 0
    inner: int = 0


SHAPES = {
    "T": Shape("T", 4, 256, 4, 8192),
    "S": Shape("S", 12, 768, 12, 50257),
    "XL": Shape("XL", 48, 1600, 25, 50257),
    "SmolLM2": Shape("SmolLM2", 30, 576, 9, 49152, key_heads=3, inner=1536),
}


class LetterScorer:
    """Share of even characters: costs next to nothing, differs from text to text."""

    name = "letters"

    def score(self, texts: Sequence[str], contexts: object = None) -> list[float]:
        """One value in [0, 1] per text."""
        del contexts
        return [sum(ord(c) % 2 for c in text) / len(text) if text else 0.0 for text in texts]


def make_tokenizer(size: int) -> Any:
    """A tokenizer of ``size`` tokens in which every id is a text of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}
    letters = "abcdefghijklmnopqrstuvwxyz"
    while len(words) < size:
        n, word = len(words), ""
        while n:
            n, digit = divmod(n, 26)
            word += letters[digit]
        words["Ġ" + word] = len(words)
    inner = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))  # noqa: S106
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end, unk_token=end, pad_token=end)


def make_model(shape: Shape, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A model of a shape with random weights; the output is sharpened, so that nuclei are as narrow as trained ones."""
    torch.manual_seed(seed)
    if shape.inner:
        chosen = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, intermediate_size=shape.inner,
            max_position_embeddings=8192, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
            attn_implementation="sdpa",
        )  # fmt: skip
        llama = LlamaForCausalLM(chosen)
        with torch.no_grad():
            llama.model.norm.weight.fill_(6.0)
        return llama.to(device=device, dtype=dtype).eval()
    config = GPT2Config(
        vocab_size=shape.vocabulary, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads, n_positions=1024,
        bos_token_id=0, eos_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(6.0)
    return model.to(device=device, dtype=dtype).eval()


def make_lm(shape: Shape, *, seed: int = 0, device: str = "cpu", autocast: bool = False, name: str = "lm") -> Any:
    """Our speaker around such a model."""
    model, tokenizer = make_model(shape, seed=seed, device=device), make_tokenizer(shape.vocabulary)
    return LanguageModel(model, tokenizer, name=name, sampling=SAMPLING, autocast=autocast)


REDDIT = (
    (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0),
    (2, 13, 19, 32, 60, 114, 203, 277, 540, 1602, 3168),
)
"""Levels and quantiles of the lengths of 2,477 Reddit openings in tokens of SmolLM2."""


def make_prefixes(
    shape: Shape, count: int, *, tokens: int = 60, real_lengths: bool = False, seed: int = 0
) -> list[Prefix]:
    """Random openings of about ``tokens`` tokens (between three and five quarters), or as long as real ones are."""
    random, tokenizer = np.random.default_rng(seed), make_tokenizer(shape.vocabulary)
    lengths = random.integers(3 * tokens // 4, 5 * tokens // 4 + 1, size=count)
    if real_lengths:
        lengths = np.interp(random.random(count), *REDDIT).astype(np.int64)
    rows = [random.integers(300, shape.vocabulary, size=n).tolist() for n in lengths]
    return [Prefix(f"p{i}", tokenizer.decode(row).lstrip()) for i, row in enumerate(rows)]


def collect(
    adversary: Any, defender: Any, prefixes: Sequence[Prefix], *, horizon: int, trees_per_batch: int
) -> list[RolloutTree]:
    """Our collection."""
    keys = np.arange(len(prefixes), dtype=np.uint64)
    scorer: Scorer = LetterScorer()
    return grow_trees(
        adversary,
        defender,
        scorer,
        prefixes,
        keys,
        horizon=horizon,
        branching=2,
        weights=WEIGHTS,
        trees_per_batch=trees_per_batch,
    )


def made_pairs(
    shape: Shape, count: int, *, horizon: int, prefix: int = 60, seed: int = 0
) -> tuple[list[PreferencePair], int]:
    """Pairs of whole trees with random tokens and full-length speeches, and pairs per tree."""
    random = np.random.default_rng(seed)
    per_tree = 2**horizon - 1
    pairs: list[PreferencePair] = []

    def words() -> tuple[int, ...]:
        return tuple(random.integers(1, shape.vocabulary, size=SAMPLING.max_new_tokens).tolist())

    def grow(prompt: tuple[int, ...], depth: int) -> None:
        sides = (words(), words())
        pairs.append(PreferencePair(prompt, *sides, 0.1, "on_policy", depth))
        if depth + 1 < horizon:
            for side in sides:
                grow((*prompt, *side, *words()), depth + 1)

    while len(pairs) < count:
        length = int(random.integers(3 * prefix // 4, 5 * prefix // 4 + 1))
        grow(tuple(random.integers(1, shape.vocabulary, size=length).tolist()), 0)
    return pairs[:count], per_tree


def pairs_of(trees: Sequence[RolloutTree]) -> list[PreferencePair]:
    """All pairs of trees."""
    return [pair for tree in trees for pair in pairs_of_tree(tree)]


def clock(device: str) -> float:
    """Seconds: of the process on one CPU thread (other work on the machine does not count), of the wall on CUDA."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def alternate(sides: Mapping[str, Callable[[], object]], *, repeats: int, device: str) -> dict[str, list[float]]:
    """Run all sides in turn ``repeats`` times: seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            start = clock(device)
            work()
            seconds[name].append(clock(device) - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], ours: str) -> dict[str, float]:
    """Median over the repeats of (other side / ours)."""
    return {
        name: statistics.median(a / b for a, b in zip(values, seconds[ours], strict=True))
        for name, values in seconds.items()
    }


def peak_bytes(device: str) -> int:
    """Most memory held so far: resident size of this process, or allocated on the card."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def arguments(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="T")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the CPU clock needs 1")
    return parser


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((row.split(":")[1].strip() for row in info.read_text().splitlines() if "model name" in row), cpu)
    name = cpu if device == "cpu" else torch.cuda.get_device_name(device)
    versions = {package: version(package) for package in ("torch", "transformers", "trl")}
    return {"device": name, "python": platform.python_version(), **versions, "threads": torch.get_num_threads()}


def report(name: str, title: str, rows: Sequence[Mapping[str, Any]], *, device: str, **facts: Any) -> None:
    """Print a table and write ``results/NAME.json``."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_cell(row.get(key, "")) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    print(f"\n{title}")
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    content = {"title": title, "machine": machine(device), **facts, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
