"""The section of the page on how likely failure is."""

from __future__ import annotations

from pathlib import Path

import pytest

from astprompter.report.page import write_report
from helpers.report_runs import write_probability, write_run


@pytest.mark.slow
def test_estimators_parts_and_heaviest_conversations_stand_on_the_page_masked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    before = write_report([run]).read_text("utf-8")
    assert 'id="probability"' not in before
    write_probability(run)
    page = write_report([run]).read_text("utf-8")
    assert write_report([run]).read_text("utf-8") == page
    section = page[page.index('<section id="probability">') :]
    section = section[: section.index("</section>")]
    for said in (
        "A conversation of 3 turns fails about once in 833 [1 in 1,000, 1 in 667].", "at least 1 in 1,250, by betting",
        "up to 1 in 250, by natural conversations alone", "lower limit only; few natural failures",
        "counting alone would need 20,000 conversations", "importance sampling", "Monte Carlo", "splitting",
        "natural speech", "97.0%", "By turn of the first failure", "p7", "40.0%", "10.0% of the estimate",
        "ours at γ 0.5 makes 95% of natural failures likelier, the most of 2 proposals",
        "60.0 effective failures, the heaviest conversation carries 10%, tail k 0.20", "not your users",
        "nothing shows it",
    ):  # fmt: skip
        assert said in section.replace("&#39;", "'"), said
    assert "pomegranate" not in section
    assert "▒▒▒▒" in section
    assert "<script>globalThis" not in section
    text = write_report([run], form="md").read_text("utf-8")
    assert "## How likely failure is: mine" in text
    assert "fails about once in 833" in text
    assert "pomegranate" not in text
