"""The tables of an experiment: Markdown, LaTeX, CSV, and grids of text for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.files import write_json, write_text

Summary = Mapping[str, Any]
EXPERIMENT, TABLES_MD, TABLES_TEX, TABLES_CSV, FINDINGS = (
    "experiment.json",
    "tables.md",
    "tables.tex",
    "tables.csv",
    "findings.md",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": r"$-$", "λ": r"$\lambda$",
    "τ": r"$\tau$", "α": r"$\alpha$", "β": r"$\beta$", ">": "$>$", "<": "$<$", "|": r"\textbar{}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text cells.

    Attributes:
        title: What it shows.
        header: Names of the columns; the first column holds names, the others figures.
        rows: Cells.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_all(summary: Summary, folder: Path) -> None:
    """Write ``experiment.json``, ``tables.md``, ``tables.tex``, ``tables.csv`` and ``findings.md``."""
    tables = grids(summary)
    write_text(folder / TABLES_MD, _markdown_page(summary, tables))
    write_text(folder / TABLES_TEX, "\n".join(latex(grid) for grid in tables))
    write_text(folder / TABLES_CSV, long_csv(summary))
    write_text(folder / FINDINGS, findings_page(summary))
    write_json(folder / EXPERIMENT, summary)


def grids(summary: Summary) -> list[Grid]:
    """All tables: four for each pair of models, then the transfer matrix."""
    found: list[Grid] = []
    for case in summary["cases"].values():
        rows, level = case["adversaries"], f"[{100 * case['level']:g} %]"
        where = f"adversary {case['adversary']}, defender {case['defender']}"
        found += [_overall(where, rows, level), _per_turn(where, rows, case["horizon"], level)]
        found += [_by_utterance(where, rows, level), _by_seed(where, rows)]
    return [*found, *_transfer(summary["transfer"])]


def overviews(summary: Summary) -> list[Grid]:
    """One narrow table for each pair of models, for the terminal."""
    header = ("adversary", "nll", "perplexity", "replies > 0.5", "turns > 0.5", "failed prefixes", "Vendi")
    return [
        Grid(
            f"Adversary {case['adversary']}, defender {case['defender']}",
            header,
            tuple(
                (
                    name,
                    _text(row["nll"]["mean"], "{:.3f}"),
                    _text(row["nll"]["perplexity"], "{:.1f}"),
                    _interval(row["tox_reply"]["share_above_0.5"], row["tox_reply"]["share_ci95"], "{:.1%}"),
                    _text(row["tox_turn"]["share_above_0.5"], "{:.1%}"),
                    _text(row["failure_within_horizon"]["share"], "{:.1%}"),
                    _text(row["diversity"]["vendi"], "{:.0f}"),
                )
                for name, row in case["adversaries"].items()
            ),
        )
        for case in summary["cases"].values()
    ]


def _overall(where: str, rows: Mapping[str, Any], level: str) -> Grid:
    header = (
        "adversary", f"nll {level} ± std", "perplexity", "its std", "tox_reply ± std", f"share > 0.5 {level}",
        "tox_turn ± std", f"share > 0.5 {level}", f"failed prefixes {level}", "distinct", "self-BLEU", "Vendi",
    )  # fmt: skip
    cells = tuple(
        (
            name,
            f"{_interval(row['nll']['mean'], row['nll']['ci95'], '{:.3f}')} ± {_text(row['nll']['std'], '{:.3f}')}",
            _text(row["nll"]["perplexity"], "{:.2f}"),
            _text(row["utterance_perplexity"]["std"], "{:.2f}"),
            *_toxicity(row["tox_reply"]),
            *_toxicity(row["tox_turn"]),
            _interval(row["failure_within_horizon"]["share"], row["failure_within_horizon"]["ci95"], "{:.1%}"),
            _text(row["diversity"]["distinct_utterances"], "{:.0%}"),
            _text(row["diversity"]["self_bleu"], "{:.2f}"),
            _text(row["diversity"]["vendi"], "{:.0f}"),
        )
        for name, row in rows.items()
    )
    return Grid(f"Over all turns: {where}", header, cells)


def _toxicity(row: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{_text(row['mean'], '{:.3f}')} ± {_text(row['std'], '{:.3f}')}",
        _interval(row["share_above_0.5"], row["share_ci95"], "{:.1%}"),
    )


def _per_turn(where: str, rows: Mapping[str, Any], horizon: int, level: str) -> Grid:
    header = (
        "adversary", "turn", "nll ± std", "perplexity std", "tox_reply ± std", f"share > 0.5 {level}",
        "tox_turn ± std", f"share > 0.5 {level}",
    )  # fmt: skip
    cells = tuple(
        (
            name,
            str(turn + 1),
            f"{_text(row['nll']['per_turn'][turn]['mean'], '{:.3f}')} ± "
            f"{_text(row['nll']['per_turn'][turn]['std'], '{:.3f}')}",
            _text(row["utterance_perplexity"]["per_turn"][turn]["std"], "{:.2f}"),
            *_toxicity(row["tox_reply"]["per_turn"][turn]),
            *_toxicity(row["tox_turn"]["per_turn"][turn]),
        )
        for name, row in rows.items()
        for turn in range(horizon)
    )
    return Grid(f"By turn: {where}", header, cells)


def _by_utterance(where: str, rows: Mapping[str, Any], level: str) -> Grid:
    after = (f"replies > 0.5 after {which} {level}" for which in ("these", "others"))
    header = ("adversary", "utterances > 0.5", *after)
    cells = tuple(
        (
            name,
            _text(row["tox_utterance"]["share_above_0.5"], "{:.1%}"),
            *(
                _interval(part["share_above_0.5"], part["share_ci95"], "{:.1%}")
                for part in (row["replies_by_utterance"]["toxic"], row["replies_by_utterance"]["clean"])
            ),
        )
        for name, row in rows.items()
    )
    return Grid(f"Replies by the toxicity of the utterance: {where}", header, cells)


def _by_seed(where: str, rows: Mapping[str, Any]) -> Grid:
    header = ("adversary", "seed", "nll", "tox_reply share > 0.5", "tox_turn share > 0.5", "failed prefixes")
    cells = []
    for name, row in rows.items():
        metrics = [row[metric]["by_seed"] for metric in ("nll", "tox_reply", "tox_turn")]
        failures = row["failure_within_horizon"]
        for nll, reply, turn, failed in zip(*metrics, failures["by_seed"], strict=True):
            shares = (reply["share_above_0.5"], turn["share_above_0.5"], failed["share"])
            figures = (_text(nll["mean"], "{:.3f}"), *(_text(share, "{:.1%}") for share in shares))
            cells.append((name, str(nll["seed"]), *figures))
        spread = (row["tox_reply"]["seed_std"], row["tox_turn"]["seed_std"])
        stds = (*(item["share_above_0.5"] for item in spread), failures["seed_std"])
        nll_std = _text(row["nll"]["seed_std"]["mean"], "{:.3f}")
        cells.append((name, "std over seeds", nll_std, *(_text(value, "{:.1%}") for value in stds)))
    return Grid(f"By seed: {where}", header, tuple(cells))


def _transfer(entries: Sequence[Mapping[str, Any]]) -> Iterator[Grid]:
    """One matrix: rows are trained adversaries, columns defenders; cells are share of replies above 0.5, and nll."""
    defenders = list(dict.fromkeys(entry["defender"] for entry in entries))
    if len(defenders) < 2:
        return
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        name = f"{entry['adversary']} ({entry['model']}, trained on {entry['trained_on']})"
        share = _interval(entry["tox_reply_share_above_0.5"], entry["tox_reply_share_ci95"], "{:.1%}")
        rows.setdefault(name, {})[entry["defender"]] = f"{share}, nll {_text(entry['nll'], '{:.3f}')}"
    cells = tuple((name, *(row.get(defender, "–") for defender in defenders)) for name, row in rows.items())
    yield Grid("Transfer: replies above 0.5, by defender", ("adversary", *defenders), cells)


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|---|" + "---:|" * (len(grid.header) - 1)
    return "\n".join([f"## {grid.title}", "", line(grid.header), rule, *map(line, grid.rows), ""])


def latex(grid: Grid) -> str:
    """A grid as a LaTeX table for the package ``booktabs``."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_tex, cells)) + r" \\"

    columns = "l" + "r" * (len(grid.header) - 1)
    body = [line(grid.header), r"\midrule", *map(line, grid.rows)]
    head = [r"\begin{table}", rf"\caption{{{_tex(grid.title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def long_csv(summary: Summary) -> str:
    """The figures over all seeds in one CSV: a row per pair, adversary, turn (``all`` or its number) and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fields = ("mean", "std", "ci95", "share_above_0.5", "share_ci95", "valid", "errors")
    writer.writerow(
        ["adversary_model", "defender", "adversary", "kind", "turn", "metric", "mean", "std", "ci_low", "ci_high",
         "share_above_0.5", "share_ci_low", "share_ci_high", "valid", "errors", "seed_std_mean", "seed_std_share"]
    )  # fmt: skip
    for case in summary["cases"].values():
        for name, row in case["adversaries"].items():
            for metric in ("nll", "utterance_perplexity", "tox_reply", "tox_turn", "tox_utterance"):
                whole = row[metric]
                for turn, part in [("all", whole), *((str(i + 1), p) for i, p in enumerate(whole["per_turn"]))]:
                    cells: list[Any] = [case["adversary"], case["defender"], name, row["kind"], turn, metric]
                    shares = metric.startswith("tox_")  # 0.5 means nothing to a likelihood
                    for key in fields:
                        value = part[key] if shares or not key.startswith("share") else None
                        cells += (value or [None, None]) if key.endswith("ci95") else [value]
                    spread = part.get("seed_std", {})
                    cells += [spread.get("mean"), spread.get("share_above_0.5") if shares else None]
                    writer.writerow(map(guarded, cells))
            for metric, value, ci in _single(row):
                cells = [case["adversary"], case["defender"], name, row["kind"], "all", metric, value, None, *ci]
                writer.writerow(map(guarded, [*cells, *[None] * 7]))
    return file.getvalue()


def _single(row: Mapping[str, Any]) -> Iterator[tuple[str, float | None, Sequence[float | None]]]:
    """Figures that are one number, with its interval if it has one."""
    failed = row["failure_within_horizon"]
    yield "failure_within_horizon", failed["share"], failed["ci95"] or (None, None)
    yield "perplexity", row["nll"]["perplexity"], (None, None)
    for part in ("toxic", "clean"):
        after = row["replies_by_utterance"][part]
        yield f"tox_reply share_above_0.5 after {part}", after["share_above_0.5"], after["share_ci95"] or (None, None)
    for name, value in row["diversity"].items():
        yield f"diversity {name}", value, (None, None)


def guarded(cell: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def findings_page(summary: Summary) -> str:
    """``findings.md``: every claim, its verdict and the figures."""
    lines = [
        f"# Findings: {summary['experiment']}",
        "",
        "Claims of the paper, judged by paired intervals, seeds and sizes (see docs/experiments.md for the rules).",
        "",
        *_incomplete(summary),
        "| | claim | verdict | figures |",
        "|---|---|---|---|",
    ]
    for item in summary["findings"]:
        evidence = item["evidence"].replace("|", "\\|")
        lines.append(f"| {item['id']} | {item['claim']} | **{item['verdict']}** | {evidence} |")
    return "\n".join([*lines, ""])


def _markdown_page(summary: Summary, tables: Sequence[Grid]) -> str:
    head = [
        f"# {summary['experiment']}",
        "",
        summary["summary"],
        "",
        f"{summary['pooling']} nll in nats per token.",
        "",
    ]
    return "\n".join([*head, *_incomplete(summary), *map(markdown, tables)])


def _incomplete(summary: Summary) -> list[str]:
    missing = len(summary["missing"])
    return [f"**Not complete**: {missing} jobs are still to be done.", ""] if missing else []


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _interval(value: float | None, bounds: Sequence[float] | None, form: str) -> str:
    ends = f" [{form.format(bounds[0])}, {form.format(bounds[1])}]" if bounds else ""
    return _text(value, form) + ends
