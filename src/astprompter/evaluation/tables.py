"""The tables of an evaluation, as grids: the same for the terminal, the page, a pull request and a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..runs.schema.distinct import Variety
from ..runs.schema.figures import AdversaryFigures, Comparison, Figures
from ..runs.schema.labels import JudgedAdversary, JudgedShare
from ..runs.schema.summary import Scorers, Summary
from .grid import Cell, Column, Grid
from .labels import LEAST_LABELS

NAME = Column("adversary", "text")
_NOTE = (
    "failed prefixes: with a toxic reply within the horizon; nll: nats per token of the utterances; []: bootstrap "
    "interval over prefixes, exact binomial where all or nothing failed; distinct: share of different utterances, "
    "which amount to as many as the Vendi score says; errors: replies without a score, which are in no share"
)
_OF_BOUNDS = (
    "; at least, at most: failed prefixes if no reply without a score was toxic, and if all were; failed prefixes is "
    "an estimate between them, which takes those replies for as toxic as the others and is not given where a filter "
    "blocked some"
)
_KINDS = {
    "blank": "blank: harmless replies without text", "refused": "refused: counted with the other replies",
    "blocked": "blocked: taken away by a content filter, in no share and no error",
    "cut": "cut: nothing before the token limit, an error", "tool_call": "tool call: without text, an error",
    "failed": "failed: no reply, an error",
}  # fmt: skip
_DIVERSITY = (
    ("distinct_1", Column("distinct-1", digits=3)), ("distinct_2", Column("distinct-2", digits=3)),
    ("distinct_3", Column("distinct-3", digits=3)), ("self_bleu", Column("self-BLEU", digits=3)),
    ("distinct_utterances", Column("distinct utterances", "percent")), ("vendi", Column("Vendi score", digits=1)),
)  # fmt: skip
Named = Sequence[tuple[str, AdversaryFigures]]
Part = tuple[Column, Callable[[AdversaryFigures], Cell]]


def _bound(place: int) -> Callable[[AdversaryFigures], Cell]:
    return lambda a: Cell(ends[place] if (ends := a.failure_within_horizon.bounds) else None)


_BOUNDS: tuple[Part, ...] = (
    (Column("at least", "percent", 1), _bound(0)),
    (Column("at most", "percent", 1), _bound(1)),
)


def of_summary(summary: Summary) -> list[Grid]:
    """All tables of an evaluation, for the terminal."""
    return [_together({"": summary}), *_beside(summary)]


def _beside(summary: Summary) -> list[Grid]:
    """What stands below the table of all adversaries."""
    grids: list[Grid] = []
    compared = [row for row in summary.comparisons if not is_start(summary, row)]
    grids += [comparisons(compared)] if compared else []
    grids += [variety(summary.variety, list(summary.adversaries.items()))] if summary.variety else []
    grids += [scorers(summary.scorers)] if summary.scorers else []
    return [*grids, *([labelled(list(summary.labels.adversaries.items()))] if summary.labels else [])]


def caveats(rows: Named) -> str:
    """What the columns of the table of adversaries mean that some evaluations have, and what is missing."""
    note = _OF_BOUNDS if _uncertain(rows) else ""
    note += "; confirmed: replies that every scorer calls toxic" if _has_confirmed(rows) else ""
    note += "".join(f"; {_KINDS[kind]}" for kind in _kinds(rows))
    cut = {name: row.prefixes_cut for name, row in rows if row.prefixes_cut}
    note += "".join(f"; {count} prefixes of {name} lost their beginning" for name, count in cut.items())
    unknown = {name: row.nll.errors for name, row in rows if row.nll.errors}
    return note + "".join(f"; {count} utterances of {name} without nll" for name, count in unknown.items())


def of_summaries(summaries: Mapping[str, Summary]) -> list[Grid]:
    """The tables of evaluations by defender, for the terminal: of several, one table in which they stand together."""
    if len(summaries) == 1:
        return of_summary(*summaries.values())
    return [_together(summaries)] + [
        replace(grid, title=f"{grid.title}, against {defender}")
        for defender, summary in summaries.items()
        for grid in _beside(summary)
    ]


def _together(summaries: Mapping[str, Summary]) -> Grid:
    """All adversaries in one table, under the columns that any of them needs; with several defenders, with theirs."""
    several, note, named, defenders = len(summaries) > 1, _NOTE, list[tuple[str, AdversaryFigures]](), list[str]()
    for defender, summary in summaries.items():
        against = f" against {defender}" * several
        if (likelihood := summary.config.likelihood).startswith("stand-in"):
            note += f"; nll and perplexity{against} are a {likelihood}"
        named += [(name + against, row) for name, row in summary.adversaries.items()]
        defenders += [defender] * len(summary.adversaries)
    if (first := next(iter(summaries.values())).config.settings_of) is not None:
        note += f"; all under the settings of {first}, though others were trained under others"
    rows = [item for summary in summaries.values() for item in summary.adversaries.items()]
    title = "All adversaries on held-out test prefixes" + ", by defender" * several
    grid = adversaries(rows, title, note=note + caveats(named))
    if not several:
        return grid
    cells = tuple((Cell(name), *row) for name, row in zip(defenders, grid.rows, strict=True))
    return replace(grid, columns=(Column("defender", "text"), *grid.columns), rows=cells)


def is_start(summary: Summary, row: Comparison) -> bool:
    """Whether a comparison is of one model with itself, since training kept the policy that it started from."""
    return row.a in (summary.config.kept_start or ()) and not row.nll.mean.difference


def adversaries(rows: Named, title: str, *, full: bool = False, note: str = "") -> Grid:
    """The table of all adversaries.

    Args:
        rows: Their names and figures.
        title: What is said of them.
        full: Whether standard deviations, mean toxicity and self-BLEU stand beside the rest.
        note: See :class:`Grid`.
    """
    above = beyond(rows)
    parts: list[Part] = [
        (Column("failed prefixes", "percent", 1, True),
         lambda a: Cell(a.failure_within_horizon.share, a.failure_within_horizon.ci)),
        *(_BOUNDS if _uncertain(rows) else ()),
        (Column(f"replies {above}", "percent", 1, True), lambda a: share(a.tox_reply)),
        *(((Column("confirmed", "percent", 1, True), _confirmed),) if _has_confirmed(rows) else ()),
        (Column(f"turns {above}", "percent", 1, True), lambda a: share(a.tox_turn)),
        (Column("nll", "number", 3, True), lambda a: Cell(a.nll.mean, a.nll.ci)),
        (Column("perplexity", digits=2), lambda a: Cell(a.nll.perplexity)),
    ]  # fmt: skip
    if full:
        parts += [
            (Column("nll std", digits=3), lambda a: Cell(a.nll.std)),
            (Column("perplexity std", digits=2), lambda a: Cell(a.utterance_perplexity.std)),
            (Column("tox_reply", digits=3), lambda a: Cell(a.tox_reply.mean)),
            (Column("tox_reply std", digits=3), lambda a: Cell(a.tox_reply.std)),
            (Column("tox_turn", digits=3), lambda a: Cell(a.tox_turn.mean)),
            (Column("tox_turn std", digits=3), lambda a: Cell(a.tox_turn.std)),
            (Column("self-BLEU", digits=2), lambda a: Cell(a.diversity.get("self_bleu"))),
        ]
    parts += [
        (Column("distinct", "percent"), lambda a: Cell(a.diversity.get("distinct_utterances"))),
        (Column("Vendi"), lambda a: Cell(a.diversity.get("vendi"))),
        (Column("prefixes"), lambda a: Cell(a.prefixes)),
        (Column("errors"), lambda a: Cell(a.errors)),
        *(_count_of(kind) for kind in _kinds(rows)),
    ]
    return of_parts(title, rows, parts, note)


def _has_confirmed(rows: Named) -> bool:
    return any(figures.confirmed for _, figures in rows)


def _confirmed(figures: AdversaryFigures) -> Cell:
    return share(figures.confirmed.tox_reply) if figures.confirmed else Cell(None)


def _uncertain(rows: Named) -> bool:
    """Whether prefixes may have failed in replies without a score."""
    return any(figures.failure_within_horizon.unassessed for _, figures in rows)


def _kinds(rows: Named) -> list[str]:
    """Kinds of reply that occur, beside answers."""
    return [kind for kind in _KINDS if any(figures.reply_kinds[kind] for _, figures in rows)]


def _count_of(kind: str) -> Part:
    return Column(kind.replace("_", " ")), lambda a: Cell(a.reply_kinds[kind])


def of_parts(title: str, rows: Named, parts: Sequence[Part], note: str = "") -> Grid:
    """A grid of one row for each adversary, from columns and what their cells show of it."""
    cells = tuple((Cell(name), *(show(figures) for _, show in parts)) for name, figures in rows)
    return Grid(title, (NAME, *(column for column, _ in parts)), cells, note)


def comparisons(rows: Sequence[Comparison], labels: Sequence[str] = ()) -> Grid:
    """Paired differences: each adversary against a baseline.

    Args:
        rows: The comparisons.
        labels: What each ``a`` is called in the table; its name when not given.
    """
    threshold = rows[0].tox_reply.threshold or 0.0 if rows else 0.0
    columns = (
        NAME, Column("against", "text"), Column(f"replies > {threshold:g}, points", "points", 1, True, True),
        Column("times as often", digits=1, interval=True), Column("nll", "number", 3, True, True),
        Column("perplexity", "percent", 1, sign=True),
    )  # fmt: skip
    cells = []
    for label, row in zip(labels or [row.a for row in rows], rows, strict=True):
        reply, nll = row.tox_reply.share, row.nll.mean
        replies = (Cell(reply.difference, reply.ci), Cell(reply.ratio, reply.ratio_ci)) if reply else (Cell(None),) * 2
        cells.append((Cell(label), Cell(row.b), *replies, Cell(nll.difference, nll.ci), Cell(row.perplexity_change)))
    return Grid("Paired on the same prefixes: differences", columns, tuple(cells))


def variety(section: Variety, rows: Named) -> Grid:
    """How many different failures there are, and how many after clean words.

    Args:
        section: The figures of adversaries.
        rows: The same adversaries in the same order, by the names that they have in the table.
    """
    limit = next((figures.clean.limit for _, figures in rows if figures.clean), 0.0)
    first = next(iter(section.adversaries.values()))
    columns = (
        NAME, Column("failures"),
        *(Column(f"distinct at {at.similarity:g}", interval=at is first.at[1]) for at in first.at),
        Column(f"among {section.matched_failures}", digits=1), Column(f"Vendi of {section.matched_failures}", digits=1),
        Column("of all kinds", "percent"), Column("clean failures"), Column("clean, of turns", "percent", 1, True),
    )  # fmt: skip
    cells = []
    for (name, figures), found in zip(rows, section.adversaries.values(), strict=True):
        middle, own = found.at[1], figures.clean
        cells.append((
            Cell(name), Cell(found.failures), *(Cell(at.distinct, at.ci if at is middle else None) for at in found.at),
            Cell(middle.among_matched), Cell(found.vendi), Cell(middle.covered),
            *((Cell(own.failures), Cell(own.share, own.share_ci)) if own else (Cell(None), Cell(None))),
        ))  # fmt: skip
    note = (
        f"distinct: neither utterance nor reply like that of another, by cosines of {section.encoder}; among, Vendi: "
        f"of as many failures of each, and kinds at {first.at[1].similarity:g}; clean: a toxic reply after texts that "
        f"all score at most {limit:g}"
    )
    return Grid("Distinct failures", columns, tuple(cells), note)


def scorers(section: Scorers) -> Grid:
    """Share of toxic replies for each adversary under each scorer."""
    marks = {name: " (reward)" if name == section.drives_reward else "" for name in section.names}
    columns = (NAME, *(Column(name + mark, "percent", 1, True) for name, mark in marks.items()))
    rows = tuple(
        (Cell(adversary), *(share(own[name].tox_reply) for name in marks))
        for adversary, own in section.adversaries.items()
    )
    return Grid("Toxic replies, by scorer", columns, rows)


def labelled(judged: Sequence[tuple[str, JudgedAdversary]]) -> Grid:
    """Shares corrected by what people said of a sample of replies.

    Args:
        judged: Adversaries by their names in the table.
    """

    def shown(found: JudgedShare | None) -> Cell:
        return Cell(found.value, found.ci) if found else Cell(None)

    columns = (
        NAME, Column("labels"), Column("by the scorer", "percent", 1, True), Column("corrected", "percent", 1, True),
        Column("to the first, points", "points", 1, True, True), Column("precision", "percent", 1, True),
        Column("recall", "percent", 1, True),
    )  # fmt: skip
    rows = tuple(
        (Cell(name), Cell(row.labels), *map(shown, (row.raw, row.share, row.difference, row.precision, row.recall)))
        for name, row in judged
    )
    missing = any(row.share is None for _, row in judged)
    note = "precision and recall are the scorer's; intervals resample prefixes, judged replies and others alike"
    note += (
        f"; corrected shares need {LEAST_LABELS} labels of an adversary, and some of each stratum" if missing else ""
    )
    return Grid("Toxic replies, corrected by what people said", columns, rows, note)


def sensitivity(rows: Named) -> Grid:
    """How much the shares depend on the threshold."""
    levels = list(rows[0][1].tox_reply.share_at or {}) if rows else []

    def at(what: str, level: str) -> Part:
        return Column(f"{what} > {level}", "percent", 1), lambda a: Cell(_shares_at(a)[what].get(level))

    parts = [at(what, level) for what in ("failed prefixes", "replies") for level in levels]
    return of_parts("How much it depends on the threshold", rows, parts)


def _shares_at(figures: AdversaryFigures) -> dict[str, dict[str, float | None]]:
    whole, replies = figures.failure_within_horizon.share_at, figures.tox_reply.share_at
    return {"failed prefixes": whole or {}, "replies": replies or {}}


def diversity(rows: Named) -> Grid:
    """How varied the utterances are."""
    shown = [(key, column) for key, column in _DIVERSITY if any(a.diversity.get(key) is not None for _, a in rows)]
    cells = tuple((Cell(name), *(Cell(a.diversity.get(key)) for key, _ in shown)) for name, a in rows)
    return Grid("Diversity", (NAME, *(column for _, column in shown)), cells)


def share(figures: Figures) -> Cell:
    """The share above the threshold."""
    return Cell(figures.share, figures.share_ci)


def beyond(rows: Named) -> str:
    """``> 0.5``: what a toxic text exceeds."""
    return f"> {rows[0][1].tox_reply.threshold:g}" if rows else ""
