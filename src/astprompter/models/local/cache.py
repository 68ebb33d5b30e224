"""A key-value cache that is written in place, and whose branches share their trunk.

The library's dynamic cache concatenates (every sampled token copies all keys and values of all rows), and a branch
copies whole conversations. Here a layer keeps a buffer with room to grow. When every row branches the same number of
times, the columns so far become a *segment* that the branches share: it is neither copied nor read once per branch,
since the queries of one family of rows meet its keys in one matrix product. Openings differ most in length (the longest
of a batch is often ten times the median), so neighbouring rows with openings of a like length keep theirs in a segment
of their own, as wide as the longest of *them*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True, slots=True)
class Segment:
    """Columns that ``repeats`` neighbouring rows share.

    Attributes:
        keys: [families, key heads, columns, width].
        values: The same shape.
        repeats: Rows of a family.
    """

    keys: Tensor
    values: Tensor
    repeats: int

    @property
    def rows(self) -> int:
        """How many rows it serves."""
        return len(self.keys) * self.repeats

    def part(self, rows: slice) -> Segment:
        """What neighbouring rows see of it; whole families only."""
        families = slice(rows.start // self.repeats, rows.stop // self.repeats)
        return Segment(self.keys[families], self.values[families], self.repeats)

    def copy_rows(self, rows: Tensor, target: Tensor) -> None:
        """Write keys and values of chosen rows to [2, rows, key heads, columns, width]."""
        families = rows // self.repeats
        target[0] = self.keys[families]
        target[1] = self.values[families]


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer: openings by groups of rows, shared segments, then a buffer.

    The buffer is [2, rows, heads, capacity, width].
    """

    def __init__(
        self,
        room: int,
        *,
        shared: bool,
        openings: tuple[Segment, ...] = (),
        wide: int = 0,
        trunk: tuple[Segment, ...] = (),
        buffer: Tensor | None = None,
        used: int = 0,
    ) -> None:
        """Make a layer.

        Args:
            room: Columns to add at least when the buffer is full.
            shared: Whether the model attends through :meth:`attend`; else branches copy.
            openings: The first columns of groups of neighbouring rows, group by group; empty where they are in what
                follows, the same for all rows.
            wide: Columns that the openings take in the matrix of all rows; a group uses the first of them.
            trunk: Segments that come before the buffer.
            buffer: Keys and values.
            used: Columns of the buffer that hold some.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._room, self._shared, self._trunk, self._buffer = room, shared, trunk, buffer
        self._openings, self._wide, self._used = openings, wide, used
        self._begin = wide + sum(segment.keys.size(2) for segment in trunk)
        if buffer is not None:
            self._refresh(buffer)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Append columns; returns all keys and values, or this layer in place of the keys where it is shared."""
        del args, kwargs
        end = self._used + key_states.size(2)
        if self._buffer is None or end > self._buffer.size(3):
            self._grow(key_states, end)
        buffer = self._buffer
        assert buffer is not None  # noqa: S101 - it has just grown
        buffer[0, :, :, self._used : end] = key_states
        buffer[1, :, :, self._used : end] = value_states
        self._used = end
        keys, values = self._refresh(buffer)
        return (self if self._shared else keys), values

    def get_seq_length(self) -> int:
        """Columns held, those of the trunk included."""
        return self._begin + self._used

    @property
    def alone(self) -> bool:
        """Whether nothing is shared, so that any attention function will do."""
        return not self._trunk and not self._openings

    def attend(self, query: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
        """Attention over trunk and buffer; one softmax over all columns, so it is exact.

        Args:
            query: [rows, heads, new, width].
            scaling: Factor of the scores.
            bias: Added to the scores, [rows, 1, new, columns]; ``None`` sees everything.

        Returns:
            [rows, new, heads, width].
        """
        query, segments = query * scaling, self._segments(1)
        if not self._openings:
            return _attend(query, segments, [bias])
        results, start = [], 0
        for opening in self._openings:
            rows = slice(start, start + opening.rows)
            own = [opening, *(segment.part(rows) for segment in segments)]
            columns = [slice(0, opening.keys.size(2)), slice(self._wide, None)]
            results.append(_attend(query[rows], own, [None if bias is None else bias[rows, ..., c] for c in columns]))
            start = rows.stop
        return torch.cat(results)

    def branch(self, repeats: int) -> GrowingLayer:
        """A layer in which each row stands ``repeats`` times; this one stays as it is."""
        openings = tuple(Segment(s.keys, s.values, s.repeats * repeats) for s in self._openings)
        return GrowingLayer(
            self._room, shared=self._shared, openings=openings, wide=self._wide, trunk=self._segments(repeats)
        )

    def select(self, rows: Tensor) -> GrowingLayer:
        """A layer of chosen rows, repeats allowed, all copied; this one stays as it is."""
        segments, openings = self._segments(1), self._openings_of(rows)
        total = self.get_seq_length() - self._wide
        if not segments:
            return GrowingLayer(self._room, shared=self._shared, openings=openings, wide=self._wide)
        heads, width = segments[0].keys.shape[1::2]
        chosen = segments[0].keys.new_empty(2, len(rows), heads, total + self._room, width)
        end = 0
        for segment in segments:
            begin, end = end, end + segment.keys.size(2)
            segment.copy_rows(rows, chosen[:, :, :, begin:end])
        return GrowingLayer(
            self._room, shared=self._shared, openings=openings, wide=self._wide, buffer=chosen, used=total
        )

    def _openings_of(self, rows: Tensor) -> tuple[Segment, ...]:
        """Openings of chosen rows, copied: a group for each run of rows that were of one group.

        Rows that share one go on sharing it where each is left with as many rows.
        """
        if not self._openings:
            return ()
        ends = torch.tensor([opening.rows for opening in self._openings]).cumsum(0)
        chosen, start = [], 0
        for group, run in groupby(torch.searchsorted(ends, rows.cpu(), right=True).tolist()):
            part, opening = rows[start : start + len(list(run))], self._openings[group]
            start += len(part)
            every = (part - (int(ends[group]) - opening.rows)) // opening.repeats
            families, counts = torch.unique_consecutive(every, return_counts=True)
            repeats = int(counts[0])
            if not bool((counts == repeats).all()):
                families, repeats = every, 1
            chosen.append(Segment(opening.keys[families], opening.values[families], repeats))
        return tuple(chosen)

    def extend(self, other: GrowingLayer, rows: Tensor, new: int, count: int) -> None:
        """Take the last ``new`` columns that ``other`` computed for ``rows``; the other rows of ``count`` get zeros."""
        if other._buffer is None:
            return  # a layer that reads another one's keys
        columns = other._buffer[:, :, :, other._used - new : other._used]
        columns = columns.new_zeros(2, count, *columns.shape[2:]).index_copy_(1, rows, columns)
        self.update(columns[0], columns[1])

    def _grow(self, like: Tensor, end: int) -> None:
        rows, heads, _, width = like.shape
        first = self._buffer is None and self.alone  # the opening is written in one piece
        grown = like.new_empty(2, rows, heads, end if first else max(end, self._used + self._room), width)
        if self._buffer is not None:
            grown[:, :, :, : self._used] = self._buffer[:, :, :, : self._used]
        self._buffer = grown

    def _refresh(self, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """Point the library's ``keys`` and ``values`` at the used columns."""
        if not self.is_initialized:
            self.lazy_initialization(buffer[0], buffer[1])
        keys, values = buffer[:, :, :, : self._used].unbind()
        self.keys, self.values = keys, values
        return keys, values

    def _segments(self, repeats: int) -> tuple[Segment, ...]:
        """Trunk and used columns, each shared by ``repeats`` times as many rows."""
        trunk = tuple(Segment(s.keys, s.values, s.repeats * repeats) for s in self._trunk)
        if self._buffer is None or not self._used:
            return trunk
        keys, values = self._buffer[:, :, :, : self._used].unbind()
        return (*trunk, Segment(keys, values, repeats))


class GrowingCache(DynamicCache):
    """One :class:`GrowingLayer` per attention layer."""

    def __init__(self, layers: list[GrowingLayer]) -> None:
        super().__init__()
        self.growing = layers
        self.layers = [*layers]

    @classmethod
    def empty(cls, layers: int, room: int, *, shared: bool) -> GrowingCache:
        """A cache of ``layers`` layers that grow by at least ``room`` columns."""
        return cls([GrowingLayer(room, shared=shared) for _ in range(layers)])

    @classmethod
    def joined(cls, parts: Sequence[GrowingCache], *, wide: int) -> GrowingCache:
        """Groups of rows one after the other, each with the opening that it has computed; ``wide`` columns in all."""
        layers = []
        for own in zip(*(part.growing for part in parts), strict=True):
            openings = tuple(segment for layer in own for segment in layer._segments(1))
            layers.append(GrowingLayer(own[0]._room, shared=True, openings=openings, wide=wide))
        return cls(layers)

    @torch.no_grad()
    def select(self, rows: Tensor) -> GrowingCache:
        """A cache of chosen rows, copied; this one stays as it is."""
        return GrowingCache([layer.select(rows) for layer in self.growing])

    @torch.no_grad()
    def branch(self, repeats: int) -> GrowingCache:
        """A cache in which each row stands ``repeats`` times, its columns so far shared with this one."""
        return GrowingCache([layer.branch(repeats) for layer in self.growing])

    @torch.no_grad()
    def extend(self, other: GrowingCache, rows: Tensor, new: int, count: int) -> None:
        """Take the last ``new`` columns of ``other`` for ``rows``; see :meth:`GrowingLayer.extend`."""
        for layer, source in zip(self.growing, other.growing, strict=True):
            layer.extend(source, rows, new, count)


def _attend(query: Tensor, segments: Sequence[Segment], biases: Sequence[Tensor | None]) -> Tensor:
    """One softmax over all segments.

    Args:
        query: Scaled, [rows, heads, new, width].
        segments: Whose columns are seen, at least one.
        biases: Added to the scores one after the other: together as many columns as the segments.

    Returns:
        [rows, new, heads, width].
    """
    scores = torch.cat([_scores(query, segment) for segment in segments], dim=-1)  # [rows, heads, new, columns]
    end = 0
    for bias in biases:
        if bias is not None:
            begin, end = end, end + bias.size(-1)
            scores[..., begin:end] += bias
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    parts = torch.split(weights, [segment.keys.size(2) for segment in segments], dim=-1)
    result = _mix(parts[0], segments[0])
    for part, segment in zip(parts[1:], segments[1:], strict=True):
        result += _mix(part, segment)
    return result.transpose(1, 2)


def _scores(query: Tensor, segment: Segment) -> Tensor:
    """Query-key products: [rows, heads, new, width] -> [rows, heads, new, columns]."""
    rows, heads, new, width = query.shape
    families, key_heads, columns, _ = segment.keys.shape
    group = heads // key_heads
    folded = query.view(families, segment.repeats, key_heads, group, new, width).transpose(1, 2)
    products = folded.reshape(families, key_heads, -1, width) @ segment.keys.transpose(2, 3)
    unfolded = products.view(families, key_heads, segment.repeats, group, new, columns).transpose(1, 2)
    return unfolded.reshape(rows, heads, new, columns)


def _mix(weights: Tensor, segment: Segment) -> Tensor:
    """Weighted sum of values: [rows, heads, new, columns] -> [rows, heads, new, width]."""
    rows, heads, new, columns = weights.shape
    families, key_heads, _, width = segment.values.shape
    group = heads // key_heads
    folded = weights.reshape(families, segment.repeats, key_heads, group, new, columns).transpose(1, 2)
    products = folded.reshape(families, key_heads, -1, columns) @ segment.values
    unfolded = products.view(families, key_heads, segment.repeats, group, new, width).transpose(1, 2)
    return unfolded.reshape(rows, heads, new, width)
