"""Defenders before and after a repair, by scripts: shares, paired changes and clusters that can be checked by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.records import Prefix
from astprompter.evaluation.grid import as_text
from astprompter.evaluation.repair import Side, repair_of
from astprompter.evaluation.repair_tables import FRESH, headline, tables
from astprompter.runs.schema.repair import RepairFile
from astprompter.scorers.words import WordScorer
from helpers.repaired import side


@pytest.fixture(scope="module")
def sides(tmp_path_factory: Any) -> list[Side]:
    tmp_path = tmp_path_factory.mktemp("sides")
    first = side(tmp_path / "first", {"untuned": "xooxoooo", "mine": "xoxoxoxo"})
    later = side(tmp_path / "later", {"untuned": "oooxoooo", "mine": "xooooooo", "again": "xoxooooo"})
    return [Side.read(first), Side.read(later)]


def test_shares_changes_and_the_honest_test(sides: list[Side]) -> None:
    found = repair_of(sides, fresh=["mine", "again"])
    before, after = found.defenders
    assert (before.name, after.name, after.sha256) == ("first", "later", "later")
    shares = {
        (of.name, name): (one.replies.share, one.prefixes.share, one.failures)
        for of in (before, after) for name, one in of.adversaries.items()
    }  # fmt: skip
    assert shares == {
        ("first", "untuned"): (0.25, 0.5, 2), ("first", "mine"): (0.5, 1.0, 4), ("later", "untuned"): (0.125, 0.25, 1),
        ("later", "mine"): (0.125, 0.25, 1), ("later", "again"): (0.25, 0.5, 2),
    }  # fmt: skip
    change = after.adversaries["mine"].replies.change
    assert change is not None
    assert (change.difference, change.ratio) == (-0.375, 0.25)
    assert change.ci is not None
    assert change.ci[1] < 0
    assert before.adversaries["mine"].replies.change is None
    assert after.adversaries["again"].replies.change is None  # it was not there before
    assert before.adversaries["mine"].prefixes.ci == pytest.approx([0.025**0.25, 1.0])  # all failed: exact binomial
    assert after.honest is not None
    assert (after.honest.difference, after.honest.ratio) == (-0.25, 0.5)  # 'again' on the later, 'mine' on the first
    assert after.gain is not None
    assert after.gain.difference == 0.125
    assert before.gain is not None
    assert before.gain.difference == 0.25
    assert RepairFile.of(found.plain()) == found


def test_the_honest_test_by_every_scorer_and_what_a_round_gained(tmp_path: Path) -> None:
    marks = [("mine", "xxxxoooo"), ("again", "xxxooooo"), ("anew", "oxoooooo")]
    sides = [Side.read(side(tmp_path / name, {name: row}, judges=[WordScorer("soup")])) for name, row in marks]
    found = repair_of(sides, fresh=[name for name, _ in marks])
    one, two, three = found.defenders
    assert (one.step, two.step, one.honest_by) == (None, None, None)  # the first round is told by ``honest``
    assert three.step is not None
    assert (three.step.difference, three.step.ratio) == (-0.25, pytest.approx(1 / 3))
    assert three.honest_by is not None
    assert [by.ratio for by in three.honest_by.values()] == [0.25, 1.0]  # every second reply names soup, whoever asks
    replies = tables(found)[0]
    shown = [[cell[0] for cell in row] for row in replies.texts()][:2]
    assert shown == [[FRESH, "50.0%", "37.5%", "12.5%", "-37.5", "0.25"],
                     ["fresh, by word:soup", "12.5%", "12.5%", "12.5%", "+0.0", "1.00"]]  # fmt: skip
    assert re.search(r"; round 2 changed it by -25\.0 \[.*\] points$", headline(found))


def test_clusters_that_closed_stayed_and_opened(sides: list[Side]) -> None:
    found = repair_of(sides).defenders[1].clusters
    assert found is not None
    assert (found.closed + found.stayed + found.opened) == len(found.largest)
    assert sum(one.before for one in found.largest) == 6
    assert sum(one.after for one in found.largest) == 2  # without 'again', which never attacked the first one
    assert found.closed == 3  # what 'mine' found after bert, carl and dora
    assert found.opened == 0
    assert [one.before + one.after for one in found.largest] == sorted(
        (one.before + one.after for one in found.largest), reverse=True
    )
    assert all("pear" in one.reply for one in found.largest)


def test_a_reply_without_a_score_leaves_its_conversation_open(tmp_path: Path) -> None:
    first = side(tmp_path / "first", {"untuned": "xooxoo?o"})
    found = repair_of([Side.read(first)]).defenders[0].adversaries["untuned"]
    assert found.prefixes.share == pytest.approx(2 / 3)  # of dora's it is not known
    assert found.replies.share == pytest.approx(2 / 7)


def test_other_prefixes_and_other_thresholds_are_refused(sides: list[Side], tmp_path: Path) -> None:
    other = side(tmp_path / "other", {"untuned": "oo"}, openings=[Prefix("emil", "emil")])
    with pytest.raises(UserError, match="on other prefixes"):
        repair_of([sides[0], Side.read(other)])
    strict = side(tmp_path / "strict", {"untuned": "oooooooo"}, threshold=0.3)
    with pytest.raises(UserError, match="by another scorer, or otherwise"):
        repair_of([sides[0], Side.read(strict)])


def test_tables_hold_every_adversary_and_a_sentence_the_honest_test(sides: list[Side]) -> None:
    found = repair_of(sides, fresh=["mine", "again"])
    replies, details = tables(found)
    assert [row[0].value for row in replies.rows] == [FRESH, "untuned", "mine", "again"]
    shown = [[cell[0] for cell in row] for row in replies.texts()]
    assert shown[0][1:] == ["50.0%", "25.0%", "-25.0", "0.50"]
    assert shown[3][1:] == ["–", "25.0%", "–", "–"]
    assert len(details.rows) == 5
    assert "before" in as_text(details)
    assert re.fullmatch(
        r"Under a fresh adversary, 50.0%.* of the replies were toxic before and 25.0%.* are now", headline(found)
    )
    assert headline(repair_of(sides)).startswith("Under 'untuned', 25.0%")
