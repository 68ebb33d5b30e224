"""The section of the page on a repair: what changed, what closed, what it costs; texts masked, equal bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from astprompter.evaluation.repair import Side, repair_of
from astprompter.report.page import write_report
from astprompter.report.repair import Section, sections
from astprompter.runs.schema.repair import BenignCost
from helpers.repaired import side


def changed(before: float, after: float) -> dict[str, Any]:
    ends = {"before_ci": [before, before], "after_ci": [after, after], "difference_ci": None}
    ratio = after / before if before else None
    return {
        "before": before, "after": after, "difference": after - before, "ratio": ratio,
        "ratio_ci": ratio and [ratio - 0.01, ratio + 0.01], **ends,
    }  # fmt: skip


def cost(nll: float) -> BenignCost:
    replies = {name: changed(2.0, 1.9) for name in ("length", "distinct_2", "vendi")}
    shares = {"blank": changed(0.0, 0.0), "refused": changed(0.1, 0.2)}
    kl = {"kl": 0.0123, "kl_ci": [0.01, 0.02]}
    return BenignCost.of(
        {
            "texts": {"source": "b.jsonl", "texts": 3, "tokens": 30, "nll": changed(3.0, 3.0 * nll), **kl},
            "replies": {"replies": 4, "kl_tokens": 9, **replies, **shares, **kl},
        }
    )


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: Any) -> Path:
    out: Path = tmp_path_factory.mktemp("out") / "repaired"
    marks = [
        {"untuned": "xooxoooo", "mine": "xoxoxoxo"},
        {"untuned": "oooxoooo", "mine": "xooooooo", "attack-1": "xoxooooo"},
        {"untuned": "oooooooo", "mine": "oooooooo", "attack-1": "oooooooo", "attack-2": "oxoooooo"},
    ]
    sides = [Side.read(side(out / f"measured-{i}", own)) for i, own in enumerate(marks)]
    found = repair_of(
        sides, fresh=["mine", "attack-1", "attack-2"], benign=[None, cost(1.004), cost(1.008)], place=out,
        stopped="the fresh adversary gains nothing",
    )  # fmt: skip
    found.write(out / "repair.json")
    return out


@pytest.mark.slow
def test_the_page_of_a_repair(repaired: Path) -> None:
    page = write_report([repaired]).read_text("utf-8")
    assert write_report([repaired]).read_text("utf-8") == page
    assert "<h1>Under a fresh adversary, 50.0%" in page
    section = page[page.index('<section id="repair">') : page.index('<section id="table">')]
    for said in (
        "Rounds ended: the fresh adversary gains nothing.", "Toxic replies before and after", "fresh, each its own",
        "Which failures closed", "kinds of failures that were found before", "after round 1", "after round 2",
        "change of the nll of harmless texts", "Every adversary on every defender", "share of refusing replies",
        "0.0123 nats per token",
    ):  # fmt: skip
        assert said in section.replace("&#39;", "'").replace(" [50.0, 50.0]", ""), said
    assert "pear" not in section
    assert "▒▒▒▒" in section
    assert '<a href="#repair">Repair</a>' in page
    assert section.count("<svg") == 2
    assert "defender measured-2" in page
    assert "defender measured-1" not in page  # of the rounds between only the section tells


def test_markdown_says_the_same_masked(repaired: Path) -> None:
    text = write_report([repaired], form="md").read_text("utf-8")
    text = text[text.index("## The repair: repaired") :]
    assert "Of 5 kinds of failures that were found before" in text
    assert "pear" not in text


def test_pictures_hold_every_defender_and_interval(repaired: Path) -> None:
    (section,) = sections([repaired])
    dots, trade = section.dots, section.trade
    assert dots is not None
    assert [name for name, _, _ in dots.rows] == ["fresh, each its own", "untuned", "mine", "attack-1", "attack-2"]
    assert [len(spots) for _, _, spots in dots.rows] == [3, 3, 3, 2, 1]
    assert dots.legend == [(1, "before"), (2, "after round 1"), (0, "after round 2")]
    assert trade is not None
    xs = [spots[0].x for _, spots in trade.series]
    ys = [spots[0].y for _, spots in trade.series]
    assert xs == sorted(xs)  # each round costs more
    assert ys == sorted(ys)  # and fails less: further down


def test_labels_of_defenders_that_are_alike_do_not_cover_each_other(repaired: Path) -> None:
    (section,) = sections([repaired])
    first = section.found.defenders[0]
    alike = [first, *(first.model_copy(update={"benign": cost(ratio)}) for ratio in (0.999, 1.001))]
    trade = Section("", section.found.model_copy(update={"defenders": alike})).trade
    assert trade is not None
    heights = sorted(label.y for label in trade.labels)
    assert [later - earlier for earlier, later in pairwise(heights)] == [13.0, 13.0]
