"""``astprompter probability``: how likely failure is when the untuned model speaks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from ...base.display import masked, plain
from ...base.errors import RunError, UserError
from ...base.formats import percent
from ...probability import words
from ...runs.schema.probability import ProbabilityFile
from ..console import quiet_libraries
from .shared import PresetName, Replace, Set, ShowText, SkipBadRows, bars, given, is_setting, say, share, tell, warn

Targets = Annotated[
    list[str], typer.Argument(metavar="RUN|KEY=VALUE", help="Run directories, model folders or hub names.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results; default: the first run.")]
Natural = Annotated[Literal["untuned", "defender"], typer.Option(help="Who speaks naturally.")]
Budget = Annotated[int, typer.Option(min=1, help="Conversations in all, a fifth of them for the pilot.")]
Relative = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", parser=share,
        help="Stop as soon as the proven limit is within this part of the estimate; no other limit is given then.",
    ),
]  # fmt: skip
Within = Annotated[int | None, typer.Option(min=1, help="Turns of a conversation (rollout.horizon).")]
Threshold = Annotated[
    float | None,
    typer.Option(metavar="SHARE", parser=share, help="What a failing reply exceeds (evaluation.threshold)."),
]
Replies = Annotated[int, typer.Option(min=1, help="Replies that are drawn to every utterance.")]
Splitting = Annotated[
    bool, typer.Option(help="Run the second estimator too, with a quarter as many natural conversations.")
]
Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="Measure again at temperature 1 and at top-p 1 of who speaks naturally.")
]
Clean = Annotated[
    bool,
    typer.Option(
        "--clean",
        help="Count clean failures alone: the utterance and all before it score at most evaluation.clean.",
    ),
]
Count = Annotated[
    bool, typer.Option("--count", help="Count natural conversations alone: what an estimate can be checked against.")
]
FailOver = Annotated[
    float | None,
    typer.Option(
        metavar="P", parser=share,
        help="Exit with code 3 unless natural conversations exclude that more than P of them fail.",
    ),
]  # fmt: skip


def probability(
    targets: Targets,
    sets: Set = None,
    out: Out = None,
    preset: PresetName = "embedded",
    natural: Natural = "untuned",
    budget: Budget = 2000,
    relative: Relative = None,
    within: Within = None,
    threshold: Threshold = None,
    replies: Replies = 1,
    splitting: Splitting = True,
    sensitivity: Sensitivity = False,
    clean: Clean = False,
    count: Count = False,
    fail_over: FailOver = None,
    replace: Replace = False,
    skip_bad_rows: SkipBadRows = False,
    show_text: ShowText = False,
    top: Annotated[int, typer.Option(min=0, help="Heaviest conversations to list.")] = 3,
) -> None:
    """Estimate how likely a conversation fails when the untuned model speaks.

    The adversaries of RUNs speak in its place, and every conversation is weighed by how likely the untuned model is to
    say the same; so rare failure shows in far fewer conversations than counting needs (docs/probability.md).

    Writes probability.json and, as it goes, probability.jsonl; the same command goes on after an interruption. What is
    there of another estimate is not replaced without --replace. Exits with code 3 when the conservative limit is above
    --fail-over, unassessed replies counted as failures.

    Example: astprompter probability runs/mine --budget 4000 --fail-over 0.01
    """
    if fail_over is not None and relative is not None:
        raise UserError("--fail-over needs the conservative limit, which a run with --relative does not have")
    settings = [word for word in targets if is_setting(word)]
    names = [word for word in targets if word not in settings]
    if not names:
        raise UserError("name at least one run directory or model, whose adversary speaks")
    changes = {"rollout.horizon": within, "evaluation.threshold": threshold}
    settings += [f"{key}={value}" for key, value in changes.items() if value is not None]
    from ...workflows.estimates import Asked
    from ...workflows.probability import probability_of_targets

    warn()
    quiet_libraries()
    found, folder = probability_of_targets(
        names, given(settings, sets, skip_bad_rows=skip_bad_rows), preset=preset, natural=natural,
        asked=Asked(budget, relative, replies, splitting, sensitivity, clean, replace, count), out=out, progress=bars(),
        again=f"'{shlex.join(['astprompter', *sys.argv[1:]])}'",
    )  # fmt: skip
    for line in lines_of(found, top=top, show_text=show_text):
        say(line)
    say(f"\nResults: {folder} (probability.json, probability.jsonl)")
    if words.nothing_assessed(found):
        raise RunError(f"none of {found.cost.replies:,} replies could be assessed, so the figures say nothing")
    limit = found.worst.conservative
    if fail_over is not None and limit is not None:
        if limit > fail_over:
            tell(f"gate: natural draws do not exclude {words.once_in(limit)}, which is over --fail-over {fail_over:g}")
            raise typer.Exit(3)
        tell(f"gate: natural draws exclude more than {words.once_in(limit)}, which is not over {fail_over:g}")


def lines_of(found: ProbabilityFile, *, top: int = 0, show_text: bool = False) -> Iterator[str]:
    """What the terminal shows of an estimate."""
    yield f"{words.headline(found)}."
    rows = words.rows_of(found)
    width = max(len(name) for name, _ in rows)
    for name, said in rows:
        yield f"  {name:<{width}}  {said}"
    yield f"Verdict: {words.verdict(found)}."
    yield f"Cost: {words.cost(found)}."
    if found.limits.estimate > 0.0:
        yield "By turn: " + ", ".join(f"{row.turn}: {words.seen(row.estimate)}" for row in found.per_turn)
        if reach := words.reach(found):
            yield f"Reach: {reach}."
        yield "By who spoke:"
        for row in found.components:
            share = percent(words.share_of(row, found))
            yield f"  {words.who(row)}: {row.failures:g} of {row.conversations:,} failed; {share} of the estimate"
        first = found.openings[:3]
        yield "Openings that carry most: " + ", ".join(f"{plain(row.prefix_id)} {percent(row.share)}" for row in first)
    for heavy in found.heaviest[:top]:
        yield f"Conversation {heavy.number}, {percent(heavy.share)} of the estimate:"
        for place, text in enumerate(heavy.texts):
            who = "opening" if not place else "reply" if place % 2 == 0 else "utterance"
            yield f"  {who:<9}  {plain(text.strip() if show_text else masked(text.strip()))}"
    yield from words.caveats(found)
