"""A key-value cache that is written in place and can branch.

The library's dynamic cache concatenates: every sampled token copies all keys and values of all rows. Here a layer
keeps a buffer with room to grow and hands out views of its used part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Columns to add at least when a buffer is full."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer: a buffer [2, rows, heads, capacity, width], of which columns are used."""

    def __init__(self, capacity: int, buffer: Tensor | None = None, used: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity, self._buffer, self._used = capacity, buffer, used
        if buffer is not None:
            self.lazy_initialization(buffer[0], buffer[1])
            self.keys, self.values = buffer[:, :, :, :used].unbind()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns and return all of them."""
        del args, kwargs
        rows, heads, new, width = key_states.shape
        end = self._used + new
        if self._buffer is None or end > self._capacity:
            self._capacity = max(self._capacity, end + (_ROOM if self._buffer is not None else 0))
            grown = key_states.new_empty(2, rows, heads, self._capacity, width)
            if self._buffer is not None:
                grown[:, :, :, : self._used] = self._buffer[:, :, :, : self._used]
            else:
                self.lazy_initialization(key_states, value_states)
            self._buffer = grown
        self._buffer[0, :, :, self._used : end] = key_states
        self._buffer[1, :, :, self._used : end] = value_states
        self._used = end
        keys, values = self._buffer[:, :, :, :end].unbind()
        self.keys, self.values = keys, values
        return keys, values

    def select(self, rows: Tensor) -> GrowingLayer:
        """A layer of chosen rows, repeats allowed, with the same room to grow."""
        if self._buffer is None:
            return GrowingLayer(self._capacity)
        _, _, heads, _, width = self._buffer.shape
        chosen = self._buffer.new_empty(2, len(rows), heads, self._capacity, width)
        for target, source in enumerate(rows.tolist()):
            chosen[:, target, :, : self._used] = self._buffer[:, source, :, : self._used]
        return GrowingLayer(self._capacity, chosen, self._used)


class GrowingCache(DynamicCache):
    """One :class:`GrowingLayer` per attention layer."""

    def __init__(self, layers: list[GrowingLayer]) -> None:
        super().__init__()
        self.growing = layers
        self.layers = [*layers]

    @classmethod
    def empty(cls, layers: int, capacity: int) -> GrowingCache:
        """A cache of ``layers`` layers with room for ``capacity`` columns."""
        return cls([GrowingLayer(capacity) for _ in range(layers)])

    @torch.no_grad()
    def select(self, rows: Tensor) -> GrowingCache:
        """A cache of chosen rows; this one stays as it is."""
        return GrowingCache([layer.select(rows) for layer in self.growing])
