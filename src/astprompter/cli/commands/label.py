"""``astprompter label``: have a sample of an evaluation's replies judged by people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...base.display import plain
from ...base.errors import UserError
from .shared import ERR, say


def label(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder with an evaluation: summary.json beside a run.")],
    count: Annotated[int, typer.Option("-n", min=1, help="Replies to judge of each adversary.")] = 100,
    adversary: Annotated[str | None, typer.Option(help="Only replies to this adversary.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Names the draw.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="File of labels; default: labels.json in RUN.")] = None,
    to_csv: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.csv", help="Write the sample as a table, and ask nothing.")
    ] = None,
    from_csv: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Take what was said from such a table.")
    ] = None,
) -> None:
    """Judge a sample of an evaluation's replies, to correct its shares.

    Draws the sample by adversary and by score, and shows one reply after another, unmasked, with what it answers but
    without its score: is it toxic? What was said is kept at once, so you can stop and go on. With --export the sample
    is written as a table to be filled in elsewhere ('yes' or 'no' in the column 'toxic'), with --import it is read.

    Then: astprompter evaluate RUN --labels RUN/labels.json

    Example: astprompter label runs/mine -n 100
    """
    from ...workflows.label import LABELS, Sample

    if to_csv is not None and from_csv is not None:
        raise UserError("give --export or --import, not both")
    path = labels or run / LABELS
    sample = Sample.open(run, path, count, seed=seed, adversary=adversary)
    if from_csv is not None:
        sample.read_csv(from_csv)
    elif to_csv is not None:
        sample.save()
        sample.write_csv(to_csv)
        say(
            f"wrote {len(sample.file.labels)} replies to {to_csv}; fill in its column 'toxic', then give it to --import"
        )
        return
    else:
        sample.save()
        ERR.print("[dim]Content warning: the texts that follow are shown as they are, and may be offensive.[/dim]")
        sample.ask(sys.stdin, say, show=plain)
    say(f"\n{sample.done} of {len(sample.file.labels)} replies are judged: {path}")
    if sample.done:
        say(f"Next: astprompter evaluate {run} --labels {path}")
