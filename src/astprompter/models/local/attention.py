"""Attention as rollouts need it: masks over rows with holes, and a function that understands shared segments."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .cache import GrowingLayer

ATTENTION = "astprompter"
"""Name of the attention function that understands shared segments; see :func:`register_attention`."""
Form = Literal["all", "window", "layers", "valid"]
"""What a model takes as a mask: who sees whom in all layers alike (``window``: within the one that the config tells),
in layers of each kind, or which columns are valid, from which it makes masks by itself."""
_UNKNOWN = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")
"""Options of attention that only a model's own function computes; sdpa passes over most of them without a word."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Keys of a config that tell how far back layers look: so many tokens, or within blocks of so many."""


def visible(valid: Tensor, new: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where the last ``new`` columns may look, -inf at holes and the future.

    Args:
        valid: Validity of all columns, bool [rows, columns].
        new: Columns that look.
        dtype: Number format of the scores.

    Returns:
        [rows, 1, new, columns]
    """
    bias = torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill_(~valid, -torch.inf)
    if new == 1:
        return bias[:, None, None]
    future = torch.full((new, valid.size(1)), -torch.inf, dtype=dtype, device=valid.device)
    return bias[:, None, None] + future.triu(valid.size(1) - new + 1)


def mask_in_form(form: Form, mask: Tensor, positions: Tensor, config: Any, dtype: torch.dtype) -> Any:
    """What a model is given as ``attention_mask``.

    A window counts tokens, not columns, so that a hole never takes the place of a token.

    Args:
        form: What the model takes.
        mask: Validity of all columns, bool [rows, columns]; or who sees whom, bool [rows, 1, new, new].
        positions: Positions of the new tokens, int64 [rows, new].
        config: The config of its text model.
        dtype: Number format of the scores.
    """
    if form == "valid":
        return mask
    if mask.ndim == 2:
        bias, keys = visible(mask, positions.size(1), dtype), (mask.cumsum(1) - 1 if form != "all" else None)
    else:
        bias, keys = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf), positions
    if form == "all" or keys is None:
        return bias
    sliding, chunk = (getattr(config, key, None) for key in WINDOWS)
    key, query = keys[:, None, None], positions[:, None, :, None]
    masks = {"full": bias}
    if sliding:
        masks["sliding"] = bias.masked_fill(key <= query - sliding, -torch.inf)
    if chunk:
        masks["chunked"] = bias.masked_fill(key // chunk != query // chunk, -torch.inf)
    if form == "window":
        return masks["sliding" if sliding else "chunked"]
    return {kind: masks[kind.partition("_")[0]] for kind in {"full_attention", *config.layer_types}}


def register_attention() -> None:
    """Make :data:`ATTENTION` known to transformers: the library's sdpa, except where a layer is shared."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Tensor, key: Any, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        unknown = [name for name in _UNKNOWN if options.get(name) is not None]
        if unknown:
            raise NotImplementedError(f"attention with {', '.join(unknown)}")
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)
        if isinstance(key, GrowingLayer) and key.alone and query.size(2) > 1:
            key = key.keys
        if not isinstance(key, GrowingLayer):
            plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return plain
        scaling = options.get("scaling") or query.size(-1) ** -0.5
        return key.attend(query, scaling, attention_mask), None

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
