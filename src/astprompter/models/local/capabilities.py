"""What a loaded model can be trusted with: probes that compare each short cut with a plain forward pass."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from .attention import ATTENTION, register_attention, visible
from .base import LocalModel
from .cache import GrowingCache

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest difference of log-probabilities, nats."""


def install(lm: LocalModel) -> None:
    """Set ``lm.shares_branches`` and ``lm.packs`` to what the model supports, its attention function with them.

    Raises:
        UserError: The model does not even honour masks and caches the way rollouts need.
    """
    model, plain = lm.model, lm.model.config._attn_implementation
    register_attention()
    _use_fused_gelu(model)
    lm.shares_branches = False
    if plain in ("sdpa", ATTENTION) and model._can_set_attn_implementation():
        model.set_attn_implementation(ATTENTION)
        lm.shares_branches = True
        if not _gap(lm, _rollout_logprobs) <= _limit(lm):
            model.set_attn_implementation("sdpa")
            lm.shares_branches = False
    if not lm.shares_branches:
        gap = _gap(lm, _rollout_logprobs)
        if not gap <= _limit(lm):
            raise UserError(
                f"model '{lm.name}' ({type(model).__name__}) gives other log-probabilities with a padded "
                f"cache than without (difference {gap:.2g} nats), so its rollouts could not be trusted; "
                "use a model with plain causal attention, or serve it"
            )
    lm.packs = _gap(lm, _packed_logprobs) <= _limit(lm)


def _limit(lm: LocalModel) -> float:
    return _TOLERANCE.get(lm.model.dtype, 1e-3)


def _rows(lm: LocalModel) -> list[list[int]]:
    """Four sequences of six tokens; the first two and the last two share their first three."""
    size = lm.vocabulary_size
    opening = [[(7 * r + 3 * c + 1) % size for c in range(3)] for r in range(2)]
    return [[*opening[r // 2], *((11 * r + 5 * c + 2) % size for c in range(3))] for r in range(4)]


@torch.no_grad()
def _gap(lm: LocalModel, route: Any) -> float:
    """Largest difference between a route's log-probabilities and those of plain forward passes, nats."""
    full = torch.tensor(_rows(lm), device=lm.device)
    positions = torch.arange(full.size(1), device=lm.device).expand_as(full)
    output = lm.model(input_ids=full, attention_mask=torch.ones_like(full), position_ids=positions, use_cache=False)
    expected = output.logits.float().log_softmax(-1)
    try:
        got = route(lm)
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, NotImplementedError, IndexError, RuntimeError) as refusal:
        _log.debug("model '%s' refuses a short cut: %r", lm.name, refusal)
        return float("inf")
    return float((got - expected).abs().max())


def _rollout_logprobs(lm: LocalModel) -> Tensor:
    """By the cache: two rows with a hole branch in two, one token follows, then two at once: [4, 6, vocabulary]."""
    rows = torch.tensor(_rows(lm), device=lm.device)
    ids = torch.cat([rows[:, :3], rows[:, :1], rows[:, 3:]], dim=1)  # a hole after the opening
    valid = torch.tensor([[1, 1, 1, 0, 1, 1, 1]] * 4, device=lm.device).bool()
    places = (valid.cumsum(1) - 1).clamp(min=0)

    def run(take: slice, columns: slice, cache: GrowingCache) -> Tensor:
        seen = valid[take, : columns.stop]
        new = columns.stop - columns.start
        mask = visible(seen, new, lm.model.dtype) if lm.shares_branches else seen
        return lm.forward(ids[take, columns], mask, places[take, columns], cache)

    cache = GrowingCache.empty(lm.layers, 2, shared=lm.shares_branches)
    parts = [run(slice(0, 4, 2), slice(0, 4), cache).repeat_interleave(2, 0)[:, :3]]
    family = torch.tensor([0, 0, 1, 1], device=lm.device)
    cache = cache.branch(2) if lm.shares_branches else cache.select(family)
    parts += [run(slice(0, 4), slice(4, 5), cache), run(slice(0, 4), slice(5, 7), cache)]
    return lm.logits(torch.cat(parts, dim=1)).float().log_softmax(-1)


def _packed_logprobs(lm: LocalModel) -> Tensor:
    """By one row whose mask shows ancestors only: [4, 6, vocabulary]."""
    rows = _rows(lm)
    ids = [*rows[0][:3], *rows[0][3:], *rows[1][3:], *rows[2][:3], *rows[2][3:], *rows[3][3:]]
    paths = [
        [*range(9 * family, 9 * family + 3), *range(9 * family + 3 * child, 9 * family + 3 * child + 3)]
        for family in (0, 1) for child in (1, 2)
    ]  # fmt: skip
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    positions = torch.zeros(len(ids), dtype=torch.long)
    for path in paths:
        for depth, node in enumerate(path):
            mask[node, path[: depth + 1]] = True
            positions[node] = depth
    device = lm.device
    hidden = lm.forward(torch.tensor([ids], device=device), mask[None, None].to(device), positions[None].to(device))
    return lm.logits(hidden[0, torch.tensor(paths, device=device)]).float().log_softmax(-1)


def _use_fused_gelu(model: Any) -> None:
    """GPT-2's GELU is written out as eight passes over memory; the fused one is the same function."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
