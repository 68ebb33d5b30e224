"""How many trees may grow at once: what their caches and logits need, against the memory that is free."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from ...base.records import Speaker
from ...config import RolloutSettings
from .lm import LanguageModel

_SHARE = 0.25
"""Of the free memory."""
_PREFIX = 256
"""Tokens assumed for a prefix where the context allows them."""
_MOST_ROWS = 512
"""At the last depth; matrix products are long saturated there, and progress shows more often."""
_UNKNOWN = 4 * 2**30


def trees_that_fit(speakers: Sequence[Speaker], *, horizon: int, branching: int) -> int:
    """Trees that grow in lock step within a quarter of the free memory; at least one.

    Args:
        speakers: Adversary and defender; those that are no local model need no memory here.
        horizon: Depth d.
        branching: Utterances per node.
    """
    leaves = int(branching**horizon)
    most = max(1, _MOST_ROWS // leaves)
    for device in {speaker.device for speaker in speakers if isinstance(speaker, LanguageModel)}:
        here = [s for s in speakers if isinstance(s, LanguageModel) and s.device == device]
        need = sum(bytes_per_tree(lm, horizon=horizon, branching=branching) for lm in here)
        most = min(most, int(_SHARE * free_bytes(device) / need))
    return max(1, most)


def batch_of_trees(rollout: RolloutSettings, speakers: Sequence[Speaker], *, branching: int) -> int:
    """Trees that grow together: ``rollout.trees_per_batch``, or what memory allows; see :func:`trees_that_fit`."""
    return rollout.trees_per_batch or trees_that_fit(speakers, horizon=rollout.horizon, branching=branching)


def bytes_per_tree(lm: LanguageModel, *, horizon: int, branching: int) -> int:
    """Memory one tree needs at its last depth.

    With P prefix tokens, t tokens a turn and branching b, the cache holds P + t·Σ_{k=1..d} b^k tokens (or
    b^d·(P + t·d) where branches are copied), each of 2·layers·key heads·head width numbers. Each of the b^d rows
    also needs two rows of logits, and for the t tokens of a chunk about eight hidden states and their scores.
    """
    config = lm.model.config
    heads = int(config.num_attention_heads)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    turn = lm.sampling.max_new_tokens + lm.heard_tokens
    prefix = min(_PREFIX, max(1, lm.context - horizon * turn))
    leaves = int(branching**horizon)
    if lm.shares_branches:
        columns = prefix + turn * sum(branching**depth for depth in range(1, horizon + 1))
    else:
        columns = leaves * (prefix + turn * horizon)
    number = 2 if lm.autocast else lm.model.dtype.itemsize
    cache = columns * 2 * lm.layers * key_heads * head_width * number
    chunk = leaves * turn * (8 * lm.logits_width + 2 * heads * (prefix + turn * horizon)) * 4
    return int(cache + chunk + leaves * 2 * lm.vocabulary_size * 4)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN
