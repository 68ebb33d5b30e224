"""Which openings of a batch are computed together: those of a like length, and equal ones once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

_PADDING, _PRICES = 1.15, (512, 384, 256, 192, 128, 96, 64)
"""Columns for each token of an opening that are good enough, and what a group of rows may cost, in columns."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows whose openings are computed together, in columns as wide as the longest of them.

    Attributes:
        rows: Which.
        repeats: How many neighbouring rows have each opening.
    """

    rows: slice
    repeats: int

    @property
    def computed(self) -> slice:
        """One row of each opening."""
        return slice(self.rows.start, self.rows.stop, self.repeats)


def together(rows: Sequence[Sequence[int]]) -> list[Group]:
    """Groups of like openings; equal neighbours are shared where that saves more columns than its groups cost.

    Args:
        rows: Token ids of each opening.
    """
    lengths = [len(row) for row in rows]
    apart = [Group(group, 1) for group in alike(lengths)]
    starts = [place for place in range(len(rows)) if not place or rows[place] != rows[place - 1]]
    if len(starts) == len(rows):
        return apart
    counts = [end - start for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]
    shared, place = [], 0
    for repeats, run in groupby(counts):
        end = place + repeats * len(list(run))
        for part in alike(lengths[place:end:repeats]):
            shared.append(Group(slice(place + part.start * repeats, place + part.stop * repeats), repeats))
        place = end

    def columns(groups: Sequence[Group]) -> int:
        return sum(max(own) * len(own) + _PRICES[-1] for own in (lengths[group.computed] for group in groups))

    return min(apart, shared, key=columns)


def alike(lengths: Sequence[int]) -> list[slice]:
    """Neighbouring rows that are as wide as their longest together, in as few groups as waste little.

    Groups minimise columns + price * groups; the price of one falls until at most 15 % of the columns are padding, or
    until it saves less than its own work in every step of a conversation.

    Args:
        lengths: Tokens of each row.
    """
    longest, tokens = np.array(lengths, dtype=np.int64), sum(lengths)
    groups = [slice(0, len(lengths))]
    for price in _PRICES:
        if sum((group.stop - group.start) * max(lengths[group]) for group in groups) <= _PADDING * tokens:
            break
        cost, starts = np.zeros(len(lengths) + 1), []
        for end in range(1, len(cost)):
            widths = np.maximum.accumulate(longest[:end][::-1])[::-1]  # of the group from each row to this one
            costs = cost[:end] + widths * np.arange(end, 0, -1) + price
            starts.append(int(costs.argmin()))
            cost[end] = costs[starts[-1]]
        groups, end = [], len(lengths)
        while end:
            groups.insert(0, slice(starts[end - 1], end))
            end = starts[end - 1]
    return groups
