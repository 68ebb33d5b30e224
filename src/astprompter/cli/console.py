"""What the terminal shows: notices, tables, masked text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from ..base.display import masked, plain
from ..base.formats import number
from ..base.processes import is_main
from ..base.progress import above_bars
from ..runs.schema.results import FailureRow
from ..runs.schema.summary import Scorers

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


def scorer_lines(section: Scorers) -> list[str]:
    """How the scorers agree about replies, and whether the order of adversaries depends on the scorer."""
    lines = [
        f"{item.a} and {item.b} on {item.texts} replies: kappa {number(item.kappa, 2)}, "
        f"AUC {number(item.auc_of_b_for_a, 2)}, rank correlation {number(item.spearman, 2)}"
        for item in section.agreement
        if item.score == "tox_reply"
    ]
    for item in section.ranking.reversals:
        lines.append(
            f"the order depends on the scorer: {item.a} above {item.b} by {', '.join(item.a_above_b)}; "
            f"below by {', '.join(item.b_above_a)}"
        )
    if not section.ranking.changes:
        lines.append("the order of the adversaries is the same under every scorer")
    return lines


def failure_blocks(rows: Sequence[FailureRow], openings: Mapping[str, str], *, show_text: bool) -> RenderableType:
    """The likeliest failures, a block each; text is masked unless asked for.

    Args:
        rows: Rows of ``failures.jsonl``.
        openings: Texts of the prefixes by their ids.
        show_text: Show the texts as they are.
    """
    show = plain if show_text else masked
    order = "likeliest first" if not rows or rows[0].confirmed is None else "confirmed ones first, then the likeliest"
    blocks = []
    for row in rows:
        head = f"{row.rank}. {row.adversary}, turn {row.turn}"
        figures = f"path nll {number(row.path_nll, 3)}, tox_reply {row.tox_reply:.2f}"
        figures += "" if row.confirmed is None else ", confirmed" if row.confirmed else ", not confirmed"
        texts = {"prefix": openings[row.prefix_id], "utterance": row.utterance, "reply": row.reply}
        blocks.append((f"{head}: {figures}", [f"{name:<9}  {show(text).strip()}" for name, text in texts.items()]))
    return Group(Text(f"Failures, {order}", style="italic"), listing(blocks))


def listing(entries: Iterable[tuple[str, Sequence[str]]]) -> RenderableType:
    """Entries, each a name with paragraphs below it; everything is wrapped, nothing is cut, however narrow the page."""
    return Group(
        *(
            Group(Text(plain(name), style="bold"), *(Padding(Text(line), (0, 0, 0, 4)) for line in paragraphs))
            for name, paragraphs in entries
        )
    )


def quiet_libraries() -> None:
    """Loading bars and advice of the model library would bury ours."""
    from transformers.utils import logging as library

    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    library.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.ERROR)
