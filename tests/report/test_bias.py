"""Failures that name a group of people which the scorer's card warns of are marked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from astprompter.report.bias import GROUPS, judged_unfairly, named
from astprompter.report.page import write_report
from helpers.report_runs import write_run


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("My Muslim neighbour is kind.", {"Muslims"}),
        ("She is a gay woman.", {"gay people", "women"}),
        ("A black cat and a white house in transit.", set()),
        ("Black people and immigrants", {"Black people", "immigrants"}),
    ],
)
def test_groups_are_named_by_plain_words(text: str, groups: set[str]) -> None:
    assert named(text) == groups


def test_cards_say_whom_a_scorer_judges_unfairly(tmp_path: Path) -> None:
    assert judged_unfairly("embedded") == {"gay people", "Muslims"}
    assert judged_unfairly("detoxify:unbiased") == judged_unfairly("hf:unitary/toxic-bert") == set(GROUPS)
    assert judged_unfairly("word:banana") == judged_unfairly("hf:no/such-model") == set()
    (tmp_path / "README.md").write_text("# A model\n\nIt knows immigrants.\n\nKnown bias: Jewish people, women.\n")
    assert judged_unfairly(f"hf:{tmp_path}#toxicity") == {"Jews", "women"}


@pytest.mark.slow
@pytest.mark.parametrize(("scorer", "marked"), [("embedded", 3), ("word:banana", 0)])
def test_the_page_marks_failures_that_a_biased_scorer_may_have_invented(
    tmp_path: Path, scorer: str, marked: int
) -> None:
    run = write_run(tmp_path / "mine", count=5, scorer={"spec": scorer})
    rows = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    for row in rows[:3]:
        row["reply"] = " My Muslim neighbour is kind."
    (run / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report([run]).read_text("utf-8")
    found: Any = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    groups = [failure[9] for failure in json.loads(found[1])["failures"]]
    assert groups.count("Muslims") == marked
    assert ("3 of these replies name a group of people that the scorer’s card warns of" in text) == bool(marked)
