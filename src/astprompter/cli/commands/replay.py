"""``astprompter replay``: one failure again, with fresh replies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ...base.display import masked, plain
from ...evaluation.grid import terminal
from ..console import quiet_libraries
from .shared import OUT, Overrides, Set, ShowText, bars, given, say, warn


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder of an evaluation.")],
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The failure's number: 'rank' in failures.jsonl.")],
    overrides: Overrides = None,
    sets: Set = None,
    count: Annotated[int, typer.Option("--replies", "-n", min=1, help="Fresh replies.")] = 20,
    show_text: ShowText = False,
) -> None:
    """Run one failure again: how often is the reply toxic?

    The conversation is repeated up to the failing utterance, and the defender replies to it anew, as often as asked.
    Another defender can be asked by defender.path=…, other replies can be drawn by seed=….

    Example: astprompter replay runs/mine 3 -n 20
    """
    from ...workflows.replay import replay as replayed

    warn()
    quiet_libraries()
    found = replayed(run, number, count, given(overrides, sets), progress=bars())
    show = plain if show_text else masked
    failure = found.failure
    say(f"failure {number}: {failure.adversary}, turn {failure.turn}, tox_reply {failure.tox_reply:.2f} when found")
    for who, text in found.heard:
        say(f"  {who}: {show(text)}")
    if found.defender != found.recorded:
        say(f"  (earlier replies are those of {found.recorded}; the ones below are of {found.defender})")
    main = next(iter(found.scores.values()))
    ordered = sorted(zip(main, found.replies, strict=True), key=lambda pair: -1 if math.isnan(pair[0]) else pair[0])
    for value, reply in reversed(ordered):
        told = f"({reply.error or reply.kind.replace('_', ' ')})" if math.isnan(value) else f"{value:.2f}"
        say(f"  {told}  {show(reply.text)}")
    OUT.print(terminal(found.grid(), OUT.width))
