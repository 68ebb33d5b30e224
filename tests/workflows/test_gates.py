"""Gates by figure, what could not be assessed, and both as JUnit XML; figures by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from astprompter.base.errors import UserError
from astprompter.cli.commands.evaluate import gate_lines, lacking_of
from astprompter.cli.commands.shared import is_setting
from astprompter.runs.schema.results import FailureRow
from astprompter.runs.schema.suite import CaseResult
from astprompter.workflows.gates import Gate, exit_code, gates_of, unassessed_of, verdicts_of
from astprompter.workflows.junit import write_junit, write_retest
from helpers.report_runs import failure


def row(
    share: float | None,
    ends: list[float] | None = None,
    *,
    prefixes: int = 200,
    errors: int = 0,
    failed: float = 0.4,
    blocked: int = 0,
) -> Any:
    valid = 3 * prefixes - errors - blocked
    reply = SimpleNamespace(share=share, share_ci=ends, threshold=0.5, valid=valid, errors=errors + blocked)
    whole = SimpleNamespace(
        share=None if blocked else failed, ci=[0.3, 0.5], bounds=[0.3, 0.6], bounds_ci=[0.2, 0.7],
        assessed=prefixes - errors - blocked, unassessed=errors + blocked,
    )  # fmt: skip
    kinds = {
        "answered": 3 * prefixes - errors - blocked,
        "blocked": blocked,
        "failed": errors,
        "cut": 0,
        "tool_call": 0,
    }
    return SimpleNamespace(
        tox_reply=reply,
        tox_turn=reply,
        failure_within_horizon=whole,
        prefixes=prefixes,
        reply_kinds=kinds,
        errors=errors,
    )


def summary(**rows: Any) -> Any:
    config = SimpleNamespace(settings={"evaluation": {"level": 0.95}})
    return {"tiny": SimpleNamespace(adversaries=rows, config=config, labels=None)}


def lines(summaries: Any, most: float, *, baseline: str | None = "untuned", by: Any = "estimate") -> list[str]:
    return gate_lines(list(verdicts_of(summaries, [Gate("replies", most, by)], baseline=baseline)))


def test_a_gate_by_hand() -> None:
    found = summary(untuned=row(0.5), a=row(0.2, [0.1, 0.3]), b=row(0.1))
    *_, passed = lines(found, 0.2)  # exceeded is more than, and the interval is no matter
    assert passed == (
        "gate: share of replies above 0.5 is not over --fail-over replies=0.2: "
        "a 0.2000 (interval 0.1000 to 0.3000; 600 of 600 replies assessed); b 0.1000 (600 of 600 replies assessed)"
    )
    assert lines(found, 0.15)[-1] == (
        "gate: share of replies above 0.5 is over --fail-over replies=0.15: "
        "a 0.2000 (interval 0.1000 to 0.3000; 600 of 600 replies assessed)"
    )
    assert "=0.2: untuned 0.5000" in lines(found, 0.2, baseline=None)[-1]
    assert not any(line.startswith("warning") for line in lines(found, 0.05))  # all of the interval is above it
    assert lines(found, 0.2)[0] == (
        "warning: --fail-over replies=0.2 may go either way by chance: a 0.2000 (interval 0.1000 to 0.3000; 600 of "
        "600 replies assessed) from 200 prefixes; more prefixes make it firm"
    )
    few = summary(untuned=row(0.5, prefixes=8), a=row(0.0, [0.0, 0.0], prefixes=8, errors=2))
    assert "is not over" in lines(few, 0.2)[-1]
    assert "a 0.0000 (interval 0.0000 to 0.0000; 22 of 24 replies assessed) from 8 prefixes" in lines(few, 0.2)[0]


def test_a_gate_by_the_upper_end_of_the_interval() -> None:
    found = summary(a=row(0.1, [0.05, 0.16]), b=row(0.0, [0.0, 0.1684], prefixes=20))
    over = lines(found, 0.15, by="upper")[-1]
    assert (
        "upper: a 0.1000 (interval 0.0500 to 0.1600; upper end 0.1600; 600 of 600 replies assessed); b 0.0000" in over
    )
    assert "is over --fail-over replies=0.15 --gate-by upper: a 0.1000 (interval 0.0500 to 0.1600; upper end" in over
    (without,) = verdicts_of(summary(a=row(0.4, prefixes=1)), [Gate("replies", 0.5, "upper")], baseline=None)
    assert (without.value, without.outcome) == (1.0, "exceeded")  # one prefix has no interval
    (nothing,) = verdicts_of(summary(a=row(None)), [Gate("replies", 0.5, "upper")], baseline=None)
    assert (nothing.value, nothing.outcome) == (None, "unknown")
    with pytest.raises(UserError, match="add --fail-over"):
        gates_of([], "upper")


def test_gates_are_named_by_figure() -> None:
    assert gates_of(["0.05"]) == [Gate("replies", 0.05)]
    assert gates_of(["replies=0.05", "prefixes=0.2", "turns=1"], "upper") == [
        Gate("replies", 0.05, "upper"), Gate("prefixes", 0.2, "upper"), Gate("turns", 1.0, "upper"),
    ]  # fmt: skip
    for word, message in (
        ("replys=0.1", "unknown figure 'replys'. Did you mean 'replies'"), ("replies=2", "a share from 0 to 1"),
        ("nan", "a share from 0 to 1"), ("prefixes=some", "for instance prefixes=0.05"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            gates_of([word])
    with pytest.raises(UserError, match="names replies twice"):
        gates_of(["0.1", "replies=0.2"])
    found = verdicts_of(summary(a=row(0.1, failed=0.4)), gates_of(["replies=0.2", "prefixes=0.3"]), baseline=None)
    assert [(verdict.gate.figure, verdict.outcome) for verdict in found] == [
        ("replies", "passed"), ("prefixes", "exceeded"),
    ]  # fmt: skip


def test_prefixes_whose_replies_were_blocked_count_as_failed() -> None:
    found = summary(a=row(0.1, blocked=3))
    (by_bound,) = verdicts_of(found, gates_of(["prefixes=0.55"]), baseline=None)
    assert (by_bound.value, by_bound.outcome) == (0.6, "exceeded")
    assert str(by_bound) == "a 0.6000 (interval 0.2000 to 0.7000; 197 of 200 prefixes assessed)"
    (by_end,) = verdicts_of(summary(a=row(0.1, errors=1)), gates_of(["prefixes=0.55"], "upper"), baseline=None)
    assert (by_end.value, by_end.outcome) == (0.7, "exceeded")


def ended(summaries: Any, gates: Any, path: Path) -> tuple[int, list[str], set[str]]:
    """Exit code, what is said of the gates, and the tags of the JUnit file."""
    verdicts, unassessed = list(verdicts_of(summaries, gates, baseline=None)), unassessed_of(summaries, 0.05)
    write_junit(path, verdicts, unassessed, {"tiny": []}, 0.05)
    tags = {element.tag for element in ElementTree.parse(path).iter()} & {"failure", "error"}  # noqa: S314
    return exit_code(verdicts, unassessed), gate_lines(verdicts), tags


@pytest.mark.parametrize("figure", ["replies", "turns", "prefixes"])
@pytest.mark.parametrize("by", ["estimate", "upper"])
def test_what_is_unknown_never_passes(tmp_path: Path, figure: str, by: Any) -> None:
    gates = [Gate(figure, 0.1, by)]
    lost = SimpleNamespace(share=None, ci=None, bounds=[0.0, 1.0], bounds_ci=[0.0, 1.0], assessed=0, unassessed=200)
    for kind in ("blocked", "errors"):
        adversary = row(None, **{kind: 600})
        adversary.failure_within_horizon = lost
        code, said, tags = ended(summary(a=adversary), gates, tmp_path / "gates.xml")
        by_bound = figure == "prefixes" and kind == "blocked"  # what a filter took away may all have failed
        assert (code, "failure" in tags) == ((3, True) if by_bound else (1, False))
        assert "error" in tags
        assert said[-1].startswith("gate: share of ")
        assert ("is over" if by_bound else "could not be assessed, so nothing is known of") in said[-1]
        assert ("a 1.0000" if by_bound else "a unknown") in said[-1]
    scored = row(0.0, [0.0, 0.0])
    scored.tox_turn = SimpleNamespace(share=None, share_ci=None, threshold=0.5, valid=0, errors=600)
    assert ended(summary(a=scored), [Gate("turns", 0.1)], tmp_path / "x.xml")[::2] == (1, {"error"})
    assert ended(summary(a=scored), [Gate("replies", 0.1)], tmp_path / "x.xml")[::2] == (0, set())
    everything = ended(summary(a=row(None, blocked=600)), [], tmp_path / "x.xml")  # no gate at all
    assert everything == (1, [], {"error"})


def test_a_setting_without_a_value_is_no_target() -> None:
    with pytest.raises(UserError, match=r"did you mean evaluation\.threshold=VALUE"):
        is_setting("evaluation.threshold")
    assert [is_setting(word) for word in ("evaluation.threshold=0.3", "seed", "runs/mine")] == [True, False, False]


def test_many_blocked_replies_are_told_with_the_gate() -> None:
    assert "600 replies assessed" in lines(summary(a=row(0.0)), 0.1)[-1]
    assert "540 of 600 replies assessed)" in lines(summary(a=row(0.0, blocked=60)), 0.1)[-1]
    told = lines(summary(a=row(0.0, blocked=61)), 0.1)[-1]
    assert "539 of 600 replies assessed; 61 of 600 replies were blocked)" in told


def test_more_replies_without_an_assessment_than_allowed_are_told() -> None:
    found = summary(untuned=row(0.1, errors=30), a=row(0.1, errors=31))
    unassessed = unassessed_of(found, 0.05)
    assert [one.exceeded for one in unassessed] == [False, True]  # 600 replies, of which 30 are just 5 %
    said = lacking_of(unassessed, 0.05)
    assert said.startswith(
        "31 of 600 replies of 'a' could not be assessed (31 failed): more than --max-errors 0.05; the results"
    )
    assert lacking_of(unassessed_of(found, 0.1), 0.1) == ""
    many = summary(a=row(0.1, blocked=300, errors=30))  # a filter's work is no failure of the measurement
    assert [one.exceeded for one in unassessed_of(many, 0.05)] == [False]
    nothing = summary(a=row(None, errors=600))
    assert lacking_of(unassessed_of(nothing, 1.0), 1.0).startswith("no turn of 'a' could be assessed")


def test_what_helps_is_told_by_what_became_of_the_replies() -> None:
    def told(errors: int, **kinds: int) -> str:
        found = row(0.1, errors=errors)
        found.reply_kinds |= {"failed": 0} | kinds
        return lacking_of(unassessed_of(summary(a=found), 0.05), 0.05).split("says why")[1]

    assert told(60, failed=60) == "; --retry-errors asks again for what failed"
    scorer = "; what the scorer has no score for needs another one (scorer.spec); only where a server was down does "
    assert told(60) == f"{scorer}--retry-errors help"  # a local scorer gives none the next time either
    assert told(60, cut=60) == "; raise remote.reasoning_tokens for replies that were cut"
    assert (
        told(60, failed=10, tool_call=50)
        == "; --retry-errors asks again for what failed; serve the model without tools"
    )


HOSTILE = ["", " ", "\x00\x0b\x1b[31m", "\u3000\x85\u2028", "\ud800\ufffe\uffff", "<\"&'>]]>", "a\r\n\tb\u00a0c"]


@pytest.mark.parametrize("name", HOSTILE)
def test_junit_can_be_parsed_whatever_names_it_holds(tmp_path: Path, name: str) -> None:
    found = {name: SimpleNamespace(**vars(summary(**{name: row(0.2, errors=300)})["tiny"]))}
    rows = [FailureRow.of(failure(name.replace("\ud800", ""), 0) | {"path_nll": None, "prefix_id": "p\x00\n\ufffe"})]
    rows = [row.model_copy(update={"adversary": name}) for row in rows]
    verdicts = list(verdicts_of(found, gates_of(["0.1"]), baseline=None))
    write_junit(tmp_path / "gates.xml", verdicts, unassessed_of(found, 0.05), {name: rows}, 0.05)
    case = CaseResult(
        case=name.replace("\ud800", ""), failed=1, assessed=2, drawn=2, share=0.5, ci=None, outcome="still failing",
        before=0.5, worst_reply="\x00 pear", worst_score=0.9,
    )  # fmt: skip
    found = SimpleNamespace(config=SimpleNamespace(defender=name), cases=[case])
    write_retest(tmp_path / "suite.xml", found)  # type: ignore[arg-type]
    for file in ("gates.xml", "suite.xml"):
        root = ElementTree.fromstring((tmp_path / file).read_text("utf-8"))  # noqa: S314
        assert root.findall(".//failure")
        for element in root.iter():
            for value in (*element.attrib.values(), *(element.text or "").splitlines()):
                assert all(c == " " or (not c.isspace() and c.isprintable()) or c in "\u00a0\u3000" for c in value)
        assert all(one.get("classname", "").split(".")[-1].strip() for one in root.iter("testcase"))


def test_junit_tells_what_each_gate_found_and_shows_no_text(tmp_path: Path) -> None:
    found = summary(untuned=row(0.9), a=row(0.2, [0.1, 0.3]), b=row(None, errors=600))
    verdicts = list(verdicts_of(found, gates_of(["replies=0.1", "prefixes=0.5"]), baseline="untuned"))
    said = {"adversary": "a", "utterance": " banana\x00 <b>", "reply": " pear \ud83d &"}
    rows = [FailureRow.of(failure("a", 0) | {**said, "reply": " pear \x07 &"})]
    write_junit(tmp_path / "out.xml", verdicts, unassessed_of(found, 0.05), {"tiny": rows}, 0.05)
    text = (tmp_path / "out.xml").read_text("utf-8")
    assert "banana" not in text
    assert "pear" not in text
    root = ElementTree.fromstring(text)  # noqa: S314
    assert [suite.get("name") for suite in root] == ["untuned against tiny", "a against tiny", "b against tiny"]
    assert [(s.get("tests"), s.get("failures"), s.get("errors")) for s in root] == [
        ("1", "0", "0"), ("3", "1", "0"), ("3", "0", "2"),
    ]  # fmt: skip
    assert [root.get(name) for name in ("tests", "failures", "errors")] == ["7", "1", "2"]
    (gate,) = root.iter("failure")
    assert (gate.get("message") or "").startswith("share of replies above 0.5: a 0.2000 (interval 0.1000 to 0.3000")
    assert "▒▒▒▒▒▒" in (gate.text or "")
