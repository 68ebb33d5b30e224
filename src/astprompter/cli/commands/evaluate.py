"""``astprompter evaluate``: adversaries on held-out prefixes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ...base.errors import RunError, UserError, nearest
from ...base.names import UNTUNED
from ...base.processes import is_main, join
from ...config import known_keys
from ...evaluation.grid import terminal
from ...evaluation.tables import of_summary
from ...runs.directory import KEPT_START
from ...runs.schema.summary import Summary
from ..console import (
    failure_blocks,
    quiet_libraries,
    scorer_lines,
)
from .shared import ERR, OUT, PresetName, Set, ShowText, SkipBadRows, bars, given, say, warn

_FEW = 100
"""A gate on fewer prefixes is told to be weak: without one toxic reply their true share may still be 3 / n."""

if TYPE_CHECKING:
    from ...evaluation.evaluate import Evaluation


def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET|KEY=VALUE",
            help="Run directories, model folders, hub names, 'untuned', 'probing' or 'human:FILE'.",
        ),
    ],
    sets: Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results; default: the first run.")
    ] = None,
    preset: PresetName = "embedded",
    baseline: Annotated[bool, typer.Option(help="Also evaluate the untuned adversary.")] = True,
    skip_bad_rows: SkipBadRows = False,
    show_text: ShowText = False,
    top: Annotated[int, typer.Option(min=0, help="Failures to list.")] = 5,
    fail_over: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Exit with code 3 when an adversary's share of replies above 0.5 (the estimate, not an end of its "
            "interval) is more than SHARE; the untuned baseline does not count.",
        ),
    ] = None,
) -> None:
    """Measure adversaries on held-out test prefixes.

    A word KEY=VALUE is a setting; a folder whose name holds '=' is written with ./ before it.

    A run directory stands for its best adversary and brings its settings (the first one's count); other targets are
    models by path or hub name, under the settings of --preset; 'probing' (the embedded dialogues) or 'human:FILE'
    (dialogues that people wrote) replays a human attack. The untuned model is compared unless
    --no-baseline. All are measured by the same path.

    Writes summary.json, trajectories.jsonl and failures.jsonl. Exits with code 1 when no turn of an adversary could be
    assessed, with code 3 when --fail-over is exceeded.

    Example: astprompter evaluate runs/mine data.test=prefixes.jsonl --fail-over 0.05
    """
    if fail_over is not None and not math.isfinite(fail_over):
        raise UserError("--fail-over takes a share from 0 to 1")
    settings = [word for word in targets if _is_setting(word)]
    names = [word for word in targets if word not in settings]
    if not names:
        raise UserError("name at least one run directory or model to evaluate")
    from ...workflows.evaluate import measure_targets

    join()
    warn()
    quiet_libraries()
    result, folder = measure_targets(
        names, given(settings, sets, skip_bad_rows=skip_bad_rows), preset=preset, out=out, baseline=baseline,
        progress=bars(),
    )  # fmt: skip
    if is_main():
        _show(result, folder, show_text=show_text, top=top)
    refuse_unassessed(result.summary)
    if fail_over is not None:
        _gate(result.summary, fail_over, baseline=UNTUNED if baseline and UNTUNED not in names else None)


def _is_setting(word: str) -> bool:
    """Whether a word is ``key=…`` or ``section.key=…``, whatever files there are; a path has ``./`` before it."""
    key, sign, _ = word.partition("=")
    if not sign or not re.fullmatch(r"\w+(\.\w+)*", key):
        return False
    if key not in (known := known_keys()):
        raise UserError(f"unknown setting '{key}'.{nearest(key, known)} A folder of that name: './{word}'")
    return True


def refuse_unassessed(summary: Summary) -> None:
    """Tell that an adversary has no figures at all.

    Raises:
        RunError: Every turn of an adversary was an error.
    """
    empty = [name for name, row in summary.adversaries.items() if not row.tox_reply.valid]
    if empty:
        raise RunError(
            f"no turn of {', '.join(map(repr, empty))} could be assessed, so its figures are null; trajectories.jsonl "
            "says why"
        )


def _gate(summary: Summary, most: float, *, baseline: str | None) -> None:
    """Exit with code 3 where a gate does not open, and say why; say too where it decides on too little."""
    exceeded, weak = gate_lines(summary, most, baseline=baseline)
    for line in (weak, exceeded) if is_main() else ():
        if line:
            ERR.print(escape(line), highlight=False, soft_wrap=True)
    if exceeded:
        raise typer.Exit(3)


def gate_lines(summary: Summary, most: float, *, baseline: str | None) -> tuple[str, str]:
    """What there is to say of a gate.

    Args:
        summary: Content of ``summary.json``.
        most: Highest share that passes.
        baseline: Adversary that is there for comparison only.

    Returns:
        The adversaries whose share of toxic replies is above ``most``; and those whose share is known too roughly to
        tell, from few prefixes or by an interval that reaches to both sides of ``most``. Each empty if there is none.
    """
    over, weak, threshold = [], [], 0.0
    for name, row in summary.adversaries.items():
        share, ends, threshold = row.tox_reply.share, row.tox_reply.share_ci, row.tox_reply.threshold or 0.0
        if name == baseline or share is None:
            continue
        interval = f" (interval {ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
        if share > most:
            over.append(f"{name} {share:.4f}{interval}")
        if row.prefixes < _FEW or (ends and ends[0] <= most < ends[1]):
            weak.append(f"{name} {share:.4f}{interval} from {row.prefixes} prefixes")
    more = "more prefixes make it firm"
    return (
        f"gate: share of replies above {threshold:g} is over --fail-over {most:g}: {'; '.join(over)}" if over else "",
        f"warning: --fail-over {most:g} may go either way by chance: {'; '.join(weak)}; {more}" if weak else "",
    )


def _show(result: Evaluation, folder: Path, *, show_text: bool, top: int) -> None:
    for grid in of_summary(result.summary):
        OUT.print(terminal(grid, OUT.width))
    for name in result.summary.config.kept_start or ():
        say(f"{name}: {KEPT_START}. Train longer, or with a higher training.learning_rate.")
    if (section := result.summary.scorers) is not None:
        for line in scorer_lines(section):
            say(line)
    if top and result.failed:
        openings = {path.prefix.id: path.prefix.text for paths in result.trajectories.values() for path in paths}
        OUT.print(failure_blocks(result.failed[:top], openings, show_text=show_text))
    say(f"\nResults: {folder} (summary.json, trajectories.jsonl, failures.jsonl)")
    say(f"Page:    astprompter report {folder}")
