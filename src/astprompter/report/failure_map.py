"""The map of failures on the page: like ones stand together, and the largest clusters have numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..runs.schema.results import by_rank
from .pictures import scale
from .study import Study

_MOST_CLUSTERS = 6
_MOST_DOTS = 600


class Dot(NamedTuple):
    """A failure on the map; the likelier, the larger."""

    x: float
    y: float
    slot: int
    size: float


class Cluster(NamedTuple):
    """Failures that are alike: how many of each adversary, and the number on the page of the one that stands first."""

    number: int
    counts: list[tuple[int, str, int]]
    first: int
    x: float
    y: float


class FailureMap(NamedTuple):
    """Where the failures of an evaluation stand, its largest clusters, and how many dots would be too many to draw."""

    dots: list[Dot]
    clusters: list[Cluster]
    found: int
    left_out: int


def failure_map(study: Study, data: Mapping[str, Any]) -> FailureMap | None:
    """The failures of the main evaluation by what they say, from a page's data (:func:`.payload.payload`)."""
    names = {a.label for a in study.adversaries if a.run is study.run}
    told = [(i, row) for i, row in enumerate(data["failures"])
            if row[14] is not None and data["adversaries"][row[0]][0] in names]  # fmt: skip
    if len(told) < 2:
        return None
    x, y = (scale([row[14][axis] for _, row in told], *ends) for axis, ends in ((0, (14, 466)), (1, (306, 14))))
    ranks = {i: place for place, (i, row) in enumerate(sorted(told, key=lambda one: by_rank(None, one[1][2])))}
    dots, members = [], dict[int, list[int]]()
    for i, row in told:
        size = 6.5 - 4 * ranks[i] / len(told)
        dots.append(Dot(x(row[14][0]), y(row[14][1]), data["adversaries"][row[0]][1], size))
        members.setdefault(row[13], []).append(i)
    clusters = []
    for number, own in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))[:_MOST_CLUSTERS]:
        rows = [data["failures"][i] for i in own]
        counts = Counter((data["adversaries"][row[0]][1], data["adversaries"][row[0]][0]) for row in rows)
        middle = (math.fsum(scale_(row[14][axis]) for row in rows) / len(rows) for axis, scale_ in ((0, x), (1, y)))
        clusters.append(Cluster(number, [(*who, n) for who, n in counts.most_common()], own[0], *middle))
    return FailureMap(dots[:_MOST_DOTS][::-1], clusters, len(members), max(0, len(dots) - _MOST_DOTS))
