"""Rounds of a repair over several seeds: shares and ratios pooled, with intervals over prefixes; costs by seed.

    python scripts/pool_repairs.py ROUNDS ROUNDS... [> pooled.md]

Each argument is a folder that ``astprompter harden … --rounds`` wrote, of a run with a seed of its own, all measured on
the same prefixes. Rounds that some seed lacks are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from astprompter.base.formats import interval, number, percent
from astprompter.base.names import UNTUNED
from astprompter.evaluation.repair import Side
from astprompter.evaluation.statistics import Floats, by_prefix, overall, paired_difference
from astprompter.runs.directory import REPAIR
from astprompter.runs.schema.repair import BenignReplies, Changed, RepairFile

COSTS: dict[str, Callable[[BenignReplies], Changed]] = {
    "tokens of a reply": lambda of: of.length, "distinct-2": lambda of: of.distinct_2,
    "Vendi score": lambda of: of.vendi,
}  # fmt: skip


class Seed:
    """The rounds of one seed."""

    def __init__(self, folder: Path) -> None:
        self.found = RepairFile.read(folder / REPAIR)
        self.sides = [Side.read(folder / one.folder) for one in self.found.defenders]

    def table(self, place: int, name: str | None, of: str = "replies") -> Floats:
        """Toxic or not, [prefixes, turns], of one defender under one adversary; its fresh one where none is named."""
        return self.sides[place].tables[name or str(self.found.defenders[place].fresh)][of]


def pooled(seeds: Sequence[Seed], rounds: int) -> Iterator[list[str]]:
    """Rows of shares, and of ratios to the first defender and to the round before."""
    shares = replace(seeds[0].sides[0].options, threshold=0.5)  # of what is 1 or 0
    judges = [key for key in seeds[0].sides[0].tables[UNTUNED] if key.startswith("scorer ")][1:]  # the first one chose

    def told(name: str | None, of: str) -> tuple[list[str], list[Floats]]:
        tables = [np.stack([seed.table(place, name, of) for seed in seeds]) for place in range(rounds)]
        found = [overall(by_prefix(table), shares) for table in tables]
        return [f"{percent(one.share)} {interval(one.share_ci, 1, scale=100)}" for one in found], tables

    def ratio(a: Floats, b: Floats) -> str:
        found = paired_difference(a, b, range(len(seeds)), shares).share
        return "–" if found is None else f"{number(found.ratio, 2)} {interval(found.ratio_ci, 2)}"

    for label, name, of in (
        ("fresh adversary", None, "replies"), ("untuned", UNTUNED, "replies"),
        *((f"fresh adversary by {key.removeprefix('scorer ').rsplit('/', 1)[-1]}", None, key) for key in judges),
    ):  # fmt: skip
        cells, tables = told(name, of)
        yield [label, *cells]
        yield ["– ratio to before", "", *(ratio(table, tables[0]) for table in tables[1:])]
        if rounds > 2:
            yield ["– ratio to the round before", "", "", *map(ratio, tables[2:], tables[1:])]


def costs(seeds: Sequence[Seed], rounds: int) -> Iterator[list[str]]:
    """Rows of what it cost: the change of the means, and that of every seed."""
    every = [[seed.found.defenders[place].benign for seed in seeds] for place in range(1, rounds)]
    texts = [[one.texts.nll for one in own if one and one.texts] for own in every]
    replies = [[one.replies for one in own if one and one.replies] for own in every]
    yield ["nll of harmless texts", "", *map(changes, texts)]
    for name, figure in COSTS.items():
        yield [name, "", *(changes([figure(one) for one in own]) for own in replies)]


def changes(found: Sequence[Changed]) -> str:
    """The change of the means, and each."""
    before, after = (
        np.mean([value or 0.0 for value in own]) for own in zip(*((of.before, of.after) for of in found), strict=True)
    )
    told, *each = (
        percent(float(ratio) - 1, digits=2, sign=True) for ratio in (after / before, *(of.ratio or 0.0 for of in found))
    )
    return f"{told} ({', '.join(each)})"


def main() -> None:
    """Print the table."""
    seeds = [Seed(Path(folder)) for folder in sys.argv[1:]]
    rounds = min(len(seed.sides) for seed in seeds)
    head = ["", "before", *(f"round {place}" for place in range(1, rounds))]
    for cells in (head, ["---"] * len(head), *pooled(seeds, rounds), *costs(seeds, rounds)):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
