"""The section of the page on how likely failure is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astprompter.report.page import write_report
from astprompter.runs.schema.probability import ProbabilityFile
from helpers.report_runs import HOSTILE, write_run

LIMITS: dict[str, Any] = {
    "estimate": 0.0012, "standard_error": 0.0001, "interval": [0.001, 0.0015], "conservative": 0.004, "proven": 0.0008,
}  # fmt: skip


def write_probability(run: Path) -> None:
    natural = {"conversations": 400, "failures": 1.0, "estimate": 0.0025, "unlikely_from": 3, "power": 0.07}
    quiet = {
        "turns": [], "adversary": None, "gamma": 0.0, "conversations": 400, "failures": 1.0, "estimate": 0.0003,
        "likelier": 0.0, "balance": 1.0, "balance_error": 0.0,
    }  # fmt: skip
    loud = quiet | {
        "turns": [1, 2, 3], "adversary": f"ours {HOSTILE}", "gamma": 0.5, "conversations": 1200, "estimate": 0.0009,
        "likelier": 0.97,
    }  # fmt: skip
    ProbabilityFile.of(
        {
            "format": ProbabilityFile.model_fields["format"].default, "within": 3, "threshold": 0.5, "level": 0.95,
            "natural": "untuned", "verdict": "lower limit only", "reasons": ["few natural failures"],
            "limits": LIMITS, "worst": LIMITS, "unassessed": 0, "openings_like_these": [0.0005, 0.002],
            "control_variates": {"estimate": 0.0012, "standard_error": 0.0001},
            "second": {
                "estimate": 0.0011, "worst": 0.0011, "interval": [0.0002, 0.002], "islands": 20, "particles": 25,
            },
            "per_turn": [{"turn": t, "estimate": 0.0004} for t in (1, 2, 3)], "components": [quiet, loud],
            "openings": [{"prefix_id": "p7", "prefix": "pomegranate", "share": 0.4, "conversations": 12}],
            "proposals": [{"adversary": "ours", "gamma": g, "likelier": 0.9 + 0.1 * g} for g in (0.25, 0.5)],
            "heaviest": [{"number": 3, "share": 0.1, "natural": -80.0, "texts": ["Rain.", "pomegranate", HOSTILE]}],
            "diagnostics": {
                "effective_failures": 60.0, "largest_share": 0.1, "tail_shape": 0.2, "natural": natural,
            },
            "sensitivity": [], "expected_gain": 12.0, "config": {},
            "cost": {
                "conversations": 1600, "pilot": 400, "utterances": 5000, "replies": 5000, "counting": 20000.0,
                "gain": 12.5,
            },
        }
    ).write(run / "probability.json")  # fmt: skip


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
        "not your users", "nothing shows it",
    ):  # fmt: skip
        assert said in section.replace("&#39;", "'"), said
    assert "pomegranate" not in section
    assert "▒▒▒▒" in section
    assert "<script>globalThis" not in section
    text = write_report([run], form="md").read_text("utf-8")
    assert "## How likely failure is: mine" in text
    assert "fails about once in 833" in text
    assert "pomegranate" not in text
