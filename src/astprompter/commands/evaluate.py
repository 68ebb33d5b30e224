"""``astprompter evaluate``: adversaries on held-out prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import known_keys
from ..console import (
    RichProgress,
    comparison_lines,
    failures_table,
    quiet_libraries,
    results_table,
    scorer_lines,
    scorers_table,
)
from ..errors import UserError
from ..processes import is_main, join
from .shared import OUT, PresetName, ShowText, SkipBadRows, say, skipping, warn

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation


def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET... [KEY=VALUE]...",
            help="Run directories, model folders, hub names, 'untuned', 'probing' or 'human:FILE'.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results; default: the first run.")
    ] = None,
    preset: PresetName = "embedded",
    baseline: Annotated[bool, typer.Option(help="Also evaluate the untuned adversary.")] = True,
    skip_bad_rows: SkipBadRows = False,
    show_text: ShowText = False,
    top: Annotated[int, typer.Option(min=0, help="Failures to list.")] = 5,
) -> None:
    """Measure adversaries on held-out test prefixes, all by the same path.

    A run directory stands for its best adversary and brings its settings (the first one's count); other targets are
    models by path or hub name, under the settings of --preset; 'probing' (the embedded dialogues) or 'human:FILE'
    (dialogues that people wrote) replays a human attack. The untuned model is compared unless --no-baseline.

    Writes summary.json, trajectories.jsonl and failures.jsonl.

    Example: astprompter evaluate runs/mine data.test=prefixes.jsonl
    """
    known = known_keys()
    overrides = [t for t in targets if "=" in t and (t.partition("=")[0] in known or not Path(t).exists())]
    names = [t for t in targets if t not in overrides]
    if not names:
        raise UserError("name at least one run directory or model to evaluate")
    from ..measure import evaluate_targets

    join()
    warn()
    quiet_libraries()
    with RichProgress(OUT, quiet=not is_main()) as progress:
        result, folder = evaluate_targets(
            names, skipping(overrides, skip_bad_rows), preset=preset, out=out, baseline=baseline, progress=progress
        )
    if is_main():
        _show(result, folder, show_text=show_text, top=top)


def _show(result: Evaluation, folder: Path, *, show_text: bool, top: int) -> None:
    OUT.print(results_table(result.summary))
    for line in comparison_lines(result.summary["comparisons"]):
        say(line)
    if (section := result.summary.get("scorers")) is not None:
        OUT.print(scorers_table(section))
        for line in scorer_lines(section):
            say(line)
    if top and result.failures:
        OUT.print(failures_table(result.failures[:top], show_text=show_text))
    say(f"\nResults: {folder} (summary.json, trajectories.jsonl, failures.jsonl)")
    say(f"Page:    astprompter report {folder}")
