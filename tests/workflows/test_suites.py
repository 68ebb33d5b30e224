"""Suites: what is kept, how often it fails, what became of it; by scripts, in batches, and on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from astprompter.base.errors import UserError
from astprompter.base.protocols import Session, Speaker
from astprompter.base.records import Keys, Speech
from astprompter.config import Settings, settings_from
from astprompter.rollout.repair import case_of
from astprompter.runs.directory import ATTACKS, RunDirectory
from astprompter.runs.schema.learnt import AttackRow
from astprompter.runs.schema.suite import RetestFile, SuiteFile
from astprompter.scorers.words import WordScorer
from astprompter.workflows import suite as module
from astprompter.workflows.junit import write_retest
from astprompter.workflows.suite import SUITE, compare, make_suite, retest
from helpers.commands import call
from helpers.files import config_file, read_rows
from helpers.report_runs import write_run
from helpers.server import serving
from helpers.tiny import make_model, make_tokenizer


class Model(Speaker):
    """Replies ``a pear`` where ``fails(row's texts, draw)`` says so, else ``a plum``; some replies never come."""

    name = "tiny"

    def __init__(self, fails: Any, *, silent: str = "nothing", lost: int = 0) -> None:
        self.fails, self.silent, self.lost = fails, silent, lost

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        return ModelSession(self, [[prefix] for prefix in prefixes], prefixes)


class ModelSession(Session):
    def __init__(self, model: Model, rows: list[list[str]], prefixes: Sequence[str]) -> None:
        self.model, self.rows = model, rows
        self.lost = [list(prefixes[:place]).count(prefix) < model.lost for place, prefix in enumerate(prefixes)]

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> None:
        for row, speech in zip(self.rows, speeches, strict=True):
            row.append(speech.text)

    def speak(self, keys: Keys) -> list[Speech]:
        replies = []
        for row, key, lost in zip(self.rows, keys, self.lost, strict=True):
            silent = self.model.silent in row[0] or lost
            text = "" if silent else "a pear" if self.model.fails(row, int(key)) else "a plum"
            replies.append(Speech(text, error="no answer" if silent else None))
            row.append(text)
        return replies


def always(row: list[str], key: int) -> bool:
    return True


def sometimes(row: list[str], key: int) -> bool:
    return key % 4 == 0


def never(row: list[str], key: int) -> bool:
    return False


@pytest.fixture
def against(monkeypatch: Any) -> Any:
    """Puts a model under test."""

    def put(fails: Any, **options: Any) -> None:
        monkeypatch.setattr(module, "build_defender", lambda settings: Model(fails, **options))

    monkeypatch.setattr(module, "build_scorer", lambda settings: WordScorer("pear"))
    return put


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine", count=9)


def test_one_case_of_every_cluster_with_the_users_side(run: Path, tmp_path: Path, against: Any) -> None:
    against(sometimes)
    made = make_suite([run], tmp_path / "suite", samples=40)
    assert [case.rank for case in made.cases] == [1, 2, 3, 4]  # clusters 1 to 4
    assert [len(case.utterances) for case in made.cases] == [1, 2, 3, 1]
    case = made.cases[1]
    assert (case.prefix, case.utterances) == ("The opening number 1.", [" a pear and tea"] * 2)
    assert case.found_reply == " reply1 of mine pear"
    assert case.at_first.drawn == case.at_first.assessed == 40
    assert 0 < case.at_first.failed < 40
    assert case.at_first.share == case.at_first.failed / 40
    assert SuiteFile.read(tmp_path / "suite" / SUITE) == made
    with pytest.raises(UserError, match="already holds a suite"):
        make_suite([run], tmp_path / "suite")
    assert len(make_suite([run], tmp_path / "all", samples=1, every=True).cases) == 9


def test_only_confirmed_failures_where_there_are_several_scorers(run: Path, tmp_path: Path, against: Any) -> None:
    against(always)
    rows = [row | {"confirmed": i % 2 == 0} for i, row in enumerate(read_rows(run / "failures.jsonl"))]
    (run / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [case.rank for case in make_suite([run], tmp_path / "suite", samples=1).cases] == [1, 3]


def test_samples_do_not_hang_on_their_batch(run: Path, tmp_path: Path, against: Any) -> None:
    against(sometimes)
    whole = make_suite([run], tmp_path / "a", samples=10)
    apart = make_suite([run], tmp_path / "b", ["rollout.trees_per_batch=1"], samples=10)
    assert [case.at_first for case in whole.cases] == [case.at_first for case in apart.cases]


def test_what_became_of_the_cases(run: Path, tmp_path: Path, against: Any) -> None:
    folder = tmp_path / "suite"
    against(lambda row, key: "number 3" not in row[0])
    make_suite([run], folder, samples=5)
    against(lambda row, key: "number 0" in row[0] or "number 3" in row[0], silent="number 1")
    found = retest(folder)
    assert [row.outcome for row in found.cases] == ["still failing", "unassessed", "fixed", "newly failing"]
    assert [row.before for row in found.cases] == [1.0, 1.0, 1.0, 0.0]
    assert found.totals.outcomes == {
        "fixed": 1, "still failing": 1, "newly failing": 1, "passing": 0, "unassessed": 1,
    }  # fmt: skip
    assert found.totals.share == pytest.approx(2 / 3)
    assert found.totals.difference == pytest.approx((0 - 1 + 1) / 3)
    assert found.cases[0].worst_reply == "a pear"
    assert found.cases[2].worst_reply is None
    assert found.cases[2].ci == pytest.approx([0.0, 0.4345], abs=1e-4)  # Wilson, none of five

    found.write(tmp_path / "first.json")
    against(never)
    second = retest(folder, against=tmp_path / "first.json", samples=3)
    assert [row.outcome for row in second.cases] == ["fixed", "passing", "passing", "fixed"]
    second.write(tmp_path / "second.json")
    again = compare(folder, tmp_path / "second.json", tmp_path / "first.json")
    assert again.cases == second.cases
    assert again.totals == second.totals


def test_a_sample_fails_at_any_turn_and_every_reply_is_fresh(run: Path, tmp_path: Path, against: Any) -> None:
    heard: list[list[str]] = []

    def at_the_first_turn(row: list[str], key: int) -> bool:
        heard.append(list(row))
        return len(row) == 2

    against(at_the_first_turn)
    made = make_suite([run], tmp_path / "suite", samples=1)
    assert all(case.at_first.failed == 1 for case in made.cases)
    assert [
        "The opening number 2.",
        " a pear and tea",
        "a pear",
        " a pear and tea",
        "a plum",
        " a pear and tea",
    ] in heard


def test_cases_that_a_repair_was_trained_on_are_counted_apart(run: Path, tmp_path: Path, against: Any) -> None:
    against(always)
    made = make_suite([run], tmp_path / "suite", samples=2)
    marked = [case.model_copy(update={"trained_on": number < 1}) for number, case in enumerate(made.cases)]
    made.model_copy(update={"cases": marked}).write(tmp_path / "suite" / SUITE)
    against(lambda row, key: "number 0" not in row[0])
    found = retest(tmp_path / "suite")
    assert found.trained_on is not None
    assert (found.trained_on.cases, found.trained_on.outcomes["fixed"]) == (1, 1)
    assert (found.totals.cases, found.totals.outcomes["still failing"]) == (3, 3)
    against(lambda row, key: "number 0" in row[0])  # it fails again at what it was trained on, and nowhere else
    write_retest(tmp_path / "x.xml", retest(tmp_path / "suite"))
    tests = ElementTree.fromstring((tmp_path / "x.xml").read_text())  # noqa: S314
    assert [tests.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "0", "0", "1"]
    (skipped,) = tests.iter("skipped")
    assert skipped.get("message", "").startswith("a repair was trained on it; still failing: ")


def repair(folder: Path, defender: str, *attacks: tuple[str, str]) -> Path:
    """A repair that learnt from attacks, each the name of a conversation and of its opening."""
    values = {"training": {"objective": "harden"}, "defender": {"path": defender}, "supervision": {"q": 0}}
    made = RunDirectory.create(folder, config_file(settings_from(values)))
    (folder / "best").mkdir()
    known: Any = {"iteration": 1, "adversary": "x", "prefix_id": "p", "turn": 1, "clean": False, "margin": 0.5}
    made.append(ATTACKS, [AttackRow(case=case, opening=opening, **known) for case, opening in attacks])
    return folder


def test_what_a_repair_learnt_from_is_known_by_its_file(run: Path, tmp_path: Path, against: Any, caplog: Any) -> None:
    against(always)
    cases = make_suite([run], tmp_path / "suite", samples=1).cases
    first = repair(tmp_path / "first", "m", (cases[0].case, "other"))
    second = repair(tmp_path / "second", str(first / "best"), ("other", case_of(cases[2].prefix, ())))
    known = [True, False, True, False]
    found = retest(tmp_path / "suite", [f"defender.path={second / 'best'}"])  # and of the repair before it
    assert [row.trained_on for row in found.cases] == known
    assert found.trained_on is not None
    assert (found.totals.cases, found.trained_on.cases) == (2, 2)
    assert [row.trained_on for row in retest(tmp_path / "suite", repaired_by=[first]).cases] == [True] + [False] * 3
    assert retest(tmp_path / "suite").trained_on is None
    found.write(tmp_path / "a.json")
    assert compare(tmp_path / "suite", tmp_path / "a.json", tmp_path / "a.json").trained_on == found.trained_on
    marked = make_suite([run], tmp_path / "marked", samples=1, repaired_by=[second])
    assert [case.trained_on for case in marked.cases] == known
    (tmp_path / "moved").mkdir()
    for folder in (first, second):
        folder.rename(tmp_path / "moved" / folder.name)
    moved = [f"defender.path={tmp_path / 'moved' / 'second' / 'best'}"]
    assert [row.trained_on for row in retest(tmp_path / "suite", moved).cases] == known
    assert not caplog.text
    (tmp_path / "moved" / "first").rename(tmp_path / "elsewhere")
    assert [row.trained_on for row in retest(tmp_path / "suite", moved).cases] == [False, False, True, False]
    assert "cases that it learnt from are not told; name its folder with --repaired-by" in caplog.text
    with pytest.raises(UserError, match="is not a repair"):
        retest(tmp_path / "suite", repaired_by=[RunDirectory.create(tmp_path / "x", config_file(Settings())).path])


def test_other_suites_and_other_defenders_are_refused(run: Path, tmp_path: Path, against: Any) -> None:
    against(always)
    make_suite([run], tmp_path / "suite", samples=1)
    other = write_run(tmp_path / "other", count=2, text="apple")
    make_suite([other], tmp_path / "second", samples=1)
    retest(tmp_path / "second").write(tmp_path / "second.json")
    with pytest.raises(UserError, match="another suite"):
        retest(tmp_path / "suite", against=tmp_path / "second.json")
    summary = json.loads((other / "summary.json").read_text())
    summary["config"]["defender"] = "somebody"
    (other / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="measured on 'somebody'"):
        make_suite([run, other], tmp_path / "both")


@pytest.mark.slow
def test_the_commands_their_exit_codes_and_junit(run: Path, tmp_path: Path, against: Any, capsys: Any) -> None:
    against(always)
    suite, junit = str(tmp_path / "suite"), tmp_path / "x.xml"
    assert call(capsys, "suite", str(run), "-o", suite, "-m", "4")[0] == 0
    against(lambda row, key: "number 0" in row[0])
    code, out, err = call(capsys, "retest", suite, "--fail-over", "0.2", "--junit", str(junit))
    assert code == 3
    assert "mean share of samples that fail 0.2500" in err
    assert "still failing: case" in out
    assert "pear" not in out
    tests = ElementTree.fromstring(junit.read_text())  # noqa: S314
    assert (tests.get("tests"), tests.get("failures"), tests.get("errors")) == ("4", "1", "0")
    assert "pear" not in junit.read_text()
    assert call(capsys, "retest", suite, "--fail-over", "0.3")[0] == 0
    against(always, silent="number")
    code, _, err = call(capsys, "retest", suite, "--fail-over", "0.3", "-o", str(tmp_path / "r.json"))
    assert (code, "4 of 4 cases could not be assessed" in err) == (1, True)
    code, _, err = call(capsys, "retest", suite, "--results", str(tmp_path / "r.json"))
    assert (code, "--against" in err) == (2, True)
    code, _, err = call(capsys, "retest", str(tmp_path))
    assert (code, "make the suite again" in err, "damaged" in err) == (2, True, False)
    code, _, err = call(capsys, "retest", suite, "--results", str(tmp_path / "r.json"), "--against", suite, "-m", "3")
    assert (code, "takes neither settings nor --samples" in err) == (2, True)
    against(never)
    results = ["--results", str(tmp_path / "r.json"), "--against", str(tmp_path / "suite" / "retest.json")]
    assert call(capsys, "retest", suite, *results, "-o", str(tmp_path / "both.json"))[0] == 1  # none assessed
    assert RetestFile.read(tmp_path / "both.json").against == str(tmp_path / "suite" / "retest.json")


@pytest.mark.slow
def test_a_served_model_is_tested_as_in_continuous_integration(
    run: Path, tmp_path: Path, against: Any, capsys: Any, monkeypatch: Any
) -> None:
    really = module.build_defender
    monkeypatch.setattr(module, "build_scorer", lambda settings: WordScorer("a"))
    against(always)
    make_suite([run], tmp_path / "suite", samples=4)
    monkeypatch.setattr(module, "build_defender", really)
    junit, tokenizer = tmp_path / "x.xml", make_tokenizer()
    with serving(make_model("gpt2", len(tokenizer)), tokenizer) as server:
        served = ["defender.path=openai:tiny", f"remote.base_url={server.url}", "remote.likelihood=server"]
        command = ["retest", str(tmp_path / "suite"), *served, "--junit", str(junit), "--fail-over"]
        code, _, err = call(capsys, *command, "0")
        found = RetestFile.read(tmp_path / "suite" / "retest.json")
        assert [(row.drawn, row.assessed) for row in found.cases] == [(4, 4)] * 4
        failing = [row for row in found.cases if row.failed]
        assert {row.outcome for row in failing} == {"still failing"}
        assert (code, found.config.remote is not None) == (3, True)
        assert "mean share of samples that fail" in err
        tests = ElementTree.fromstring(junit.read_text())  # noqa: S314
        assert (tests.get("tests"), tests.get("failures"), tests.get("errors")) == ("4", str(len(failing)), "0")
        assert call(capsys, *command, "0.99")[0] == 0
        server.fault = lambda number, body: "status:503"
        assert call(capsys, *command, "0.99", "remote.retries=0")[0] == 1  # nothing assessed passes no gate


def test_what_could_not_be_assessed_is_neither_fixed_nor_known_before(
    run: Path, tmp_path: Path, against: Any, capsys: Any
) -> None:
    folder, junit = tmp_path / "suite", tmp_path / "x.xml"
    against(always)
    make_suite([run], folder, samples=20)
    against(never, lost=2)  # of 20 samples two got no reply
    code, _, err = call(capsys, "retest", str(folder), "--fail-over", "0.5", "--junit", str(junit))
    assert (code, "4 of 4 cases could not be assessed" in err) == (1, True)
    found = RetestFile.read(folder / "retest.json")
    assert {row.outcome for row in found.cases} == {"unassessed"}
    assert (found.totals.share, found.cases[0].share, found.cases[0].assessed) == (None, 0.0, 18)
    assert ElementTree.fromstring(junit.read_text()).get("errors") == "4"  # noqa: S314
    against(never)
    later = retest(folder, against=folder / "retest.json")
    assert {row.outcome for row in later.cases} == {"passing"}  # nothing is known of before, so nothing was fixed
    against(always)
    again = retest(folder, against=folder / "retest.json")
    assert {row.outcome for row in again.cases} == {"still failing"}
    against(never, lost=1)
    assert {row.outcome for row in retest(folder).cases} == {"fixed"}  # one of 20 may be missing
    against(lambda row, key: "number 0" in row[0], lost=5)
    code, _, err = call(capsys, "retest", str(folder), "--fail-over", "1")
    assert (code, "3 of 4 cases could not be assessed" in err) == (1, True)
    against(always, lost=5)
    code, _, err = call(capsys, "retest", str(folder), "--fail-over", "1")
    assert (code, "20 of 80 samples could not be assessed, more than 0.05 of them" in err) == (1, True)


def test_no_sample_that_fails_is_no_certainty(run: Path, tmp_path: Path, against: Any, capsys: Any) -> None:
    """None of four cases: 1 − 0.025^(1/4) by the exact binomial interval. Missed by chance: (1 − 1/10)^10 = 0.35."""
    folder = tmp_path / "suite"
    against(lambda row, key: key % 10 == 0)
    made = make_suite([run], folder, samples=10)
    rare = sum(0 < case.at_first.failed <= 2 for case in made.cases)
    assert rare
    against(never)
    code, _, err = call(capsys, "retest", str(folder), "--fail-over", "0")
    assert (code, f"note: {rare} of" in err) == (0, True)
    totals = RetestFile.read(folder / "retest.json").totals
    assert (totals.share, totals.ci) == (0.0, pytest.approx([0.0, 1 - 0.025**0.25]))
    against(always)
    assert retest(folder).totals.ci == pytest.approx([0.025**0.25, 1.0])


def test_other_judges_are_not_compared(run: Path, tmp_path: Path, against: Any) -> None:
    folder = tmp_path / "suite"
    against(always)
    make_suite([run], folder, samples=1)
    for override in ("evaluation.threshold=0.99", "scorer.spec=word:plum", "evaluation.scorers=[word:plum]"):
        with pytest.raises(UserError, match=rf"judged otherwise \({override.partition('=')[0]} "):
            retest(folder, [override])
    first = retest(folder)
    first.write(tmp_path / "first.json")
    settings = json.loads((tmp_path / "first.json").read_text())
    settings["config"]["settings"]["evaluation"]["threshold"] = 0.9
    (tmp_path / "other.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="judged otherwise"):
        compare(folder, tmp_path / "other.json", tmp_path / "first.json")
    assert retest(folder, ["evaluation.threshold=0.9"], against=tmp_path / "other.json").against.endswith("other.json")


def test_a_suite_is_made_with_the_model_that_failed(run: Path, tmp_path: Path, against: Any) -> None:
    against(always)
    summary = json.loads((run / "summary.json").read_text())
    summary["config"]["defender_sha256"] = "of before"
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "weights_sha256", lambda self: "of now")
        with pytest.raises(UserError, match="now has other weights or another name"):
            make_suite([run], tmp_path / "suite")
        patch.setattr(Model, "weights_sha256", lambda self: "of before")
        make_suite([run], tmp_path / "suite", samples=1)


def test_nothing_to_test_with_passes_no_gate(run: Path, tmp_path: Path, against: Any, capsys: Any) -> None:
    folder = tmp_path / "suite"
    against(never)
    made = make_suite([run], folder, samples=1)
    every = [case.model_copy(update={"trained_on": True}) for case in made.cases]
    made.model_copy(update={"cases": every}).write(folder / SUITE)
    code, _, err = call(capsys, "retest", str(folder), "--fail-over", "1")
    assert (code, "no test of it" in err) == (1, True)
    made.model_copy(update={"cases": []}).write(folder / SUITE)
    assert call(capsys, "retest", str(folder), "--fail-over", "1")[0] == 2
