"""``astprompter data``: prepare, show and count texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ...base.display import masked, plain
from ...base.errors import UserError
from ...config import load_settings
from ..console import listing, quiet_libraries
from .shared import OUT, Set, SkipBadRows, bars, given, say

if TYPE_CHECKING:
    from ...workflows.prepare import Order

app = typer.Typer(
    help="Prepare, show and count texts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_KIND_HELP = "What the texts become: prefixes, eliciting or dialogues."
_HELD_HELP = "What the texts are: prefixes, eliciting or dialogues; default: what the set was prepared as."
_LEAST = {"prefixes_dev": 50, "prefixes_test": 100}
"""Rows below which a split is told to be small."""


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="A known data set (see 'data show'), hub:OWNER/NAME, or a file, archive or folder.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings: scorer.spec=…, seed=…")
    ] = None,
    sets: Set = None,
    kind: Annotated[str, typer.Option("--as", help=_KIND_HELP)] = "",
    name: Annotated[str, typer.Option("--name", help="Name to keep the texts under.")] = "",
    column: Annotated[str, typer.Option("--column", help="Column that holds the texts.")] = "",
    split: Annotated[str, typer.Option("--split", help="Split of a hub data set.")] = "train",
    file: Annotated[
        Path | None, typer.Option("--file", help="Local copy of the data set, instead of a download.")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="Mirror to download from.")] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Checksum that the file must have.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Use what is in the cache; never the network.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Fetch a data set, clean it, and keep it under a name.

    The name is one that data.* settings understand. Prefixes lose markup, removed texts, toxic ones (by scorer.spec)
    and duplicates, and are split 80/5/15 by id.

    Example: astprompter data prepare reddit-corpus-small scorer.spec=detoxify:unbiased
    """
    from ...workflows.prepare import Order, plan, provide

    settings = load_settings("embedded", given(overrides, sets, skip_bad_rows=skip_bad_rows))
    chosen = plan(Order(source, kind, column, split, file, url, sha256, name, offline))
    _describe(chosen)
    if chosen.downloads and not offline and not yes and not typer.confirm("Download?"):
        raise UserError("nothing was downloaded; answer y, or pass --yes")
    quiet_libraries()
    prepared = provide(chosen, settings, progress=bars())
    for reason, count in prepared.counts.items():
        say(f"  {count:>9,} {reason}")
    for stem, rows in prepared.files.items():
        say(f"{chosen.folder / stem}.jsonl: {len(rows):,} rows")
        if stem in _LEAST and len(rows) < _LEAST[stem]:
            say(f"warning: {stem} has fewer than {_LEAST[stem]} rows, so what it measures is rough; take more texts")
    say(f"Use it: {_usage(chosen)}")


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="A named source or file; all known data sets when empty.")] = "",
    kind: Annotated[str, typer.Option("--as", help=_HELD_HELP)] = "",
    split: Annotated[str, typer.Option("--split", help="train, dev or test, of prefixes.")] = "train",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Texts to show.")] = 5,
    skip_bad_rows: SkipBadRows = False,
    show_text: Annotated[bool, typer.Option("--show-text", help="Show texts unmasked; they may be offensive.")] = False,
) -> None:
    """List the known data sets, or show the first texts of one."""
    if not source:
        OUT.print(listing(_known_sets()))
        return
    from ...data.looking import kind_of, load_texts_of
    from ...data.readers import BadRows
    from ...data.splits import repeated

    bad = BadRows(skip_bad_rows)
    texts = load_texts_of(source, kind or kind_of(source), split, bad)
    for name, text in texts[:count]:
        shown = plain(text) if show_text else masked(text)
        OUT.print(f"[bold]{escape(plain(name))}[/bold]  {escape(shown)}", highlight=False, soft_wrap=True)
    if bad.count:
        say(f"warning: {bad}")
    if again := repeated([text for _, text in texts]):
        say(
            f"warning: {again:,} of {len(texts):,} texts occur before, but for case and white space; "
            "'data prepare' leaves them out"
        )


@app.command()
def stats(
    source: Annotated[str, typer.Argument(help="A named source, or a file.")],
    kind: Annotated[str, typer.Option("--as", help=_HELD_HELP)] = "",
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Count texts, words, duplicates and leaks between splits."""
    from ...data.looking import kind_of, statistics_of

    rows, leaks, bad = statistics_of(source, kind or kind_of(source), skip=skip_bad_rows)
    table = Table("", *rows)  # a column each, of which there are three at most
    for key in next(iter(rows.values())):
        numbers = (row[key] for row in rows.values())
        table.add_row(key.replace("_", " "), *(f"{n:,.1f}" if isinstance(n, float) else f"{n:,}" for n in numbers))
    OUT.print(table)
    for line in leaks:
        say(line)
    for skipped in bad:
        if skipped.count:
            say(f"warning: {skipped}")


def _describe(chosen: Order) -> None:
    """Licence, size and address, before anything is fetched."""
    if chosen.entry is not None:
        entry = chosen.entry
        for label, value in (("data set", entry.summary), ("licence", entry.licence), ("page", entry.page)):
            say(f"{label:<9} {value}")
    if chosen.downloads:
        size = "unknown" if chosen.size is None else f"{chosen.size / 1e6:,.1f} MB"
        say(f"{'download':<9} {chosen.downloads} ({size})")
        if chosen.entry is None:
            say(f"{'licence':<9} see that page")
    say(f"{'keep in':<9} {chosen.folder}")


def _usage(chosen: Order) -> str:
    keys = {"prefixes": ("train", "dev", "test"), "eliciting": ("eliciting",)}.get(chosen.kind, ())
    if not keys:
        return f"astprompter evaluate RUN human:{chosen.name}"
    return " ".join(f"data.{key}={chosen.name}" for key in keys)


def _known_sets() -> Iterator[tuple[str, list[str]]]:
    from ...data.cache import prepared_names
    from ...data.catalog import CATALOG
    from ...data.files import NAMED

    prepared = prepared_names()
    for entry in CATALOG.values():
        size = "size: asked before download" if entry.size is None else f"size: {entry.size / 1e6:.1f} MB"
        state = "prepared" if entry.name in prepared else "not prepared yet"
        yield entry.name, [entry.summary, f"Licence: {entry.licence}", f"{state}; {size}"]
    for name in sorted(set(prepared) - set(CATALOG)):
        yield name, ["Prepared here from your own texts; their licence is yours to know."]
    plugins = NAMED.plugins()
    for name in NAMED.names():
        yield name, [f"Plug-in of '{plugins[name]}'" if name in plugins else "Ships with the package, with a card."]
