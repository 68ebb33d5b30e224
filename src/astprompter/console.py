"""What the terminal shows: progress with rates and time left, tables, masked text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from .progress import Advance

WARNING = (
    "Content warning: this tool makes a language model write offensive text in order to measure and repair it. "
    "Text is masked unless you ask for it. Use it on models that you own or may test."
)


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        digits = 0 if task.speed >= 10 else 1
        return Text(f"{task.speed:.{digits}f} {task.fields['unit']}/s", style="progress.data.speed")


class RichProgress:
    """Progress bars on a terminal, plain lines elsewhere (protocol :class:`~astprompter.progress.Progress`)."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        """Show nothing when ``quiet``: one of several processes speaks for all."""
        self._console, self._quiet = console, quiet
        self._bars = Bars(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar while the context is open."""
        bar = self._bars.add_task(description, total=total, unit=unit)

        def advance(count: int) -> None:
            self._bars.advance(bar, count)

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self._console.print(escape(message), highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """Model text made safe for a terminal: control and direction codes become visible marks."""
    return "".join(
        "⏎" if c == "\n" else "·" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else c
        for c in text
    )


def masked(text: str) -> str:
    """The shape of a text without its content: letters and digits become blocks."""
    return re.sub(r"\w", "▒", plain(text))


def results_table(summary: Mapping[str, Any]) -> Table:
    """The table of all adversaries: nll, perplexity, toxicity and failures, with intervals."""
    table = Table(title="Held-out test prefixes", title_justify="left", caption_justify="left")
    caption = "share = above 0.5; [low, high] = bootstrap interval over prefixes; nll in nats per token"
    likelihood = summary["config"].get("likelihood", "")
    if likelihood.startswith("stand-in"):
        caption += f"; nll and perplexity are a {likelihood}"
    table.caption = escape(caption)  # or "[low, high]" would be taken for markup
    for name in (
        "adversary",
        "prefixes",
        "nll",
        "perplexity",
        "tox_reply",
        "share",
        "tox_turn share",
        "failed prefixes",
    ):
        table.add_column(name, justify="left" if name == "adversary" else "right")
    for name, row in summary["adversaries"].items():
        failures = row["failure_within_horizon"]
        table.add_row(
            escape(name),
            str(row["prefixes"]),
            _interval(row["nll"]["mean"], row["nll"]["ci95"], "{:.3f}"),
            _number(row["nll"].get("perplexity"), "{:.1f}"),
            _number(row["tox_reply"]["mean"], "{:.3f}"),
            _interval(row["tox_reply"]["share_above_0.5"], row["tox_reply"].get("share_ci95"), "{:.1%}"),
            _number(row["tox_turn"]["share_above_0.5"], "{:.1%}"),
            _interval(failures["share"], failures["ci95"], "{:.1%}"),
        )
    return table


def comparison_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per paired comparison."""
    lines = []
    for item in comparisons:
        share, nll = item["tox_reply_share_above_0.5"], item["nll"]
        times = f", {share['ratio']:.1f} times as often" if share["ratio"] is not None else ""
        change = f" ({item['nll_relative']:+.1%})" if item["nll_relative"] is not None else ""
        lines.append(
            f"{item['a']} against {item['b']}: replies above 0.5 "
            f"{_interval(share['difference'], share['ci95'], '{:+.1%}')}{times}; "
            f"nll {_interval(nll['difference'], nll['ci95'], '{:+.3f}')}{change}"
        )
    return lines


def failures_table(rows: Sequence[Mapping[str, Any]], *, show_text: bool) -> Table:
    """The likeliest failures; text is masked unless asked for."""
    table = Table(title="Failures, likeliest first", title_justify="left")
    for name in ("rank", "adversary", "turn", "nll", "tox_reply", "utterance", "reply"):
        table.add_column(name, justify="right" if name in {"rank", "turn", "nll", "tox_reply"} else "left")
    show = plain if show_text else masked
    for row in rows:
        table.add_row(
            str(row["rank"]), escape(row["adversary"]), str(row["turn"]), f"{row['path_nll']:.3f}",
            f"{row['tox_reply']:.2f}", escape(show(row["utterance"])), escape(show(row["reply"])),
        )  # fmt: skip
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _interval(value: float | None, bounds: Sequence[float] | None, form: str) -> str:
    if value is None:
        return "–"
    if not bounds:
        return form.format(value)
    return f"{form.format(value)} [{form.format(bounds[0])}, {form.format(bounds[1])}]"
