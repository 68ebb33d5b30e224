"""What every causal model can do, however it is built: run its own head, and whole rows one at a time.

The head is what the model itself makes of its last hidden states: scales, soft caps and biases included. Rows on their
own need no mask and no positions; each keeps the library's own kind of cache (states of recurrent layers, windows,
latents), which a branch copies.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Alone = Literal["cached", "stepwise", "anew"]
"""How a row on its own goes on: new tokens at once, token by token, or by computing the whole row again."""
CACHES = ("cache", "past_key_values", "cache_params", "state", "mems")
"""What models call their cache, as argument and in their output."""


class _States:
    """Output of a backbone whose hidden states are at hand."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: int) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        return None


def backbone(model: Any) -> tuple[str, Any]:
    """The part that gives last hidden states, and its name, of which the library's own is wrong for some (Llama 4)."""
    name = model.base_model_prefix if hasattr(model, model.base_model_prefix) else "model"
    return name, getattr(model, name)


def own_logits(model: Any, hidden: Tensor) -> Tensor:
    """What the model itself makes of last hidden states: [n, width] -> [n, vocabulary].

    Its forward pass runs on a view of it that shares all parts, in which the backbone answers with the given states.
    """
    name, body = backbone(model)
    view = _view(model, {name: _answering(body, _States(hidden[None]))})
    output = view(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def _answering(module: Any, states: _States) -> Any:
    inner = module._modules.get("decoder")  # some call the decoder of their backbone
    view = _view(module, {"decoder": _answering(inner, states)} if inner is not None else {})
    view.__dict__["forward"] = lambda *_, **__: states
    return view


def _view(module: Any, parts: dict[str, Any]) -> Any:
    """The same module with other parts."""
    view = object.__new__(type(module))
    view.__dict__ = {**module.__dict__, "_modules": {**module._modules, **parts}}
    return view


class RowCaches:
    """A cache of the library's own kind for each row; answers like :class:`~.cache.GrowingCache`."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = list(rows)

    def select(self, rows: Tensor) -> RowCaches:
        """Copies of chosen rows, repeats allowed."""
        return RowCaches([copy.deepcopy(self.rows[row]) for row in rows.tolist()])

    def extend(self, other: RowCaches, rows: Tensor, new: int, count: int) -> None:
        """Take over what ``other`` went on with."""
        del new, count
        for place, row in enumerate(rows.tolist()):
            self.rows[row] = other.rows[place]


def run_alone(model: Any, how: Alone, ids: Tensor, valid: Tensor, width: int, caches: RowCaches | None) -> Tensor:
    """Hidden states of new tokens, row by row, as the model computes each row by itself.

    Args:
        model: The causal model.
        how: How a row goes on.
        ids: New tokens, int64 [rows, new].
        valid: Validity of all columns so far, bool [rows, past + new]; nothing is computed for holes.
        width: Of the hidden states, where there is none to see it by.
        caches: What each row goes on from, extended in place; ``None`` computes whole rows.

    Returns:
        [rows, new, width], 0 at holes.
    """
    fresh = valid[:, valid.size(1) - ids.size(1) :]
    found = [_row(model, how, ids[row][fresh[row]][None], caches, row) for row in range(len(ids))]
    some = next((states for states in found if states is not None), torch.zeros(0, width, device=ids.device))
    hidden = some.new_zeros(*ids.shape, some.size(1))
    for row, states in enumerate(found):
        if states is not None:
            hidden[row, fresh[row]] = states
    return hidden


def _row(model: Any, how: Alone, ids: Tensor, caches: RowCaches | None, row: int) -> Tensor | None:
    """Hidden states of a row's new tokens, [new, width]; ``None`` where there is none."""
    if not ids.size(1):
        return None
    if caches is None:
        return _run(model, ids)[0][0]
    past = caches.rows[row]
    if how == "anew":
        caches.rows[row] = ids if past is None else torch.cat([past, ids], dim=1)
        return _run(model, caches.rows[row])[0][0, -ids.size(1) :]
    parts = []
    for part in torch.split(ids, 1 if how == "stepwise" and past is not None else ids.size(1), dim=1):
        states, caches.rows[row] = _run(model, part, caches.rows[row], cached=True)
        parts.append(states[0])
    return torch.cat(parts)


def _run(model: Any, ids: Tensor, past: Any = None, *, cached: bool = False) -> tuple[Tensor, Any]:
    options = {name_of_cache(model): past} if past is not None else {}
    output = backbone(model)[1](input_ids=ids, use_cache=cached, **options)
    if not cached:
        return output.last_hidden_state, None
    cache = next((value for name in CACHES if (value := getattr(output, name, None)) is not None), None)
    if cache is None:
        raise NotImplementedError("it keeps no cache")
    return output.last_hidden_state, cache


def name_of_cache(model: Any) -> str:
    """What the model calls the argument that takes its cache."""
    known = inspect.signature(backbone(model)[1].forward).parameters
    return next((name for name in CACHES if name in known), CACHES[0])
