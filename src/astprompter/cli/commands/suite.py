"""``astprompter suite`` and ``retest``: failures kept, and the next version of a model tested with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...base.display import masked, plain
from ...base.errors import RunError, UserError
from ...base.files import check_writable
from ...evaluation.grid import Cell, Column, Grid, terminal
from ..console import quiet_libraries
from .shared import OUT, Overrides, Set, ShowText, bars, given, say, share, tell, warn

if TYPE_CHECKING:
    from ...runs.schema.suite import RetestFile, SuiteFile

_RETEST = "retest.json"
_SURPRISING = 0.05
RepairedBy = Annotated[
    list[Path] | None,
    typer.Option(
        "--repaired-by", metavar="REPAIR",
        help="A folder of 'harden': cases that it learnt from are counted apart; may be repeated.",
    ),
]  # fmt: skip
Samples = Annotated[int, typer.Option("--samples", "-m", min=1, help="Samples of each case.")]


def suite(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs, or folders of evaluations.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the suite.")],
    sets: Set = None,
    samples: Samples = 20,
    every: Annotated[bool, typer.Option("--every", help="Keep every failure, not one of each cluster.")] = False,
    repaired_by: RepairedBy = None,
) -> None:
    """Keep the distinct failures of evaluations as a suite for the next version of the model.

    Of several scorers' failures the confirmed ones are kept. Each case is led 20 times again on the defender that
    failed, to know how often it fails there. 'retest' then tests another model with the suite.

    Example: astprompter suite runs/mine -o suite
    """
    from ...workflows.suite import SUITE, make_suite

    warn()
    quiet_libraries()
    made = make_suite(
        runs, out, given(None, sets), samples=samples, every=every, repaired_by=repaired_by or [], progress=bars()
    )
    OUT.print(terminal(_of_suite(made), OUT.width))
    say(f"\nSuite: {out / SUITE}. It holds texts that are offensive.")
    say(f"Test:  astprompter retest {out} defender.path=NEW --fail-over 0.05")


def retest(
    folder: Annotated[Path, typer.Argument(metavar="SUITE", help="Folder of a suite.")],
    overrides: Overrides = None,
    sets: Set = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Result file; default: SUITE/retest.json.")] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "-m", min=1, help="Samples; default: the suite's.")
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=share,
            help="Exit with code 3 when the mean share of samples that fail is more than SHARE.",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare with this earlier result, not with the suite.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare this finished result --against another; draw nothing.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the cases as JUnit XML, masked.")] = None,
    repaired_by: RepairedBy = None,
    show_text: ShowText = False,
) -> None:
    """Test a model with a suite: what is fixed, what still fails, what fails newly?

    The user's side of every case is said again, and all replies are fresh. A sample fails when any of its replies is
    toxic. The defender is that of the suite unless defender.path=… names another. Cases that its repair learnt from are
    counted apart: the share, the gate and the exit code are those of the others.

    Example: astprompter retest suite defender.path=models/new --fail-over 0.05 --junit retest.xml
    """
    from ...runs.schema.suite import SuiteFile
    from ...workflows.junit import write_retest
    from ...workflows.suite import SUITE, compare
    from ...workflows.suite import retest as tested

    if results is not None and against is None:
        raise UserError("--results compares two finished results; name the earlier one with --against")
    out = folder / _RETEST if out is None and results is None else out
    for file in filter(None, (out, junit)):
        check_writable(file)
    warn()
    quiet_libraries()
    if results is not None and against is not None:
        if samples or repaired_by or given(overrides, sets):
            raise UserError("--results draws nothing, so it takes neither settings nor --samples, nor --repaired-by")
        found = compare(folder, results, against)
    else:
        found = tested(
            folder, given(overrides, sets), samples=samples, against=against, repaired_by=repaired_by or [],
            progress=bars(),
        )  # fmt: skip
    if out is not None:
        found.write(out)
    OUT.print(terminal(_of_retest(found), OUT.width))
    _say_failing(found, SuiteFile.read(folder / SUITE), plain if show_text else masked)
    if junit is not None:
        write_retest(junit, found)
    if out is not None:
        say(f"\nResults: {out}")
    _tell_of_chance(found)
    _end(found, fail_over)


def _say_failing(found: RetestFile, suite: SuiteFile, show: Callable[[str], str]) -> None:
    cases = {case.case: case for case in suite.cases}
    for row in found.cases:
        if row.outcome in ("still failing", "newly failing"):
            say(f"{row.outcome}: case {row.case}, {row.failed} of {row.assessed} samples")
            say(f"  {show(cases[row.case].utterances[-1])} → {show(row.worst_reply or '')}")


def _tell_of_chance(found: RetestFile) -> None:
    """Tell of fixed cases that failed so rarely before that so many samples without a failure are no surprise."""
    fixed = [row for row in found.cases if row.outcome == "fixed" and row.before is not None]
    if rare := sum((1.0 - (row.before or 0.0)) ** row.assessed > _SURPRISING for row in fixed):
        tell(
            f"note: {rare} of {len(fixed)} fixed cases failed so rarely before that {found.samples} samples without a "
            "failure are likely even if nothing changed; draw more (--samples)"
        )


def _end(found: RetestFile, most: float | None) -> None:
    """End with code 3 where the gate is exceeded, and with 1 where too little could be assessed.

    Raises:
        RunError: No case could be assessed; or with a gate, not all of them, or too few samples.
    """
    from ...runs.schema.suite import LOST

    totals = found.totals
    if most is not None and totals.share is not None:
        over = totals.share > most
        interval = f" (interval {totals.ci[0]:.4f} to {totals.ci[1]:.4f})" if totals.ci else ""
        how = "is over" if over else "is not over"
        tell(f"gate: mean share of samples that fail {totals.share:.4f}{interval} {how} --fail-over {most:g}")
        if over:
            raise typer.Exit(3)
    if totals.share is None or (most is not None and totals.outcomes["unassessed"]):
        left = "" if found.trained_on is None else "; cases that a repair was trained on are no test of it"
        raise RunError(f"{totals.outcomes['unassessed']} of {totals.cases} cases could not be assessed{left}")
    drawn, assessed = (sum(getattr(row, name) for row in found.cases) for name in ("drawn", "assessed"))
    if most is not None and drawn - assessed > LOST * drawn:
        raise RunError(f"{drawn - assessed} of {drawn} samples could not be assessed, more than {LOST:g} of them")


def _of_suite(made: SuiteFile) -> Grid:
    columns = (
        Column("case", "text"), Column("adversary", "text"), Column("turns"),
        Column("samples that fail", "percent", 0, True), Column("failed"), Column("assessed"),
    )  # fmt: skip
    rows = [
        (Cell(case.case), Cell(case.adversary), Cell(len(case.utterances)),
         Cell(case.at_first.share, case.at_first.ci), Cell(case.at_first.failed), Cell(case.at_first.assessed))
        for case in made.cases
    ]  # fmt: skip
    note = f"[]: {100 * made.config.settings['evaluation']['level']:g} % interval over samples (Wilson)"
    return Grid(f"{len(made.cases)} cases against {made.config.defender}", columns, tuple(rows), note)


def _of_retest(found: RetestFile) -> Grid:
    columns = (
        Column("cases", "text"), Column("count"), *(Column(name) for name in found.totals.outcomes),
        Column("samples that fail", "percent", 1, True), Column("since before, points", "points", 1, True, True),
    )  # fmt: skip
    parts = [("all" if found.trained_on is None else "not trained on", found.totals)]
    parts += [("trained on", found.trained_on)] if found.trained_on else []
    rows = [
        (Cell(name), Cell(totals.cases), *map(Cell, totals.outcomes.values()), Cell(totals.share, totals.ci),
         Cell(totals.difference, totals.difference_ci))
        for name, totals in parts
    ]  # fmt: skip
    note = f"before: {found.against}; {found.samples} samples of each case; []: bootstrap interval over cases"
    return Grid(f"The suite against {found.config.defender}", columns, tuple(rows), note)
