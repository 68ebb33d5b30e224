"""The files of a study: its tables as Markdown, LaTeX and CSV, and its findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ...base.files import write_text
from ...evaluation.grid import Cell, Column, Grid, comma_separated, escaped, latex, markdown
from ...evaluation.summarise import METRICS
from ...evaluation.tables import NAME, Named, Part, adversaries, beyond, caveats, of_parts, share, variety
from ...runs.schema.figures import AdversaryFigures
from ...runs.schema.study import Case, Experiment, StudyAdversary, TransferPoint


def write_all(found: Experiment, folder: Path) -> None:
    """Write ``experiment.json`` and the tables, and of a plan with claims ``findings.md``."""
    tables = grids(found)
    write_text(folder / "tables.md", _markdown_page(found, tables))
    write_text(folder / "tables.tex", "\n".join(map(latex, tables)))
    write_text(folder / "tables.csv", comma_separated(every_figure(found)))
    if found.findings:
        write_text(folder / "findings.md", findings_page(found))
    else:
        (folder / "findings.md").unlink(missing_ok=True)  # of a plan that had claims before
    found.write(folder / "experiment.json")


def grids(found: Experiment) -> list[Grid]:
    """All tables: four for each pair of models, then the transfer matrix."""
    tables: list[Grid] = []
    for case in found.cases.values():
        rows = list(case.adversaries.items())
        tables += [overall(case, full=True), _per_turn(case, rows), _by_utterance(case, rows), _by_seed(case, rows)]
        tables += [variety(case.variety, rows)] if case.variety else []
    return [*tables, *_transfer(found.transfer)]


def overall(case: Case, *, full: bool = False) -> Grid:
    """The table of all adversaries of a pair of models."""
    rows = list(case.adversaries.items())
    note = f"[]: {100 * case.level:g} % interval over prefixes{caveats(rows)}"
    return adversaries(rows, f"Over all turns: {_where(case)}", full=full, note=note)


def _where(case: Case) -> str:
    return f"adversary {case.adversary}, defender {case.defender}"


def _per_turn(case: Case, rows: Named) -> Grid:
    above = beyond(rows)
    columns = (
        NAME, Column("turn", "text"), Column("nll", digits=3), Column("nll std", digits=3),
        Column("perplexity std", digits=2), Column("tox_reply", digits=3), Column("tox_reply std", digits=3),
        Column(f"replies {above}", "percent", 1, True), Column("tox_turn", digits=3), Column("tox_turn std", digits=3),
        Column(f"turns {above}", "percent", 1, True),
    )  # fmt: skip

    def cells(name: str, a: AdversaryFigures, turn: int) -> tuple[Cell, ...]:
        nll, perplexity, reply, both = (
            metric.per_turn[turn] for metric in (a.nll, a.utterance_perplexity, a.tox_reply, a.tox_turn)
        )
        return (
            Cell(name), Cell(str(turn + 1)), Cell(nll.mean), Cell(nll.std), Cell(perplexity.std), Cell(reply.mean),
            Cell(reply.std), share(reply), Cell(both.mean), Cell(both.std), share(both),
        )  # fmt: skip

    shown = tuple(cells(name, row, turn) for name, row in rows for turn in range(case.horizon))
    return Grid(f"By turn: {_where(case)}", columns, shown)


def _by_utterance(case: Case, rows: Named) -> Grid:
    above = beyond(rows)

    def after(what: str, kind: str) -> Part:
        column = Column(f"replies {above} after {what}", "percent", 1, True)
        return column, lambda a: _after(a, kind)

    first: Part = (Column(f"utterances {above}", "percent", 1, True), lambda a: share(a.tox_utterance))
    parts = [first, after("these", "toxic"), after("others", "clean")]
    return of_parts(f"Replies by the toxicity of the utterance: {_where(case)}", rows, parts)


def _after(a: AdversaryFigures, kind: str) -> Cell:
    found = getattr(a.replies_by_utterance, kind)
    return Cell(found.share, found.share_ci)


def _by_seed(case: Case, rows: Named) -> Grid:
    above = beyond(rows)
    shares = (f"replies {above}", f"turns {above}", "failed prefixes")
    columns = (NAME, Column("seed", "text"), Column("nll", digits=3), *(Column(name, "percent", 1) for name in shares))
    cells = []
    for name, a in rows:
        failures = a.failure_within_horizon
        by_seed = zip(a.nll.by_seed, a.tox_reply.by_seed, a.tox_turn.by_seed, failures.by_seed, strict=True)
        for nll, reply, turn, failed in by_seed:
            figures = (nll.mean, reply.share, turn.share, failed.share)
            cells.append((Cell(name), Cell(str(nll.seed)), *map(Cell, figures)))
        spreads = (a.tox_reply.seed_std.share, a.tox_turn.seed_std.share, failures.seed_std)
        cells.append((Cell(name), Cell("std over seeds"), Cell(a.nll.seed_std.mean), *map(Cell, spreads)))
    return Grid(f"By seed: {_where(case)}", columns, tuple(cells))


def _transfer(entries: Sequence[TransferPoint]) -> Iterator[Grid]:
    """One matrix: rows are trained adversaries, columns defenders; cells are share of toxic replies, and nll."""
    defenders = list(dict.fromkeys(entry.defender for entry in entries))
    if len(defenders) < 2:
        return
    rows: dict[str, dict[str, tuple[Cell, Cell]]] = {}
    for entry in entries:
        name = f"{entry.adversary} ({entry.model}, trained on {entry.trained_on})"
        rows.setdefault(name, {})[entry.defender] = (Cell(entry.share, entry.share_ci), Cell(entry.nll, entry.nll_ci))
    columns = [(Column(f"toxic, {name}", "percent", 1, True), Column(f"nll, {name}", "number", 3, True))
               for name in defenders]  # fmt: skip
    absent = (Cell(None), Cell(None))
    cells = [(Cell(name), *chain(*(row.get(defender, absent) for defender in defenders))) for name, row in rows.items()]
    yield Grid("Transfer: replies and nll, by defender", (NAME, *chain(*columns)), tuple(cells))


def every_figure(found: Experiment) -> Grid:
    """The figures over all seeds: a row per pair, adversary, turn (``all`` or its number) and metric."""
    columns = (
        *(Column(name, "text") for name in ("adversary_model", "defender", "adversary", "kind", "turn", "metric")),
        Column("mean", interval=True), Column("std"), Column("share", interval=True), Column("threshold"),
        Column("valid"), Column("errors"), Column("seed_std_mean"), Column("seed_std_share"),
    )  # fmt: skip
    rows = []
    for case in found.cases.values():
        for name, a in case.adversaries.items():
            first = (case.adversary, case.defender, name, a.kind)
            for turn, metric, *values in (*_of_metrics(a), *_single(a)):
                cells = [value if isinstance(value, Cell) else Cell(value) for value in values]
                rows.append((*map(Cell, (*first, turn, metric)), *cells, *[Cell(None)] * (8 - len(cells))))
    return Grid("", columns, tuple(rows))


def _of_metrics(a: StudyAdversary) -> Iterator[tuple[str, str, *tuple[Cell | float | None, ...]]]:
    for name in METRICS:
        metric = getattr(a, name)
        spread = (metric.seed_std.mean, metric.seed_std.share)
        for turn, figures in enumerate([metric, *metric.per_turn]):
            values = Cell(figures.mean, figures.ci), figures.std, share(figures), figures.threshold
            yield str(turn or "all"), name, *values, figures.valid, figures.errors, *(() if turn else spread)


def _single(a: StudyAdversary) -> Iterator[tuple[str, str, Cell]]:
    """Figures that are one number, with its interval if it has one."""
    failed = a.failure_within_horizon
    yield "all", "failure_within_horizon", Cell(failed.share, failed.ci)
    for end, bound in zip(("at least", "at most"), failed.bounds or (), strict=False):
        yield "all", f"failure_within_horizon {end}", Cell(bound)
    yield "all", "perplexity", Cell(a.nll.perplexity)
    if a.confirmed:
        yield "all", "share of confirmed toxic replies", share(a.confirmed.tox_reply)
    for kind, count in a.reply_kinds.items():
        yield "all", f"replies: {kind}", Cell(count)
    for kind in ("toxic", "clean"):
        yield "all", f"share of toxic replies after {kind}", _after(a, kind)
    for name, value in a.diversity.items():
        yield "all", f"diversity {name}", Cell(value)


def findings_page(found: Experiment) -> str:
    """``findings.md``: every claim, its verdict and the figures."""
    columns = (Column("", "text"), Column("claim", "text"), Column("verdict", "text"), Column("figures", "text"))
    rows = tuple(tuple(map(Cell, (item.id, item.claim, item.verdict, item.evidence))) for item in found.findings)
    rules = "Claims of the paper, judged by paired intervals, seeds and sizes (see docs/experiments.md for the rules)."
    return _page(f"Findings: {found.experiment}", found, [rules], [markdown(Grid("", columns, rows))])


def _markdown_page(found: Experiment, tables: Iterable[Grid]) -> str:
    parts = [
        f"## {escaped(grid.title)}\n\n{markdown(grid)}" + (f"\n\n{escaped(grid.note)}" if grid.note else "")
        for grid in tables
    ]
    return _page(found.experiment, found, [found.summary, f"{found.pooling} nll in nats per token."], parts)


def _page(title: str, found: Experiment, head: Sequence[str], parts: Sequence[str]) -> str:
    missing = [f"**Not complete**: {len(found.missing)} jobs are still to be done."] if found.missing else []
    return "\n\n".join([f"# {escaped(title)}", *head, *missing, *parts]) + "\n"
