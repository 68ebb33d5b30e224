"""Which short cuts a model's architecture supports: found out when it is loaded, so that none can change a number.

A probe holds conversations with the model, with padding, branches and a cache, and compares the log-probabilities with
those of the model itself: whole rows, no cache, eager attention. The first route that gives the same is taken:

1. branches share the cache of what they have in common;
2. the cache is copied, the attention function is sdpa's, or the model's own where it computes more than sdpa;
3. the model makes its masks by itself from which columns are valid;
4. every row alone, with the library's own cache (states of recurrent layers, for instance).

A local window is made narrow while the probe runs, so that a few tokens are longer than it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError, words_of
from ...base.records import Speech
from .attention import ATTENTION, WINDOWS, Form, register_attention
from .base import LocalModel
from .session import LMSession
from .whole import Alone

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest difference of log-probabilities, nats."""
_OPENING, _HEARD = 6, ((3, 1, 2, 2), (1, 2, 1, 3))
"""Tokens of an opening, and of what four branches hear in turn."""
_NARROW = 4
"""Tokens of a window while the probe runs."""
_MOST = 4096
"""Tokens of an opening, at most, for windows that cannot be made narrow."""
_ALONE: tuple[Alone, ...] = ("cached", "stepwise", "anew")


def install(lm: LocalModel) -> None:
    """Set how ``lm`` computes (attention function, ``masks``, ``shares_branches``, ``alone``) and whether it ``packs``.

    Raises:
        UserError: It is no causal language model, or does not go on from its own cache.
    """
    register_attention()
    _use_fused_gelu(lm.model)
    autocast, lm.autocast = lm.autocast, False
    try:
        with _narrowed(lm) as opening:
            _choose(lm, opening)
    finally:
        lm.autocast = autocast
    if lm.alone:
        _log.info(f"note: '{lm.name}' cannot compute texts of unequal length together, so each row is computed alone")


def _choose(lm: LocalModel, opening: int) -> None:
    rows = _rows(lm, opening)
    limit, why = _TOLERANCE.get(lm.model.dtype, 1e-3), ""
    settable = lm.model._can_set_attn_implementation()
    if settable:
        lm.model.set_attn_implementation("eager")
    expected = _plain_logprobs(lm, rows)
    for attention, masks, shares, alone in _routes(lm.config):
        lm.masks, lm.shares_branches, lm.alone = masks, shares, alone
        if settable:
            lm.model.set_attn_implementation(attention)
        elif attention == ATTENTION:
            continue
        gap, refusal = _gap(lm, _rollout_logprobs, rows, opening, expected)
        if gap <= limit:
            lm.packs = not lm.alone and _gap(lm, _packed_logprobs, rows[:2], opening, expected[:2])[0] <= limit
            return
        why = refusal or f"log-probabilities differ by {gap:.2g} nats"
    kind = f"model '{lm.name}' ({type(lm.model).__name__})"
    (whole,), (part,) = _plain_logprobs(lm, rows[:1]), _plain_logprobs(lm, [rows[0][:-2]])
    if not float((whole[: len(part)] - part).abs().max()) <= limit:
        raise UserError(
            f"{kind} is an encoder: what it makes of a token depends on the tokens after it, so it cannot speak; name "
            "a causal language model"
        )
    raise UserError(
        f"{kind} does not go on in pieces as it reads a whole text ({why}), so its rollouts could not be trusted; use "
        "another model, or serve it (defender.path=openai:NAME)"
    )


def _routes(config: Any) -> Iterator[tuple[str, Form, bool, Alone | None]]:
    """Attention function, masks, whether branches share a cache, and how rows go on alone; the fastest first."""
    forms: list[Form] = ["all"]
    if any(getattr(config, key, None) for key in WINDOWS):
        forms = ["window", "all"] if getattr(config, "layer_types", None) is None else ["layers", "window", "all"]
    for attention, shares in ((ATTENTION, True), (ATTENTION, False), ("eager", False)):
        for form in forms:
            yield attention, form, shares, None
    for attention in (ATTENTION, "eager"):
        yield attention, "valid", False, None
    for alone in _ALONE:
        yield "eager", "valid", False, alone


def _rows(lm: LocalModel, opening: int) -> list[list[int]]:
    """What four branches hear in all; the openings of the first two and the last two are one, those a third shorter."""
    size = lm.vocabulary_size
    shared = [[(7 * r + 3 * c + c * c + 1) % size for c in range(opening - r * (opening // 3))] for r in range(2)]
    return [
        [*shared[r // 2], *((11 * r + 5 * c + 2) % size for c in range(sum(lengths[r] for lengths in _HEARD)))]
        for r in range(4)
    ]


@torch.no_grad()
def _plain_logprobs(lm: LocalModel, rows: list[list[int]]) -> list[Tensor]:
    """Of every token but a row's first, by the model itself in one pass; what pads a row comes after its tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *row[:1] * (longest - len(row))] for row in rows], device=lm.device)
    logits = lm.model(input_ids=ids, use_cache=False).logits
    return [_picked(own, row) for own, row in zip(logits, rows, strict=True)]


def _picked(logits: Tensor, row: list[int]) -> Tensor:
    """Log-probability of each token of a row under the logits before it: [row - 1]."""
    targets = torch.tensor(row[1:], device=logits.device)
    return logits[: len(row) - 1].float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


@torch.no_grad()
def _gap(lm: LocalModel, route: Any, rows: list[list[int]], opening: int, expected: list[Tensor]) -> tuple[float, str]:
    """Largest difference between a route's log-probabilities and those of the model itself, nats; why it refused."""
    try:
        found: list[Tensor] = route(lm, rows, opening)
        pairs = zip(found, expected, strict=True)
        return max(float((got - whole[-len(got) :]).abs().nan_to_num(torch.inf).max()) for got, whole in pairs), ""
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as refusal:  # architectures raise their own kinds
        _log.debug("model '%s' refuses a short cut: %r", lm.name, refusal)
        return float("inf"), words_of(refusal) or type(refusal).__name__


def _rollout_logprobs(lm: LocalModel, rows: list[list[int]], opening: int) -> list[Tensor]:
    """By conversations: two openings of unequal length, two branches of each, which hear ragged texts."""
    shorter = opening - opening // 3
    session: Any = LMSession.open(lm, [rows[0][:opening], rows[2][:shorter]]).branch([0, 0, 1, 1])
    found, starts = [list[float]() for _ in rows], [opening, opening, shorter, shorter]
    for lengths in _HEARD:
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        texts = [Speech("", tuple(row[a:b]), lm.vocabulary) for row, a, b in zip(rows, starts, ends, strict=True)]
        for own, heard in zip(found, session.hear(texts, likelihood=True), strict=True):
            own.extend(heard)
        starts = ends
    return [torch.tensor(own, device=lm.device) for own in found]


def _packed_logprobs(lm: LocalModel, rows: list[list[int]], opening: int) -> list[Tensor]:
    """By one row of two branches, whose mask shows ancestors only."""
    first, second = rows
    end = len(first)
    ids, nodes = [*first, *second[opening:]], [*range(opening), *range(end, end + len(second) - opening)]
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask[end:, opening:end] = False
    positions = torch.tensor([[*range(end), *range(opening, len(second))]], device=lm.device)
    hidden = lm.forward(torch.tensor([ids], device=lm.device), mask[None, None].to(lm.device), positions)[0]
    return [_picked(lm.logits(hidden[:end]), first), _picked(lm.logits(hidden[nodes]), second)]


@contextmanager
def _narrowed(lm: LocalModel) -> Iterator[int]:
    """Make local windows narrow for a while; gives the tokens of an opening that is longer than every window."""
    wide = {key: getattr(lm.config, key, None) for key in WINDOWS}
    found = {key: value for key, value in wide.items() if isinstance(value, int) and value > _NARROW}
    fixed = [
        value for key, value in lm.config.to_dict().items()
        if "window" in key and key not in (*WINDOWS, "max_window_layers") and type(value) is int and value > _NARROW
    ]  # fmt: skip
    for key in found:
        setattr(lm.config, key, _NARROW)
    try:
        yield min(_MOST, lm.context // 2, max(fixed, default=0) * 3 // 2) + _OPENING if fixed else _OPENING
    finally:
        for key, value in found.items():
            setattr(lm.config, key, value)


def _use_fused_gelu(model: Any) -> None:
    """GPT-2's GELU is written out as eight passes over memory; the fused one is the same function."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
