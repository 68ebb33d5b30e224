"""Attention as rollouts need it: a mask over rows with holes, and a function that understands shared segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .cache import GrowingLayer

ATTENTION = "astprompter"
"""Name of the attention function that understands shared segments; see :func:`register_attention`."""


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


def register_attention() -> None:
    """Make :data:`ATTENTION` known to transformers: the library's sdpa, except where a layer is shared."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Tensor, key: Any, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)
        if isinstance(key, GrowingLayer) and key.alone and query.size(2) > 1:
            key = key.keys
        if not isinstance(key, GrowingLayer):
            plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return plain
        unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
        if unknown:
            raise NotImplementedError(f"attention with {', '.join(unknown)}")
        scaling = options.get("scaling") or query.size(-1) ** -0.5
        return key.attend(query, scaling, attention_mask), None

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
