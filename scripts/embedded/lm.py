"""Train the embedded language model: byte-level BPE and a small GPT-2, with Muon on the weight matrices.

What makes it fast on a CPU: bfloat16 autocast, ``torch.compile``, short sequences first, and Muon
(momentum orthogonalised by Newton-Schulz), which needs fewer tokens than AdamW for the same loss.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .corpus import documents

END, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY, CONTEXT, BATCH_TOKENS = 4096, 512, 4096
REPORT, MEASURE = 20, 100  # updates between two log rows with a saved state; and between held-out measurements


@dataclass(frozen=True)
class Recipe:
    """Schedule of one training.

    All of it follows the share of ``tokens`` that is done, so a training that must end early is stopped and
    resumed with fewer tokens: the learning rate then falls to zero over what is left.

    Attributes:
        name: Stem of the state and log files.
        tokens: Training tokens; ``BATCH_TOKENS`` of them make one update.
        muon_lr: Peak learning rate of the weight matrices of the blocks.
        adam_lr: Peak learning rate of embeddings, norms and biases.
        warmup: Updates with rising learning rate.
        decay: Last share of the training, over which the learning rate falls linearly to zero.
        stages: Pairs of share of training done and sequence length until then.
        shuffle: Seed of the first epoch's order of documents; each epoch adds one.
    """

    name: str
    tokens: int
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup: int = 120
    decay: float = 0.45
    stages: tuple[tuple[float, int], ...] = ((0.55, 128), (0.85, 256), (1.0, 512))
    shuffle: int = 0

    @property
    def updates(self) -> int:
        return self.tokens // BATCH_TOKENS

    def learning_scale(self, step: int) -> float:
        """Share of the peak learning rate: warm-up, plateau, linear decay to zero."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return min(1.0, (self.updates - step) / (self.decay * self.updates))

    def sequence_length(self, step: int) -> int:
        return next(length for share, length in self.stages if step < share * self.updates)


def train_tokenizer(root: Path, out: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the training documents; ``END`` is bos, eos and unknown, ``PAD`` pads."""
    if not (out / "tokenizer.json").exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(documents(root, "train", random.Random(0)), trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=END,
            eos_token=END,
            unk_token=END,
            pad_token=PAD,
            model_max_length=CONTEXT,
        )
        fast.save_pretrained(out)
    return PreTrainedTokenizerFast.from_pretrained(out)


def token_stream(root: Path, split: str, seed: int, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """All documents of a split in random order, each ended by ``END``: uint16 [tokens]."""
    rng = random.Random(seed)
    texts = list(documents(root, split, rng))
    rng.shuffle(texts)
    encoded = tokenizer(texts)["input_ids"]
    return np.concatenate([np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16) for ids in encoded])


def newton_schulz(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximate nearest semi-orthogonal matrix (quintic iteration, arXiv 2409.20325)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    wide = x.size(0) <= x.size(1)
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; fused query-key-value matrices are treated as three."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(state["momentum"], group["momentum"])
                rows, columns = update.shape  # Conv1D stores [in, out]
                parts = update.split(rows, dim=1) if columns == 3 * rows else (update,)
                update = torch.cat([newton_schulz(p) * max(1.0, p.size(1) / p.size(0)) ** 0.5 for p in parts], dim=1)
                param.mul_(1 - group["lr"] * group["decay"])
                param.add_(update, alpha=-group["lr"])


@torch.no_grad()
def held_out_nll(model: GPT2LMHeadModel, stream: np.ndarray, sequences: int = 64) -> float:
    """Mean nll in nats per token over full-context windows of a held-out stream."""
    total, count = 0.0, 0
    for index in range(min(sequences, len(stream) // CONTEXT)):
        window = stream[index * CONTEXT : (index + 1) * CONTEXT]
        ids = torch.from_numpy(window.astype(np.int64))[None]
        logits = model(ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += CONTEXT - 1
    return total / count


def train_language_model(root: Path, out: Path, work: Path, tokens: int) -> None:
    """Make tokenizer and model anew and train to ``tokens`` tokens; resumes from ``work``."""
    tokenizer = train_tokenizer(root, out)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=256, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for name, param in model.named_parameters():
        if name.endswith("c_proj.weight"):
            torch.nn.init.zeros_(param)  # residual branches start as identity
    train(model, tokenizer, root, work, Recipe("lm", tokens))
    save_language_model(model, tokenizer, root, out)


def optimizers_of(model: GPT2LMHeadModel, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the weight matrices of the blocks, AdamW for all other parameters."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return Muon(matrices, lr=recipe.muon_lr), adam


def train(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, root: Path, work: Path, recipe: Recipe) -> None:
    """Train ``model`` in place by ``recipe``; resumes from ``work`` when it holds a state. Ends on the CPU."""
    work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    muon, adam = optimizers_of(model, recipe)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            hidden = model.transformer(ids[:, :-1]).last_hidden_state
            logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of, dynamic=False)
    steps, step = recipe.updates, 0
    state_path = work / f"{recipe.name}_state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step = state["step"]
    dev = token_stream(root, "dev", 0, tokenizer)
    epoch, stream, cursor = -1, np.empty(0, np.uint16), 0
    consumed, started, seen = step * BATCH_TOKENS, time.time(), 0
    log = (work / f"{recipe.name}_log.jsonl").open("a")
    while step < steps:
        length = recipe.sequence_length(step)
        rows = BATCH_TOKENS // length
        need = rows * (length + 1)
        while cursor + need > len(stream):  # next epoch: threads are joined anew
            epoch += 1
            stream = token_stream(root, "train", recipe.shuffle + epoch, tokenizer)
            cursor = min(consumed, len(stream))
            consumed -= cursor
        block = stream[cursor : cursor + need].astype(np.int64).reshape(rows, length + 1)
        cursor += need
        scale = recipe.learning_scale(step)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = recipe.muon_lr * scale, recipe.adam_lr * scale
        loss = compiled(torch.from_numpy(block).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        step, seen = step + 1, seen + BATCH_TOKENS
        if step % REPORT == 0 or step == steps:
            row = {"step": step, "steps": steps, "epoch": epoch, "length": length, "loss": round(float(loss.detach()), 4),
                   "tokens_per_s": round(seen / (time.time() - started))}  # fmt: skip
            if step % MEASURE == 0 or step == steps:
                row["dev_nll"] = round(held_out_nll(model, dev), 4)
            temporary = state_path.with_suffix(".tmp")
            torch.save(
                {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step},
                temporary,
            )
            temporary.replace(state_path)
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
    model.cpu()


def save_language_model(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, root: Path, out: Path) -> None:
    """Write float16 weights and ``figures.json`` with held-out nll per token and per character."""
    stream = token_stream(root, "test", 0, tokenizer)
    model.eval()
    nll = held_out_nll(model, stream, sequences=200)
    used = stream[: min(200, len(stream) // CONTEXT) * CONTEXT]
    characters = len(tokenizer.decode(used.tolist(), skip_special_tokens=True))
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_nll_nats_per_token": nll,
        "test_nll_nats_per_character": nll * len(used) / characters,
        "test_bits_per_character": nll * len(used) / characters / math.log(2),
        "test_tokens": len(used),
    }
    model.half().save_pretrained(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(figures)
