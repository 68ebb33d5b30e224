"""A repair as a section of the page: from ``repair.json`` beside the runs; texts are always masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..base.display import masked
from ..base.formats import quantity
from ..base.names import UNTUNED
from ..evaluation import repair_tables as tables
from ..evaluation.grid import Grid, escaped, markdown
from ..runs.directory import REPAIR
from ..runs.schema.repair import Clusters, Defended, Rate, RepairFile
from .pictures import Label as Named
from .pictures import Plot, Scale, Spot, free_place, scale

_TOP = 8
_ROW = 34


class Dots(NamedTuple):
    """Shares of toxic replies, a row for each adversary, a dot for each defender.

    Attributes:
        x: Scale of the shares.
        height: Of the picture.
        rows: Name, height, and slot and place of each dot.
        legend: Slot and name of each defender.
    """

    x: Scale
    height: float
    rows: list[tuple[str, float, list[tuple[int, Spot]]]]
    legend: list[tuple[int, str]]


class Closed(NamedTuple):
    """A cluster of failures: how many there were, how many are left, and the first one's texts, masked."""

    before: int
    after: int
    utterance: str
    reply: str


@dataclass(frozen=True, slots=True)
class Section:
    """What one repair says.

    Attributes:
        name: Of its folder.
        found: The file.
    """

    name: str
    found: RepairFile

    @property
    def headline(self) -> str:
        """The repair in a sentence."""
        return f"{tables.headline(self.found)}."

    @property
    def grids(self) -> list[Grid]:
        """Shares by defender, every adversary on every defender, and the cost."""
        return tables.tables(self.found)

    @property
    def clusters(self) -> Clusters | None:
        """Of the last defender against the first."""
        return self.found.defenders[-1].clusters

    @property
    def clustered(self) -> str:
        """What became of the kinds of failures, in a sentence."""
        if (found := self.clusters) is None:
            return ""
        kinds = quantity(found.closed + found.stayed, "kind")
        return (
            f"Of {kinds} of failures that were found before, {found.closed} closed and {found.stayed} stayed; "
            f"{found.opened} opened (under the adversaries that attacked both)."
        )

    @property
    def largest(self) -> list[Closed]:
        """The largest clusters, those of before first."""
        found = self.clusters.largest if self.clusters else []
        return [
            Closed(one.before, one.after, masked(one.utterance.strip()), masked(one.reply.strip()))
            for one in sorted(found, key=lambda one: (-one.before, -one.after))[:_TOP]
        ]

    @property
    def dots(self) -> Dots | None:
        """Before and after, adversary by adversary."""
        return _dots(self.found)

    @property
    def trade(self) -> Plot | None:
        """Failure against benign cost, defender by defender."""
        return _trade(self.found)


def sections(folders: Sequence[Path]) -> list[Section]:
    """Sections of the folders that hold a repair.

    Raises:
        UserError: A file is damaged or from another version.
    """
    return [
        Section(folder.resolve().name, RepairFile.read(folder / REPAIR))
        for folder in folders if (folder / REPAIR).is_file()
    ]  # fmt: skip


def to_markdown(folders: Sequence[Path]) -> str:
    """The sections as Markdown; empty where there is no repair."""
    parts = []
    for section in sections(folders):
        parts += [f"## The repair: {escaped(section.name)}", escaped(section.headline)]
        parts += [escaped(f"Rounds ended: {section.found.stopped}.")] if section.found.stopped else []
        parts += [escaped(section.clustered)] if section.clustered else []
        for grid in section.grids:
            parts += [f"### {grid.title}", markdown(grid), escaped(f"{grid.note}.")]
    return "\n\n".join(parts) + "\n" if parts else ""


def _slot(place: int, count: int) -> int:
    """Colour and shape of a defender: grey as it was, the first colour as it is now."""
    return 1 if not place else 0 if place == count - 1 else 1 + place


def _dots(found: RepairFile) -> Dots | None:
    defenders, rows = found.defenders, list[tuple[str, list[tuple[int, Rate]]]]()
    fresh = [(i, one.adversaries[one.fresh].replies) for i, one in enumerate(defenders) if one.fresh]
    if len(fresh) > 1:
        rows.append(("fresh, each its own", fresh))
    for name in dict.fromkeys(name for one in defenders for name in one.adversaries):
        rows.append((name, [(i, of.replies) for i, one in enumerate(defenders) if (of := one.adversaries.get(name))]))
    values = [v for _, own in rows for _, rate in own if rate.share is not None for v in (rate.share, *(rate.ci or ()))]
    if not values:
        return None
    x = scale([0.0, *values], 170, 620, zero=True)
    drawn = []
    for place, (name, own) in enumerate(rows):
        y = 60.0 + _ROW * place
        step = min(6.0, 20 / max(1, len(own)))
        spots = [
            (_slot(i, len(defenders)), Spot(x(rate.share), y + step * (n - (len(own) - 1) / 2),
                                            [x(end) for end in rate.ci] if rate.ci else None))
            for n, (i, rate) in enumerate(own) if rate.share is not None
        ]  # fmt: skip
        drawn.append((name, y, spots))
    legend = [(_slot(i, len(defenders)), tables.label(found, i)) for i in range(len(defenders))]
    return Dots(x, 60.0 + _ROW * len(rows) + 24, drawn, legend)


def _trade(found: RepairFile) -> Plot | None:
    points = []
    for place, one in enumerate(found.defenders):
        rate, cost = _honest(one), one.benign.texts if one.benign else None
        if rate is None or rate.share is None or (place and (cost is None or cost.nll.ratio is None)):
            continue
        ratio = (cost.nll.ratio, cost.nll.ratio_ci) if cost else (1.0, None)
        points.append((place, 100 * (ratio[0] or 1.0) - 100, ratio[1] and [100 * end - 100 for end in ratio[1]], rate))
    if len(points) < 2:
        return None
    x = scale([v for _, at, ends, _ in points for v in (at, *(ends or ()))], 50, 464, pad=0.14)
    y = scale([v for *_, rate in points for v in (rate.share or 0.0, *(rate.ci or ()))], 276, 34, zero=True, pad=0.12)
    series, labels, taken = [], [], list[tuple[float, float]]()
    for place, at, ends, rate in points:
        spot = Spot(x(at), y(rate.share or 0.0), [x(end) for end in ends] if ends else None,
                    [y(end) for end in rate.ci] if rate.ci else None)  # fmt: skip
        series.append((_slot(place, len(found.defenders)), [spot]))
        right = spot.x < 300
        where = free_place((spot.x + (10 if right else -10), spot.y - 9), taken)
        labels.append(Named(*where, tables.label(found, place), anchor="start" if right else "end"))
    return Plot(x, y, series, labels)


def _honest(one: Defended) -> Rate | None:
    """Toxic replies under the defender's own fresh adversary, or under the untuned one where there is none."""
    of = one.adversaries.get(one.fresh or UNTUNED)
    return of.replies if of else None
