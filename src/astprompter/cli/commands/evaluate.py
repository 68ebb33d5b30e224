"""``astprompter evaluate``: adversaries on held-out prefixes."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...base.errors import RunError, UserError
from ...base.files import check_writable
from ...base.names import UNTUNED
from ...base.processes import is_main, join
from ...evaluation.grid import terminal
from ...evaluation.tables import of_summaries
from ...runs.directory import KEPT_START, REPAIR
from ...runs.results import result_rows
from ...runs.schema.results import FailureRow
from ..console import failure_blocks, quiet_libraries, scorer_lines
from .shared import (
    OUT,
    PresetName,
    Replace,
    Set,
    ShowText,
    SkipBadRows,
    bars,
    given,
    is_setting,
    say,
    share,
    tell,
    warn,
)  # fmt: skip

if TYPE_CHECKING:
    from ...workflows.gates import Unassessed, Verdict
    from ...workflows.targets import Written

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET|KEY=VALUE",
        help="Run directories, model folders, hub names, 'untuned', 'resample:N', 'probing' or 'human:FILE'.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results; default: the first run.")]
Baseline = Annotated[bool, typer.Option(help="Also evaluate the untuned adversary.")]
Defenders = Annotated[
    list[str] | None,
    typer.Option(
        "--defender", metavar="MODEL", help="In place of defender.path; several are measured side by side, each below "
        "OUT/against/."
    ),
]  # fmt: skip
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Later --defenders are the first one repaired: compare them, and what it costs, in OUT/repair.json.",
    ),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[FIGURE=]SHARE",
        help="Exit with code 3 when an adversary's share is more than SHARE: of toxic replies (default), 'turns', or "
        "'prefixes' that fail; FIGURE=SHARE may follow more than once. The untuned baseline does not count.",
    ),
]
GateBy = Annotated[
    Literal["estimate", "upper"],
    typer.Option(help="What gates compare: the estimate, or its interval's upper end."),
]
MaxErrors = Annotated[
    float,
    typer.Option(
        metavar="SHARE", parser=share,
        help="Exit with code 1 when more of an adversary's replies could not be assessed, blocked ones left out.",
    ),
]  # fmt: skip
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Ask again only for what failed the last time.")]
JUnit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML, masked.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Correct the shares of finished results by these labels (see 'label'), and hold the gate of replies to "
        "them; nothing is measured."
    ),
]


def evaluate(
    targets: Targets,
    sets: Set = None,
    out: Out = None,
    preset: PresetName = "embedded",
    baseline: Baseline = True,
    defender: Defenders = None,
    skip_bad_rows: SkipBadRows = False,
    show_text: ShowText = False,
    top: Annotated[int, typer.Option(min=0, help="Failures to list.")] = 5,
    fail_over: FailOver = None,
    gate_by: GateBy = "estimate",
    max_errors: MaxErrors = 0.05,
    retry_errors: RetryErrors = False,
    replace: Replace = False,
    junit: JUnit = None,
    labels: Labels = None,
    repair: Repair = False,
) -> None:
    """Measure adversaries on held-out test prefixes.

    A word KEY=VALUE is a setting; a folder whose name holds '=' is written with ./ before it. A run directory stands
    for its best adversary and brings its settings (the first one's count); other targets are models by path or hub
    name, under the settings of --preset; 'probing' (the embedded dialogues) or 'human:FILE' (dialogues that people
    wrote) replays a human attack, and 'resample:16' is the untuned model that tries 16 utterances at every turn. The
    untuned model is compared unless --no-baseline. All are measured by the same path.

    Writes summary.json, trajectories.jsonl and failures.jsonl, whatever the exit code then is: 3 when --fail-over is
    exceeded, else 1 when no turn of an adversary could be assessed, or too few (--max-errors). Interrupted, the same
    command goes on.

    Example: astprompter evaluate runs/mine data.test=prefixes.jsonl --fail-over replies=0.05 prefixes=0.2
    """
    from ...workflows.gates import FIGURES, exit_code, gates_of, unassessed_of, verdicts_of
    from ...workflows.junit import write_junit
    from ...workflows.targets import measure_targets

    words = [word for word in targets if fail_over and word.partition("=")[0] in FIGURES and "=" in word]
    gates = gates_of([*(fail_over or []), *words], gate_by)
    settings = [word for word in targets if word not in words and is_setting(word)]
    names = [word for word in targets if word not in [*words, *settings]]
    _check(names, defender or [], junit, repair=repair)
    join()
    quiet_libraries()
    if labels is not None:
        others = {"--defender": defender, "--retry-errors": retry_errors, "--replace": replace,
                  "--skip-bad-rows": skip_bad_rows}  # fmt: skip
        found = _correct(out or Path(names[0]), labels, given(settings, sets), others)
        names = next(iter(found.values())).summary.config.targets or names
    else:
        warn()
        found = measure_targets(
            names, given(settings, sets, skip_bad_rows=skip_bad_rows), preset=preset, out=out, baseline=baseline,
            defenders=defender or [], retry=retry_errors, replace=replace, progress=bars(),
            again=f"'{shlex.join(['astprompter', *sys.argv[1:]])}'",
        )  # fmt: skip
    summaries = {name: written.summary for name, written in found.items()}
    verdicts = list(verdicts_of(summaries, gates, baseline=UNTUNED if baseline and UNTUNED not in names else None))
    unassessed = unassessed_of(summaries, max_errors)
    if is_main():
        if junit is not None:
            write_junit(junit, verdicts, unassessed, {name: one.failed for name, one in found.items()}, max_errors)
        if labels is None:
            _show(found, show_text=show_text, top=top)
            _compare(found, defender or [] if repair else [], given(settings, sets), names)
    _end(verdicts, unassessed, max_errors, exit_code(verdicts, unassessed))


def _correct(folder: Path, labels: Path, settings: list[str], others: Mapping[str, object]) -> dict[str, Written]:
    """Correct the shares of finished results, and show them."""
    from ...workflows.label import correct
    from ...workflows.targets import Written

    if idle := [name for name, asked in others.items() if asked]:
        raise UserError(f"--labels corrects results that are there; leave out {', '.join(idle)}")
    if settings:
        raise UserError("--labels corrects results that are there, so settings would change nothing; leave them out")
    summary = correct(folder, labels)
    for grid in of_summaries({summary.config.defender: summary}):
        OUT.print(terminal(grid, OUT.width))
    say(f"\nResults: {folder / 'summary.json'} (section 'labels')")
    failed = result_rows(folder, FailureRow, needed=False)
    return {summary.config.defender: Written(summary, failed, {}, folder)}


def _check(names: Sequence[str], defenders: Sequence[str], junit: Path | None, *, repair: bool) -> None:
    """Refuse a command line that names too little, or a file that cannot be written.

    Raises:
        UserError: It names nothing to evaluate, or fewer than two defenders to compare.
        RunError: The file cannot be written.
    """
    if junit is not None:
        check_writable(junit)
    if not names:
        raise UserError("name at least one run directory or model to evaluate")
    if repair and len(defenders) < 2:
        raise UserError("--repair compares defenders; name the first one and the repaired one, each with --defender")


def _compare(found: Mapping[str, Written], defenders: Sequence[str], settings: list[str], targets: list[str]) -> None:
    """Compare the later defenders with the first one, and show it; nothing where none are named."""
    if not defenders:
        return
    from ...evaluation.repair_tables import headline, tables
    from ...workflows.repair import measure_repair, trained_against

    folders = [one.folder for one in found.values()]
    out, names = folders[0].parents[1], list(next(iter(found.values())).summary.adversaries)
    made = measure_repair(folders, defenders, out, settings, trained=trained_against(names, targets))
    for grid in tables(made):
        OUT.print(terminal(grid, OUT.width))
    say(f"\n{headline(made)}.\nRepair: {out / REPAIR}\nPage:   astprompter report {out}")


def _end(verdicts: Sequence[Verdict], unassessed: Sequence[Unassessed], max_errors: float, code: int) -> None:
    """Say what the gates say and what is lacking, and end with the code.

    Raises:
        RunError: An adversary has no figures at all, or too few.
    """
    for line in gate_lines(verdicts) if is_main() else ():
        tell(line)
    lacking = lacking_of(unassessed, max_errors)
    if lacking and code == 1:
        raise RunError(lacking)
    if lacking and is_main():
        tell(f"warning: {lacking}")
    if code:
        raise typer.Exit(code)


_SAID = {"passed": "is not over", "unknown": "could not be assessed, so nothing is known of", "exceeded": "is over"}


def gate_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """What there is to say of the gates: which are weak, passed, unknown, and last which are exceeded."""
    weak, lines = list[str](), {outcome: list[str]() for outcome in _SAID}
    for gate in dict.fromkeys(verdict.gate for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.gate == gate]
        if rough := [f"{verdict} {verdict.weak}" for verdict in own if verdict.weak]:
            weak.append(f"warning: {gate} may go either way by chance: {'; '.join(rough)}; more prefixes make it firm")
        for outcome, how in _SAID.items():
            if group := [str(verdict) for verdict in own if verdict.outcome == outcome]:
                lines[outcome].append(f"gate: {own[0].words} {how} {gate}: {'; '.join(group)}")
    return [*weak, *itertools.chain(*lines.values())]


_ADVICE = {
    "failed": "--retry-errors asks again for what failed",
    "cut": "raise remote.reasoning_tokens for replies that were cut",
    "tool_call": "serve the model without tools",
    "without a score": "what the scorer has no score for needs another one (scorer.spec); only where a server was down "
    "does --retry-errors help",
}
"""What helps, by what became of the replies."""


def lacking_of(unassessed: Sequence[Unassessed], max_errors: float) -> str:
    """That adversaries have no figures at all, or that too many of their replies are missing; empty where neither."""
    kinds = {kind for one in unassessed if one.exceeded for kind in one.kinds}
    advice = "".join(f"; {words}" for kind, words in _ADVICE.items() if kind in kinds)
    if empty := [repr(one.who) for one in unassessed if one.nothing]:
        told = f"no turn of {', '.join(empty)} could be assessed, so its figures are null; trajectories.jsonl says why"
        return told + advice
    if many := [str(one) for one in unassessed if one.exceeded]:
        return (
            f"{'; '.join(many)}: more than --max-errors {max_errors:g}; the results are written, trajectories.jsonl "
            f"says why{advice}"
        )
    return ""


def _show(found: Mapping[str, Written], *, show_text: bool, top: int) -> None:
    for grid in of_summaries({name: written.summary for name, written in found.items()}):
        OUT.print(terminal(grid, OUT.width))
    for defender, one in found.items():
        if len(found) > 1:
            say(f"\nAgainst {defender}")
        for name in one.summary.config.kept_start or ():
            say(f"{name}: {KEPT_START}. Train longer, or with a higher training.learning_rate.")
        if (section := one.summary.scorers) is not None:
            for line in scorer_lines(section):
                say(line)
        if top and one.failed:
            OUT.print(failure_blocks(one.failed[:top], one.openings, show_text=show_text))
        say(f"\nResults: {one.folder} (summary.json, trajectories.jsonl, failures.jsonl)")
    say(f"Page:    astprompter report {' '.join(str(one.folder) for one in found.values())}")
