"""Low-rank adapters (arXiv 2106.09685) for adversaries too large to tune whole: peft's layers, put into the model.

The reference is the same model with its adapters off, so no second copy is held. A checkpoint holds the adapters
only; ``best/`` holds the merged weights, a normal model folder for every tool.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.randomness import key_of
from .lm import ADAPTER, LanguageModel


def add_adapters(model: Any, *, rank: int, alpha: int, seed: int) -> None:
    """Freeze a model and put trainable adapters beside its linear layers; it says the same as before.

    Args:
        model: A causal LM; changed in place.
        rank: Width of the adapters.
        alpha: Their scale is ``alpha / rank``.
        seed: Names their random start.

    Raises:
        UserError: peft is not installed, or finds nothing to adapt.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("adversary.lora_rank needs peft: pip install 'astprompter[lora]'") from None
    check_no_adapters(model)
    chosen = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    model.requires_grad_(False)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():  # peft draws a start of its own, replaced below
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # GPT-2's transposed layers, which peft handles
            inject_adapter_in_model(chosen, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise UserError(f"adversary.lora_rank: this model cannot be adapted ({error})") from None
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            stream = key_of(seed, "lora", name.replace(ADAPTER, "default"))
            generator = torch.Generator().manual_seed(int(stream >> 1))
            start = torch.empty(parameter.shape)
            torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)


def check_no_adapters(model: Any) -> None:
    """Refuse to tune a model that somebody put adapters into.

    Raises:
        UserError: It has some.
    """
    if any(hasattr(module, "get_delta_weight") for module in model.modules()):
        raise UserError("the model has adapters already; merge them before it is tuned further (merge_and_unload)")


def unwrapped(model: Any) -> Any:
    """The ``transformers`` model inside peft's, adapters in place; any other model as it is.

    Raises:
        UserError: The adapters are no part of its layers (learned prompts).
    """
    if not hasattr(model, "get_base_model"):
        return model
    if not hasattr(model, "merge_and_unload"):
        raise UserError("a model with learned prompts cannot take part; use adapters that can be merged, such as LoRA")
    return model.get_base_model()


def merged_weights(model: Any) -> dict[str, Tensor] | None:
    """Weights of the model without adapters that says the same, under its usual names; ``None`` if there are none."""
    deltas = {name: layer.get_delta_weight(ADAPTER) for name, layer in _adapted(model)}
    if not deltas:
        return None
    weights = {}
    for name, value in model.state_dict().items():
        if "lora_" in name:
            continue
        layer, base, leaf = name.rpartition(".base_layer.")
        delta = deltas[layer] if base and leaf == "weight" else 0.0
        weights[f"{layer}.{leaf}" if base else name] = (value + delta).contiguous() if base else value
    return weights


def has_adapters(model: Any) -> bool:
    """Whether adapters of ours stand beside layers of a model."""
    return bool(_adapted(model))


class WithoutAdapters(LanguageModel):
    """The model that the adapters started from, in the adversary's own memory: the reference policy."""

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """As :meth:`LanguageModel.forward`, with all adapters off."""
        with _switched_off(self.model):
            return super().forward(ids, mask, positions, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """As :meth:`LanguageModel.logits`, with all adapters off."""
        with _switched_off(self.model):
            return super().logits(hidden)


@contextmanager
def _switched_off(model: Any) -> Iterator[None]:
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapted(model: Any) -> list[tuple[str, Any]]:
    layers = ((name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight"))
    return [(name, layer) for name, layer in layers if ADAPTER in layer.active_adapters]
