"""One summary, five renderings: terminal, Markdown, LaTeX, CSV and page show the same figures, and none is cut."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import pytest

from astprompter.base.formats import interval, number, percent
from astprompter.evaluation.grid import Cell, Column, Grid, as_text, comma_separated, guarded, latex, markdown
from astprompter.evaluation.tables import adversaries, comparisons, diversity, of_summary
from astprompter.report.page import write_report
from astprompter.runs.schema.figures import AdversaryFigures, Comparison
from astprompter.runs.schema.summary import Summary
from helpers.report_runs import adversary, comparison, write_run

LONG = "an-adversary-whose-name-is-longer-than-a-line-of-a-terminal-and-must-not-be-cut/ours@small"


def summary_of(run: Path) -> Summary:
    return Summary.read(run / "summary.json")


def figures(grid: Grid) -> list[str]:
    """Every value and every interval, as they are shown."""
    columns = [place for place, column in enumerate(grid.columns) if column.kind != "text"]
    return [part for row in grid.texts() for place in columns for part in row[place] if part]


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.slow
def test_all_renderings_of_a_summary_agree(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    page = html.unescape(re.sub(r"<[^>]*>", "", write_report([run]).read_text("utf-8")))
    report = write_report([run], form="md").read_text("utf-8").replace("\\", "")
    grids = of_summary(summary_of(run))
    assert len(grids) == 3
    for grid in grids:
        assert figures(grid)
        texts = {
            "80": as_text(grid, 80), "40": as_text(grid, 40), "markdown": markdown(grid).replace("\\", ""),
            "latex": latex(grid).replace("\\%", "%").replace("$-$", "-"), "page": page, "report": report,
        }  # fmt: skip
        for name, text in texts.items():
            for figure in figures(grid):
                assert figure in text, (name, figure)
        rows = list(csv.DictReader(io.StringIO(comma_separated(grid))))
        again = [
            tuple(
                Cell(
                    row[column.name] if column.kind == "text" else float(row[column.name]),
                    [float(row[f"{column.name}_{end}"]) for end in ("low", "high")]
                    if column.interval and row[f"{column.name}_low"]
                    else None,
                )
                for column in grid.columns
            )
            for row in rows
        ]  # fmt: skip
        assert Grid(grid.title, grid.columns, tuple(again)).texts() == grid.texts()  # CSV holds them unrounded


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 60, 80, 120, 400])
@pytest.mark.parametrize("name", ["ours", LONG, "名前がとても長い敵対者" * 4])
def test_no_width_cuts_a_name_or_a_figure(width: int, name: str) -> None:
    rows = [
        (name, AdversaryFigures.of(adversary(0.155, 2.08))),
        ("untuned", AdversaryFigures.of(adversary(0.02, 12.5))),
    ]
    compared = comparisons([Comparison.of(comparison(name, "untuned"))])
    for grid in (adversaries(rows, "t", full=True), compared, diversity(rows)):
        text = as_text(grid, width)
        assert "…" not in text
        assert "..." not in text
        for figure in figures(grid):
            assert figure in text
        assert max(map(len, text.split("\n"))) <= width
        letters = re.sub(r"\W", "", text)
        for letter in set(re.sub(r"\W", "", name)):
            assert letters.count(letter) >= name.count(letter)


def test_columns_that_do_not_fit_stand_below_beside_the_names() -> None:
    columns = (Column("name", "text"), Column("first", digits=1, interval=True), Column("second", "percent", 1))
    grid = Grid("Title", columns, ((Cell("a"), Cell(1.25, [1.0, 1.5]), Cell(0.5)), (Cell("b"), Cell(None), Cell(None))))
    wide = as_text(grid, 80).split("\n")
    assert wide[0] == "Title"
    assert words(wide[1]) == "name first second"
    assert [words(line).strip() for line in wide[3:6]] == ["a 1.2 50.0%", "[1.0, 1.5]", "b – –"]
    narrow = words(as_text(grid, 20))
    assert narrow.count("name") == 2
    assert narrow.index("first") < narrow.index("1.2") < narrow.index("second") < narrow.index("50.0%")


def test_cells_that_markup_or_spreadsheets_would_take_for_more() -> None:
    grid = Grid("50 % & more", (Column("name", "text"), Column("x", digits=2)), ((Cell("=a|b_<i>\n"), Cell(-1.5)),))
    assert markdown(grid).split("\n")[2] == "| =a\\|b\\_\\<i\\>⏎ | -1.50 |"
    assert r"=a\textbar{}b\_$<$i$>$" in latex(grid)
    assert "$-$1.50" in latex(grid)
    assert comma_separated(grid).startswith('name,x\n"\'=a|b_<i>\n",-1.5')
    assert [guarded(cell) for cell in ("+a", "-a", "@a", "a=b", -1.5)] == ["'+a", "'-a", "'@a", "a=b", -1.5]


def test_how_figures_are_written() -> None:
    assert [number(value, 3) for value in (0.12749, -2.0, None)] == ["0.127", "-2.000", "–"]
    assert number(0.5, 1, sign=True) == "+0.5"
    assert [percent(value) for value in (0.312, 0.0, None)] == ["31.2%", "0.0%", "–"]
    assert percent(-0.12, digits=0, sign=True) == "-12%"
    assert interval([0.27, 0.35], 1, scale=100) == "[27.0, 35.0]"
    assert interval([-0.1, 0.25], 2, sign=True) == "[-0.10, +0.25]"
    assert interval(None, 1) == interval([0.0, 0.0], 1) == ""  # none failed: an interval of no width says nothing
    columns = (Column("share", "percent", 1, True), Column("difference", "points", 1, True, True))
    grid = Grid("", columns, ((Cell(0.5, [0.4, 0.6]), Cell(0.2, [0.1, 0.3])), (Cell(None), Cell(None))))
    assert grid.texts() == [[("50.0%", "[40.0, 60.0]"), ("+20.0", "[+10.0, +30.0]")], [("–", ""), ("–", "")]]
