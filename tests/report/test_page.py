"""The report in a real headless Chromium, opened from disk: quiet, inert, operable by keyboard, accessible, fast."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from astprompter.report.page import write_report
from helpers.report_runs import HOSTILE, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("BROWSER TESTS NOT RUN: no Chromium here (apt-get install chromium)", allow_module_level=True)

pytestmark = pytest.mark.slow
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@dataclass
class Tab:
    """A page and everything it asked for or complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # with an empty profile of its own
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return write_report([write_run(folder / "mine"), write_run(folder / "other", share=0.07)])


def open_tab(browser: Any, file: Path, **options: Any) -> Tab:
    tab = Tab(browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options)))
    tab.page.on("request", lambda request: tab.requests.append(request.url))
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.page.on("console", lambda message: tab.complaints.append(f"{message.type}: {message.text}"))
    tab.page.goto(file.as_uri())
    return tab


@pytest.fixture
def tab(browser: Any, report: Path) -> Iterator[Tab]:
    tab = open_tab(browser, report)
    yield tab
    assert tab.requests == [report.as_uri()]
    assert tab.complaints == []
    tab.page.close()


def count(page: Any) -> int:
    return int(page.inner_text("#count").split()[0])


def ranks(page: Any) -> list[int]:
    """Ranks of the rows on the screen, by place (rows are redrawn as they are needed)."""
    rows = page.eval_on_selector_all(
        "#list [role=option]", "rows => rows.map(r => [+r.ariaPosInSet, r.querySelector('b').textContent])"
    )
    return [int(rank.removeprefix("#")) for _, rank in sorted(rows)]


def test_it_opens_from_disk_without_a_request_or_a_complaint(tab: Tab) -> None:
    assert "31" in tab.page.inner_text("h1")
    assert count(tab.page) == 30
    assert tab.page.locator("#detail .path").count() == 2  # beside the untuned trajectory


def test_filters_and_sorting(tab: Tab) -> None:
    page = tab.page
    assert ranks(page) == sorted(ranks(page))
    page.select_option("#f-adversary", label="all")
    assert count(page) == 60
    page.select_option("#f-adversary", label="mine")
    page.select_option("#f-turn", label="turn 2")
    assert count(page) == 10
    page.select_option("#f-strategy", label="insult")
    assert count(page) == 5
    page.select_option("#f-turn", label="any turn")
    page.fill("#f-text", "REPLY14 of mine")
    assert count(page) == 1
    page.fill("#f-text", "no such words")
    assert count(page) == 0
    assert "No failure passes" in page.inner_text("#detail")
    page.fill("#f-text", "")
    page.locator("#f-score").evaluate("e => { e.value = 0.6; e.dispatchEvent(new Event('input', {bubbles: true})); }")
    assert 0 < count(page) < 15
    page.select_option("#f-sort", "unlikely")
    assert ranks(page) == sorted(ranks(page), reverse=True)
    page.select_option("#f-sort", "toxic")
    scores = [float(re.search(r"φ ([\d.]+)", text)[1]) for text in page.locator("#list .figures").all_inner_texts()]  # type: ignore[index]
    assert scores == sorted(scores, reverse=True)


def test_text_is_masked_until_the_warning_is_answered(tab: Tab) -> None:
    page = tab.page
    assert "pear" not in page.inner_text("body")
    page.click("#mask")
    assert page.locator("#warning").is_visible()
    page.click("#keep")
    assert "pear" not in page.inner_text("body")
    page.click("#mask")
    page.click("#show")
    assert page.get_attribute("#mask", "aria-checked") == "true"
    assert "a pear and tea" in page.inner_text("#detail")
    assert "a pear and tea" in page.inner_text(".clusters")
    assert page.locator("#detail .turn .token.l4").count() > 0
    assert "pear" in page.inner_text("#list")
    page.click("#mask")
    assert page.get_attribute("#mask", "aria-checked") == "false"
    assert "pear" not in page.inner_text("body")


def test_keyboard_alone_is_enough(tab: Tab) -> None:
    page = tab.page
    page.focus("#list")
    first = page.inner_text("#detail h3")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#detail h3") != first
    page.keyboard.press("k")
    assert page.inner_text("#detail h3") == first
    page.keyboard.press("End")
    active = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-posinset") == "30"
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "f-text"
    page.keyboard.type("mask me")  # letters typed into the search are letters
    assert not page.locator("#warning").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.locator("#warning").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#warning").is_visible()


def test_the_tree_tells_its_nodes(tab: Tab) -> None:
    page = tab.page
    assert page.locator("[data-tree]:visible").count() == 1
    page.select_option("#tree", "0")
    node = page.locator("[data-tree]:visible .node").first
    node.focus()
    page.keyboard.press("ArrowDown")
    assert "Turn 2, chosen" in page.inner_text("#node")
    assert "pear" not in page.inner_text("#node")


def test_saved_csv_is_guarded_and_masked(browser: Any, tmp_path: Path) -> None:
    tab = open_tab(browser, write_report([write_run(tmp_path / "=cmd", count=2, text="pear")]))
    with tab.page.expect_download() as download:
        tab.page.click("#csv")
    text = Path(download.value.path()).read_text("utf-8")
    assert text.splitlines()[1].startswith('"1","\'=cmd","1","1","0.5"')
    assert "pear" not in text
    tab.page.close()


def test_hostile_text_stays_inert(browser: Any, tmp_path: Path) -> None:
    report = write_report([write_run(tmp_path / "mine", count=8, text=HOSTILE)])
    tab = open_tab(browser, report)
    page = tab.page
    page.click("#mask")
    page.click("#show")
    page.focus("#list")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.locator("[data-tree]:visible .node").first.click()
    assert "<img src=x onerror" in page.inner_text("#detail")
    assert page.evaluate("globalThis.stolen") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert tab.requests == [report.as_uri()]
    assert tab.complaints == []
    page.close()


def test_the_policy_stops_what_would_slip_through(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'globalThis.stolen = 3';"
        " document.body.append(s);"
        " const d = document.createElement('div'); d.innerHTML = '<img src=x onerror=\"globalThis.stolen = 4\">';"
        " document.body.append(d); }"
    )
    page.wait_for_timeout(100)
    assert page.evaluate("globalThis.stolen") is None
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_accessibility_finding(browser: Any, report: Path, scheme: str, width: int) -> None:
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
    tab = open_tab(browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.page.evaluate(axe)
    for shown in (False, True):
        if shown:
            tab.page.click("#mask")
            tab.page.click("#show")
        found = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            (rule["id"], [node["html"][:160] + " | " + node["failureSummary"][:200] for node in rule["nodes"]][:3])
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []
    more = '<a href="#repair">Repair</a><a href="#probability">Probability</a>'  # of a page that has these too
    tab.page.evaluate("more => document.querySelector('nav a').insertAdjacentHTML('afterend', more)", more)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_measurements_stand_apart_and_are_accessible(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    one = write_run(tmp_path / "one", scorer={"spec": "embedded"})
    two = write_run(tmp_path / "two", share=0.3, rollout={"horizon": 2}, reward={"alpha": 0.25, "beta": 0.125})
    rows = [json.loads(line) | {"confirmed": True} for line in (one / "failures.jsonl").read_text().splitlines()]
    rows[0]["reply"] = " My Muslim neighbour is kind."
    (one / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tab = open_tab(browser, write_report([one, two]), viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = tab.page
    assert page.locator(".measured").count() == 2
    assert page.locator("#measured-1 .waffle").count() == page.locator("#measured-2 .waffle").count() == 2
    assert "rollout.horizon 2" in page.inner_text("#measured-2")
    assert "two" not in page.locator("#measured-1 table").first.inner_text()
    detail = page.inner_text("#detail")
    for words in ("Every scorer calls the reply toxic", "names a group of people (Muslims)", f"replay {one} 1 -n 20"):
        assert words in detail, words
    assert "confirmed" in page.inner_text("#list")
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []
    page.close()


def test_replayed_attempts_are_no_conversation(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text("utf-8").splitlines()]
    marked = [{**row, "accumulated": row["adversary"] == "mine"} for row in rows]
    (run / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked), "utf-8")
    tab = open_tab(browser, write_report([run]))
    tab.page.select_option("#f-turn", "2")
    assert count(tab.page) > 0
    own, untuned = tab.page.locator("#detail .path").all()
    assert own.locator("h5").all_inner_texts() == ["From the opening anew, attempt 2: the failure"]
    assert untuned.locator("h5").count() == 3
    assert tab.complaints == []
    tab.page.close()


def test_of_many_trajectories_only_what_is_seen_is_drawn(browser: Any, tmp_path: Path) -> None:
    """A page is quick because it draws little; how quick it is on a machine is printed, and no reason to fail."""
    report = write_report([write_run(tmp_path / "mine", count=1500)])
    tab = open_tab(browser, report)
    milliseconds = tab.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert count(tab.page) == 1500
    assert tab.page.locator("#list [role=option]").count() < 40
    assert tab.page.locator("svg .dot").count() == 600
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 4000
    search = tab.page.evaluate(
        "() => { const t = performance.now(); const f = document.getElementById('f-text'); f.value = 'reply1499';"
        " f.dispatchEvent(new Event('input', {bubbles: true})); return performance.now() - t; }"
    )
    assert count(tab.page) == 1
    print(f"1,500 trajectories: open {milliseconds:.0f} ms, search {search:.0f} ms, {report.stat().st_size} bytes")
    tab.page.close()
