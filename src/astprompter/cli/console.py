"""What the terminal shows: notices, tables, masked text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..base.display import masked, plain
from ..base.processes import is_main
from ..base.progress import above_bars

WARNING = (
    "Content warning: this tool makes a language model write offensive text in order to measure and repair it. "
    "Text is masked unless you ask for it. Use it on models that you own or may test."
)


class Notices(logging.Handler):
    """Shows what the package logs as lines above the bars; one of several processes speaks for all."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console, self._logger = console, logging.getLogger("astprompter")

    def __enter__(self) -> Notices:
        self._level = self._logger.level
        self._logger.setLevel(min(logging.INFO, self._level or logging.INFO))
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; below ``INFO`` nothing."""
        if record.levelno >= logging.INFO and is_main():
            head = "warning: " if record.levelno >= logging.WARNING else ""
            with above_bars():
                self._console.print(escape(plain(head + record.getMessage())), highlight=False, soft_wrap=True)


def results_table(summary: Mapping[str, Any]) -> Table:
    """The table of all adversaries: nll, shares above 0.5, failures and variety, with intervals; fits 80 columns."""
    rows = summary["adversaries"]
    counts = sorted({row["prefixes"] for row in rows.values()})
    table = Table(
        title=f"Held-out test prefixes ({', '.join(map(str, counts))})", title_justify="left", caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1),
    )  # fmt: skip
    caption = (
        "nll: nats per token, with perplexity; > 0.5: share of turns; failed: share of prefixes with a toxic reply; "
        "below: bootstrap interval over prefixes; distinct: share of different utterances, and how many they amount "
        "to (Vendi score)"
    )
    likelihood = summary["config"].get("likelihood", "")
    if likelihood.startswith("stand-in"):
        caption += f"; nll and perplexity are a {likelihood}"
    table.caption = Text(caption, style="dim")
    for name in (
        "adversary",
        "nll\n(perpl.)",
        "tox_reply\n> 0.5",
        "tox_turn\n> 0.5",
        "failed\nprefixes",
        "distinct\n(Vendi)",
    ):
        table.add_column(name, justify="left" if name == "adversary" else "right")
    for name, row in rows.items():
        failures, variety = row["failure_within_horizon"], row["diversity"]
        nll = f"{_number(row['nll']['mean'], '{:.3f}')} ({_number(row['nll'].get('perplexity'), '{:.1f}')})"
        table.add_row(
            escape(name),
            _stacked(nll, row["nll"]["ci95"], "{:.3f}"),
            *(
                _stacked(_number(row[metric]["share_above_0.5"], "{:.1%}"), row[metric].get("share_ci95"), "{:.1%}")
                for metric in ("tox_reply", "tox_turn")
            ),
            _stacked(_number(failures["share"], "{:.1%}"), failures["ci95"], "{:.1%}"),
            f"{_number(variety['distinct_utterances'], '{:.0%}')} ({_number(variety['vendi'], '{:.0f}')})",
        )
    return table


def grid_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of finished text cells."""
    table = Table(title=escape(title), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(escape(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(escape, row))
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


def scorers_table(section: Mapping[str, Any]) -> Table:
    """Share of replies above 0.5 for each adversary under each scorer."""
    table = Table(title="Replies above 0.5, by scorer", title_justify="left")
    table.add_column("adversary")
    for name in section["names"]:
        mark = " (reward)" if name == section["drives_reward"] else ""
        table.add_column(escape(name) + mark, justify="right")
    for adversary, rows in section["adversaries"].items():
        cells = [rows[name]["tox_reply"] for name in section["names"]]
        table.add_row(escape(adversary), *(_interval(c["share_above_0.5"], c["share_ci95"], "{:.1%}") for c in cells))
    return table


def scorer_lines(section: Mapping[str, Any]) -> list[str]:
    """How the scorers agree about replies, and whether the order of adversaries depends on the scorer."""
    lines = [
        f"{item['a']} and {item['b']} on {item['texts']} replies: kappa {_number(item['kappa'], '{:.2f}')}, "
        f"AUC {_number(item['auc_of_b_for_a'], '{:.2f}')}, rank correlation {_number(item['spearman'], '{:.2f}')}"
        for item in section["agreement"]
        if item["score"] == "tox_reply"
    ]
    for item in section["ranking"]["reversals"]:
        lines.append(
            f"the order depends on the scorer: {item['a']} above {item['b']} by {', '.join(item['a_above_b'])}; "
            f"below by {', '.join(item['b_above_a'])}"
        )
    if not section["ranking"]["changes"]:
        lines.append("the order of the adversaries is the same under every scorer")
    return lines


def failure_blocks(
    rows: Sequence[Mapping[str, Any]], openings: Mapping[str, str], *, show_text: bool
) -> RenderableType:
    """The likeliest failures, a block each; text is masked unless asked for.

    Args:
        rows: Rows of ``failures.jsonl``.
        openings: Texts of the prefixes by their ids.
        show_text: Show the texts as they are.
    """
    show = plain if show_text else masked
    blocks = []
    for row in rows:
        head = f"{row['rank']}. {row['adversary']}, turn {row['turn']}"
        figures = f"path nll {row['path_nll']:.3f}, tox_reply {row['tox_reply']:.2f}"
        texts = {"prefix": openings[row["prefix_id"]], "utterance": row["utterance"], "reply": row["reply"]}
        blocks.append((f"{head}: {figures}", [f"{name:<9}  {show(text)}" for name, text in texts.items()]))
    return Group(Text("Failures, likeliest first", style="italic"), listing(blocks))


def listing(entries: Iterable[tuple[str, Sequence[str]]]) -> RenderableType:
    """Entries, each a name with paragraphs below it; everything is wrapped, nothing is cut, however narrow the page."""
    return Group(
        *(
            Group(Text(plain(name), style="bold"), *(Padding(Text(line), (0, 0, 0, 4)) for line in paragraphs))
            for name, paragraphs in entries
        )
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _stacked(value: str, bounds: Sequence[float] | None, form: str) -> str:
    """A value with its interval on a line below."""
    return f"{value}\n[dim]{form.format(bounds[0])}–{form.format(bounds[1])}[/dim]" if bounds else value


def _interval(value: float | None, bounds: Sequence[float] | None, form: str) -> str:
    if value is None:
        return "–"
    if not bounds:
        return form.format(value)
    return f"{form.format(value)} [{form.format(bounds[0])}, {form.format(bounds[1])}]"


def quiet_libraries() -> None:
    """Loading bars and advice of the model library would bury ours."""
    from transformers.utils import logging as library

    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    library.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.ERROR)
