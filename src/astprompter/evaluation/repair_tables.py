"""The tables of a repair, as grids, and what it comes to in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..base.formats import interval, number, percent
from ..base.names import UNTUNED
from ..runs.schema.figures import ShareDifference
from ..runs.schema.repair import BenignCost, Changed, Rate, RepairFile
from .grid import Cell, Column, Grid

FRESH = "fresh (trained against each)"
_DEFENDER, _ADVERSARY = Column("defender", "text"), Column("adversary", "text")


def tables(found: RepairFile) -> list[Grid]:
    """All tables of a repair."""
    return [replies(found), details(found), *([cost] if (cost := benign(found)).rows else [])]


def label(found: RepairFile, place: int) -> str:
    """What a defender is called: by its place, since folders of hardened models are all called alike."""
    return "before" if not place else "after" if len(found.defenders) == 2 else f"after round {place}"


def replies(found: RepairFile) -> Grid:
    """Share of toxic replies of every defender, by adversary, and the change from the first to the last."""
    names = list(dict.fromkeys(name for one in found.defenders for name in one.adversaries))
    rows: list[tuple[Cell, ...]] = []
    last = found.defenders[-1]
    if sum(one.fresh is not None for one in found.defenders) > 1:
        fresh = [one.adversaries[one.fresh] if one.fresh else None for one in found.defenders]
        rows.append(_row(FRESH, [of.replies if of else None for of in fresh], last.honest))
        for scorer, honest in list((last.honest_by or {}).items())[1:]:
            rows.append(
                _row(f"fresh, by {scorer}", [(of.scorers or {}).get(scorer) if of else None for of in fresh], honest)
            )
    for name in names:
        own = [of.replies if (of := one.adversaries.get(name)) else None for one in found.defenders]
        rows.append(_row(name, own, own[-1].change if own[-1] else None))
    columns = (
        _ADVERSARY, *(Column(label(found, i), "percent", 1, True) for i in range(len(found.defenders))),
        Column("change, points", "points", 1, True, True), Column("ratio", digits=2, interval=True),
    )  # fmt: skip
    return Grid(
        "Toxic replies, by defender", columns, tuple(rows),
        f"[]: {100 * found.level:g} % interval over prefixes; change, ratio: the last defender against the first, "
        "paired on prefixes; fresh: each defender's own adversary, trained against it",
    )  # fmt: skip


def _row(name: str, own: Sequence[Rate | None], change: ShareDifference | None) -> tuple[Cell, ...]:
    cells = [Cell(rate.share, rate.ci) if rate else Cell(None) for rate in own]
    if change is None:
        return (Cell(name), *cells, Cell(None), Cell(None))
    return Cell(name), *cells, Cell(change.difference, change.ci), Cell(change.ratio, change.ratio_ci)


def details(found: RepairFile) -> Grid:
    """Every adversary on every defender: replies, conversations, clean, confirmed and distinct failures, scorers."""
    every = [(label(found, i), name, of) for i, one in enumerate(found.defenders) for name, of in
             one.adversaries.items()]  # fmt: skip
    scorers = list(dict.fromkeys(scorer for _, _, of in every for scorer in of.scorers or {}))
    confirmed = any(of.confirmed for _, _, of in every)
    columns = (
        _DEFENDER, _ADVERSARY,
        *(Column(name, "percent", 1, True) for name in ("toxic replies", "failed prefixes", "clean failures")),
        *([Column("confirmed", "percent", 1, True)] * confirmed),
        Column("distinct failures", interval=True),
        *(Column(f"by {scorer}", "percent", 1, True) for scorer in scorers[1:]),
    )  # fmt: skip

    def cell(rate: Rate | None) -> Cell:
        return Cell(rate.share, rate.ci) if rate else Cell(None)

    rows = [
        (Cell(where), Cell(name), *map(cell, (of.replies, of.prefixes, of.clean)), *[cell(of.confirmed)] * confirmed,
         Cell(of.distinct, of.distinct_ci), *(cell((of.scorers or {}).get(scorer)) for scorer in scorers[1:]))
        for where, name, of in every
    ]  # fmt: skip
    note = "by …: toxic replies under a further scorer" if scorers[1:] else ""
    return Grid("Every adversary on every defender", columns, tuple(rows), note)


def benign(found: RepairFile) -> Grid:
    """What each later defender costs where nothing was to be repaired."""
    columns = (
        Column("defender", "text"), Column("figure", "text"), Column("before", digits=3, interval=True),
        Column("after", digits=3, interval=True), Column("change, %", "points", 2, True, True),
    )  # fmt: skip
    rows = [
        (Cell(label(found, i)), Cell(name), Cell(of.before, of.before_ci), Cell(of.after, of.after_ci), _relative(of))
        for i, one in enumerate(found.defenders) if one.benign for name, of in changes_of(one.benign)
    ]  # fmt: skip
    kl = [
        f"{label(found, i)}: KL from the first defender {texts.kl:.4f} nats per token on harmless texts"
        for i, one in enumerate(found.defenders)
        if one.benign and (texts := one.benign.texts) and texts.kl is not None
    ]
    missing = [one.benign.missing for one in found.defenders if one.benign and one.benign.missing]
    note = "change: of the ratio; the replies are those to the untuned adversary's first utterance, where it is clean"
    return Grid("What it costs", columns, tuple(rows), "; ".join([note, *kl, *dict.fromkeys(missing)]))


def changes_of(cost: BenignCost) -> Iterator[tuple[str, Changed]]:
    """The figures of a cost, each named."""
    if cost.texts:
        yield "nll of harmless texts", cost.texts.nll
    if cost.replies:
        yield "tokens of a reply", cost.replies.length
        yield "distinct-2 of replies", cost.replies.distinct_2
        yield "Vendi score of replies", cost.replies.vendi
        yield "share of blank replies", cost.replies.blank
        yield "share of refusing replies", cost.replies.refused


def _relative(of: Changed) -> Cell:
    ends = None if of.ratio_ci is None else [end - 1 for end in of.ratio_ci]
    return Cell(None if of.ratio is None else of.ratio - 1, ends)


def headline(found: RepairFile) -> str:
    """What the repair comes to, in a sentence: the honest test where there is one, else the untuned adversary."""
    first, last = found.defenders[0], found.defenders[found.last]
    if first is last:
        return f"'{first.name}' stayed as it was"
    who = "a fresh adversary" if first.fresh and last.fresh else f"'{UNTUNED}'"
    names = [one.fresh if first.fresh and last.fresh else UNTUNED for one in (first, last)]
    rates = [one.adversaries[name].replies for one, name in zip((first, last), names, strict=True)
             if name in one.adversaries]  # fmt: skip
    if len(rates) < 2:
        return f"{len(found.defenders)} defenders side by side"
    told = [f"{percent(rate.share)} {interval(rate.ci, 1, scale=100)}".strip() for rate in rates]
    cost = last.benign.texts.nll.ratio if last.benign and last.benign.texts else None
    paid = (
        "" if cost is None else f", while the nll of harmless texts changed by {percent(cost - 1, digits=2, sign=True)}"
    )
    step = ""
    if last.step and last.step.difference is not None:
        moved = f"{number(100 * last.step.difference, 1, sign=True)} {interval(last.step.ci, 1, scale=100)}".strip()
        step = f"; round {found.last} changed it by {moved} points"
    now = "are now" if last is found.defenders[-1] else f"are with the model that is kept, of round {found.last}"
    return f"Under {who}, {told[0]} of the replies were toxic before and {told[1]} {now}{paid}{step}"
