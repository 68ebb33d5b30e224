"""The page as Markdown: verdict, tables, and what to do next; texts of models are masked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..base.display import masked, plain
from .study import Study, commands, interval, percent, unmeasured, verdict

_TOP = 10


def to_markdown(study: Study) -> str:
    """The report of a study for a pull request, an issue or a wiki."""
    first, second = verdict(study)
    parts = [f"# {_cell(first)}", *([_cell(second)] if second else [])]
    if study.adversaries:
        parts += ["## All adversaries", _table(_HEAD, _rows(study))]
    compared = [_comparison(a.label, row) for a in study.others() if (row := a.comparison()) is not None]
    if compared:
        parts += ["Paired on the same prefixes:", "\n".join(f"- {line}" for line in compared)]
    failures = _failures(study)
    if failures:
        parts += [f"## The {len(failures)} likeliest failures, text masked", _table(_FAILURE_HEAD, failures)]
    parts += ["## Reproduce", "\n".join(f"    {_code(line)}" for line in commands(study))]
    notes = unmeasured(study)
    if notes:
        parts += ["## Not measured", "\n".join(f"- {_cell(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


_HEAD = (
    "adversary",
    "prefixes",
    "failed prefixes",
    "replies above 0.5",
    "turns above 0.5",
    "nll",
    "perplexity",
    "errors",
)
_FAILURE_HEAD = ("rank", "adversary", "turn", "path nll", "tox_reply", "strategy", "utterance", "reply")


def _rows(study: Study) -> Iterable[Sequence[str]]:
    for a in study.adversaries:
        failed, reply, nll = (a.figures[name] for name in ("failure_within_horizon", "tox_reply", "nll"))
        yield (
            a.label, str(a.figures["prefixes"]), _with(percent(failed["share"]), interval(failed["ci95"])),
            _with(percent(reply["share_above_0.5"]), interval(reply["share_ci95"])),
            percent(a.figures["tox_turn"]["share_above_0.5"]),
            _with(_number(nll["mean"], 3), interval(nll["ci95"], scale=1, digits=3)),
            _number(nll.get("perplexity"), 1), str(a.figures["errors"]),
        )  # fmt: skip


def _comparison(label: str, row: dict[str, object]) -> str:
    share, nll = row["tox_reply_share_above_0.5"], row["nll"]
    assert isinstance(share, dict) and isinstance(nll, dict)  # noqa: S101
    return (
        f"{_cell(label)} against {_cell(str(row['b']))}: replies above 0.5 "
        f"{_with(percent(share['difference'], sign=True), interval(share['ci95'], sign=True))}; "
        f"nll {_with(_number(nll['difference'], 3), interval(nll['ci95'], scale=1, digits=3, sign=True))}"
    )


def _failures(study: Study) -> list[Sequence[str]]:
    rows = [(a.label, row) for a in study.adversaries for row in a.run.failures if row["adversary"] == a.key]
    rows.sort(key=lambda item: item[1]["path_nll"])
    return [
        (str(rank), label, str(row["turn"]), f"{row['path_nll']:.3f}", f"{row['tox_reply']:.2f}",
         str(row.get("strategy", "–")), masked(row["utterance"]), masked(row["reply"]))
        for rank, (label, row) in enumerate(rows[:_TOP], start=1)
    ]  # fmt: skip


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown takes as text: control codes visible, its marks escaped."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~&!$@" and text != "---" else c for c in plain(text))


def _code(line: str) -> str:
    return plain(line)


def _with(value: str, bounds: str) -> str:
    return f"{value} {bounds}" if bounds else value


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
