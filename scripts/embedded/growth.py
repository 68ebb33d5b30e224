"""Grow a trained GPT-2 into a larger one that computes the same function, and train that one on.

Width doubles by duplicating every channel, head and hidden unit (after Net2Net, arXiv 1511.05641): a weight
that read one input now reads its two copies, in random shares that sum to one. Layer-norm statistics do not
change under duplication. Depth grows by blocks whose output projections are zero. A small budget then buys
what the larger model adds, not what the small one already knew.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .lm import Recipe, save_language_model, train

LAYERS = 5
STAGES = ((1.0, 512),)  # the small model knows short contexts already


def grow(small: GPT2LMHeadModel, layers: int, seed: int = 0) -> GPT2LMHeadModel:
    """Twice as wide and ``layers`` deep, with the same logits.

    Args:
        small: Model with tied embeddings and as many parameters as its configuration says.
        layers: Blocks of the result, at least those of ``small``; the new ones come last.
        seed: Seed of the shares, which make the copies differ, so that they can learn different things.
    """
    old: GPT2Config = small.config
    sizes = {"n_embd": 2 * old.n_embd, "n_head": 2 * old.n_head, "n_inner": old.n_inner and 2 * old.n_inner}
    config = GPT2Config(**{**old.to_dict(), **sizes, "n_layer": layers, "dtype": "float32"})
    model = GPT2LMHeadModel(config)
    blocks = model.transformer.h
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in ("wte", "wpe"):
            source, target = getattr(small.transformer, part), getattr(model.transformer, part)
            target.weight.copy_(source.weight.repeat(1, 2))
        for name in ("weight", "bias"):  # halved: the tied output embedding reads every channel twice
            getattr(model.transformer.ln_f, name).copy_(getattr(small.transformer.ln_f, name).repeat(2) / 2)
        for source, target in zip(small.transformer.h, blocks, strict=False):
            values = dict(source.named_parameters())
            for name, param in target.named_parameters():
                param.copy_(_widen(values[name], 3 if "c_attn" in name else 1, rng))
        for index in range(old.n_layer, layers):
            blocks[index].load_state_dict(copy.deepcopy(blocks[index - 1].state_dict()))
            for branch in (blocks[index].attn, blocks[index].mlp):
                branch.c_proj.weight.zero_()
                branch.c_proj.bias.zero_()
    return model


def _widen(value: torch.Tensor, parts: int, rng: torch.Generator) -> torch.Tensor:
    """Duplicate the outputs of each of ``parts`` fused layers, and split every weight over its input's copies.

    Args:
        value: Weight [in, out] or bias [out]; the outputs are ``parts`` layers side by side.
        parts: Three for fused query, key and value, else one.
        rng: Source of the shares.
    """
    outputs = torch.cat([part.repeat(*[1] * (value.ndim - 1), 2) for part in value.chunk(parts, dim=-1)], dim=-1)
    if value.ndim == 1:
        return outputs
    share = torch.rand(outputs.shape, generator=rng)
    return torch.cat([share * outputs, (1 - share) * outputs])


def train_larger_model(root: Path, small: Path, out: Path, work: Path, tokens: int) -> None:
    """Grow the model in the folder ``small``, train it on for ``tokens`` tokens and save it to ``out``.

    The small model ended at learning rate zero: a short warm-up to half its peak and a linear decay follow.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(small)
    model = grow(GPT2LMHeadModel.from_pretrained(small, dtype=torch.float32), LAYERS)
    recipe = Recipe("lm-large", tokens, muon_lr=0.01, adam_lr=2e-3, warmup=20, decay=1.0, stages=STAGES, shuffle=100)
    train(model, tokenizer, root, work, recipe)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    save_language_model(model, tokenizer, root, out)
