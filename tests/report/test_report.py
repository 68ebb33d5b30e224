"""The report without a browser: what it says, what it leaves out, and that no text of a model can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.cli.app import main
from astprompter.report.page import templates, write_report
from astprompter.report.payload import embed
from astprompter.report.pictures import scale
from astprompter.report.read import read_runs
from astprompter.report.study import Study, studies_of
from astprompter.report.words import commands, conclusion, unmeasured
from astprompter.runs.schema.figures import AdversaryFigures
from helpers.report_runs import HOSTILE, adversary, case, comparison, write_experiment, write_run


class Page(HTMLParser):
    """Elements, attributes, visible text, and the content of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside].append(data)
        elif data.strip():
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words)).replace("\u00a0", " ")

    @property
    def data(self) -> Any:
        return json.loads(self.raw["script"][0])


def page_of(*runs: Path) -> Page:
    return Page(write_report(list(runs)).read_text("utf-8"))


def only_study(*runs: Path) -> Study:
    (study,) = studies_of(read_runs(list(runs)))
    return study


def test_the_conclusion_is_the_first_sentence(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "mine"))
    expected = "Within 3 turns, the defender’s reply was toxic for 31% [27, 35] of ordinary openings"
    expected += "; untuned 4.0% [0.0, 8.0]."
    assert page.text.index(expected) < page.text.index("All adversaries")
    assert "less likely than the untuned adversary’s: 2.08 against 2.00 nats per token (perplexity +8.3%)" in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("difference", "expected"),
    [([-0.1, 0.2], "about as likely as the untuned"), ([0.01, 0.2], "less likely than"), (None, "less likely than")],
)
def test_a_likelihood_whose_interval_holds_zero_is_no_difference(
    tmp_path: Path, difference: list[float] | None, expected: str
) -> None:
    run = write_run(tmp_path / "mine")
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    summary["comparisons"][0]["nll"]["mean"]["ci"] = difference
    (run / "summary.json").write_text(json.dumps(summary))
    assert expected in page_of(run).text


@pytest.mark.slow
def test_every_section_of_the_issue_is_there(tmp_path: Path) -> None:
    text = write_report([write_run(tmp_path / "mine"), write_run(tmp_path / "no-likelihood", reward={"lambda": 0})])
    page = Page(text.read_text("utf-8"))
    for words in ("Vendi score", "What the failures are about", "What each change does", "Dev reward", "Reward terms",
                  "Margin", "Speed", "Likelihood turn by turn", "Iteration 11", "What was not measured",
                  "Paired on the same prefixes", "replies > 0.5, points", "+11.0 [+5.0, +17.0]", "7.8 [3.0, 12.0]",
                  "+8.3%", "reward.lambda=0"):  # fmt: skip
        assert words in page.text, words
    assert len([tag for tag, _ in page.tags if tag == "svg"]) > 12
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for tag, attrs in page.tags if tag == "svg")


def test_missing_pieces_are_left_out_with_a_plain_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", modern=False)
    text = page_of(run).text
    assert "holds no diversity figures" in text
    assert "does not group failures by strategy" in text
    assert "kept no rollout trees" in text
    for name in ("summary.json", "failures.jsonl", "trajectories.jsonl"):
        (run / name).unlink()
    page = page_of(run)
    assert "has not been measured yet" in page.text
    assert "Dev reward" in page.text
    assert page.data["failures"] == []


def test_failures_are_ranked_and_stand_beside_the_untuned_trajectory(tmp_path: Path) -> None:
    data = page_of(write_run(tmp_path / "mine", count=5)).data
    nlls = [row[2] for row in data["failures"]]
    assert len(nlls) == 5
    assert nlls == sorted(nlls)
    for row in data["failures"]:
        own, base = data["trajectories"][row[5]], data["trajectories"][row[6]]
        assert own[0] == base[0]
        assert "mine" in own[1][0][1]
        assert "untuned" in base[1][0][1]
        utterance, _, lengths, logprobs = own[1][0][:4]
        assert sum(lengths) == len(utterance)
        assert len(lengths) == len(logprobs) == 4


def test_a_token_outside_the_basic_plane_counts_two_units(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=1, text="🙂")
    turn = page_of(run).data["trajectories"][0][1][0]
    assert turn[2] == [2, 3, 4, 4]  # " 🙂" is a space and a surrogate pair


@pytest.mark.slow
def test_same_files_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    first = write_report([run]).read_bytes()
    (run / "report.html").unlink()
    assert write_report([run]).read_bytes() == first
    assert write_report([run], form="md").read_bytes() == write_report([run], form="md").read_bytes()


def test_hostile_text_stays_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=3, text=HOSTILE)
    config = json.loads((run / "summary.json").read_text())
    config["config"] |= {"defender": HOSTILE, "scorer": HOSTILE}
    config["adversaries"][HOSTILE] = adversary(0.1, 2.0, count=0, failed=0)
    (run / "summary.json").write_text(json.dumps(config))
    source = write_report([run]).read_text("utf-8")
    page = Page(source)
    assert len(page.raw["script"]) == 2
    assert not [attrs for tag, attrs in page.tags if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert not [attrs for _, attrs in page.tags if "style" in attrs or "src" in attrs]
    assert HOSTILE in page.data["failures"][0][7]
    assert "49" not in re.findall(r"\{\{ (.*?) \}\}", page.text)
    assert "{{ 7 * 7 }}" in page.text
    raw = page.raw["script"][0]
    assert raw.isascii()
    assert not set(raw) & set("<>&")


@pytest.mark.parametrize("text", [HOSTILE, "\ud800 lone", "a & b", "</SCRIPT>", "<!--", "\x00"])
def test_embedded_json_reads_back_and_holds_no_markup(text: str) -> None:
    raw = embed([text])
    assert json.loads(raw) == [text]
    assert not set(raw) & set("<>&\u2028\u2029")


def test_the_policy_allows_only_the_pages_own_script_and_style(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "mine"))
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name, content in (("script-src", page.raw["script"][1]), ("style-src", page.raw["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert "unsafe" not in str(policy)
    assert not re.search(r"https?://", page.raw["style"][0] + page.raw["script"][1])


@pytest.mark.slow
def test_no_model_text_is_in_the_visible_source(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", text="pomegranate")
    assert "pomegranate" not in page_of(run).text
    markdown = write_report([run], form="md").read_text("utf-8")
    assert "pomegranate" not in markdown
    assert "▒▒▒▒" in markdown


def test_markdown_holds_the_conclusion_and_tables_and_escapes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=2)
    summary = json.loads((run / "summary.json").read_text())
    summary["adversaries"]["a|b\x1b[2J<i>\n# c"] = adversary(0.1, 2.0, count=0, failed=0)
    (run / "summary.json").write_text(json.dumps(summary))
    text = write_report([run], form="md").read_text("utf-8")
    assert text.startswith("# Within 3 turns")
    assert "| mine | 31.0% \\[27.0, 35.0\\] | 31.0% | 32.0% | 15.5% \\[13.5, 18.5\\] |" in text
    assert "a\\|b·\\[2J\\<i\\>⏎\\# c" in text
    assert "\x1b" not in text
    assert text.count("\n# ") == 0


@pytest.mark.slow
def test_several_runs_join_and_equal_baselines_show_once(tmp_path: Path) -> None:
    write_run(tmp_path / "study" / "full" / "seed-0", share=0.2)
    write_run(tmp_path / "study" / "full" / "seed-1", share=0.18)
    write_run(tmp_path / "study" / "beta-0" / "seed-0", share=0.05, reward={"beta": 0})
    (tmp_path / "study" / "experiment.json").write_text("{}")
    study = only_study(tmp_path / "study")
    assert [a.label for a in study.adversaries] == ["beta-0/seed-0", "untuned", "full/seed-0", "full/seed-1"]
    assert [a.slot for a in study.adversaries] == [0, 1, 2, 3]
    assert "full/seed-1" in page_of(tmp_path / "study").text


def measured_alone(place: Path, *, called: str) -> None:
    """Leave a run's own adversary only, as an experiment measures it, under a name of the evaluation's own."""
    for file in ("trajectories.jsonl", "failures.jsonl"):
        rows = [json.loads(line) for line in (place / file).read_text().splitlines()]
        kept = [{**row, "adversary": called} for row in rows if row["adversary"] == place.name]
        (place / file).write_text("".join(json.dumps(row) + "\n" for row in kept))
    summary = json.loads((place / "summary.json").read_text())
    summary |= {"adversaries": {called: summary["adversaries"][place.name]}, "comparisons": []}
    (place / "summary.json").write_text(json.dumps(summary))


def test_an_experiment_gives_its_pooled_figures(tmp_path: Path) -> None:
    study = tmp_path / "paper"
    study.mkdir()
    for seed in (0, 1):
        for name in ("untuned", "ours", "no-turn"):
            place = tmp_path / "evaluations" / "small-vs-small" / f"seed-{seed}" / name
            write_run(place, count=3, text=f"seed{seed}")
            measured_alone(place, called="x")
    pairs = [("ours", "untuned"), ("no-turn", "untuned"), ("untuned", "ours"), ("no-turn", "ours")]
    rows = {name: adversary(share, 2.0, seeds=(0, 1))
            for name, share in (("untuned", 0.02), ("no-turn", 0.05), ("ours", 0.155))}  # fmt: skip
    rows["no-turn"]["changes"] = {"reward.beta": 0.0}
    cases = {"small-vs-small": case("small", rows, [comparison(*pair) for pair in pairs])}
    write_experiment(study, cases, ["experiment", "paper", "--out", str(tmp_path)])
    page = page_of(study)
    assert "31% [27, 35]" in page.text
    assert "reward.beta=0.0" in page.text
    assert "no-turn − ours" in page.text
    assert "everything here is seed" not in page.text
    assert f"astprompter experiment paper --out {tmp_path}" in page.text
    assert f"{tmp_path}/evaluations/small-vs-small/seed-0/ours --to hardening" in page.text
    ours = [row for row in page.data["failures"] if row[0] == 0]
    assert len(ours) == 6  # three of each seed
    for row in ours:
        own, base = (page.data["trajectories"][row[place]] for place in (5, 6))
        assert own[1][0][0] == base[1][0][0]  # the untuned trajectory of the same seed


def test_pairs_of_an_experiment_show_their_own_texts_and_how_to_repeat_them(tmp_path: Path) -> None:
    cases = {}
    for defender in ("small", "large"):
        for name in ("untuned", "ours"):
            place = tmp_path / "evaluations" / f"small-vs-{defender}" / "seed-0" / name
            write_run(place, count=2, text=defender)
            measured_alone(place, called=name)
        rows = {name: adversary(share, 2.0) for name, share in (("untuned", 0.02), ("ours", 0.155))}
        cases[f"small-vs-{defender}"] = case(defender, rows, level=0.995, likelihood="likelihood of tiny")
    (tmp_path / "paper").mkdir()
    write_experiment(tmp_path / "paper", cases, ["experiment", "mine.yaml", "seeds=[0]", "--out", "x y"])
    page = page_of(tmp_path / "paper")
    assert len(page.data["failures"]) == 8
    for row in page.data["failures"]:
        label = page.data["adversaries"][row[0]][0]
        word = "large" if "large" in label else "small"
        for place in (5, 6):
            if row[place] >= 0:  # its own trajectory, and that of its own defender's untuned adversary
                assert word in json.dumps(page.data["trajectories"][row[place]])
    assert "99.5" in page.text
    assert "Likelihood bylikelihood of tiny" in page.text
    assert "By the likelihood of tiny, the text that does it" in page.text
    assert "astprompter experiment mine.yaml 'seeds=[0]' --out 'x y'" in page.text
    assert "2 measurements on different things" in page.text
    assert page.text.count("All adversaries on the same openings") == 2
    assert page.text.index("Measurement 1: defender small (small)") < page.text.index("Measurement 2: defender large")


def test_accumulated_turns_are_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text().splitlines()]
    (run / "trajectories.jsonl").write_text(
        "".join(json.dumps({**row, "accumulated": row["adversary"] == "mine"}) + "\n" for row in rows)
    )
    data = page_of(run).data
    assert {data["trajectories"][row[5]][2] for row in data["failures"]} == {True}
    assert {data["trajectories"][row[6]][2] for row in data["failures"]} == {False}


def test_an_evaluation_alone_tells_its_whole_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", data={"test": "mine.jsonl"}, loss={"tau": 0.05})
    (run / "config.json").unlink()
    summary = json.loads((run / "summary.json").read_text())
    del summary["adversaries"]["untuned"]
    summary["comparisons"] = []
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "failures.jsonl").unlink()
    page = page_of(run)
    assert "data.test=mine.jsonl" in page.text
    assert "--preset" in page.text
    assert "--no-baseline" in page.text
    assert "not in the folder (failures.jsonl)" in page.text
    assert "Repair the model" not in page.text


def test_the_untuned_adversary_of_another_defender_is_no_baseline(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    for run, defender in ((one, "a"), (two, "b")):
        summary = json.loads((run / "summary.json").read_text())
        summary["config"]["defender_sha256"] = defender
        if run == one:
            del summary["adversaries"]["untuned"]
            summary["comparisons"] = []
        (run / "summary.json").write_text(json.dumps(summary))
    first, second = studies_of(read_runs([one, two]))
    assert first.untuned is None
    assert second.untuned is not None


def measured_on(run: Path, **changes: Any) -> None:
    """Change what an evaluation was measured on: fields of its ``config``, and settings by dotted key."""
    summary = json.loads((run / "summary.json").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            summary["config"]["settings"][section][name] = value
        else:
            summary["config"][key] = value
    (run / "summary.json").write_text(json.dumps(summary))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"defender": "large"},
        {"rollout__horizon": 2},
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in (
                {"scorer": "word pear"},
                {"prefixes": {"source": "others.jsonl", "count": 101}},
                {"prefixes": {"source": "openings.jsonl", "count": 8}},
                {"likelihood": "stand-in (tiny)"},
                {"rollout__temperature": 1.0},
                {"evaluation__scorers": ["word:x"]},
                {"evaluation__level": 0.9},
            )
        ),
    ],
)
def test_what_was_measured_on_different_things_is_never_mixed(tmp_path: Path, change: dict[str, Any]) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", share=0.3, text="plum")
    third = write_run(tmp_path / "third", share=0.1)
    measured_on(two, **change)
    first, second = studies_of(read_runs([one, two, third]))
    assert [a.run.name for a in first.adversaries if a.key != "untuned"] == ["one", "third"]
    assert [a.run.name for a in second.adversaries] == ["two", "two"]
    key, _, name = next(iter(change)).partition("__")
    assert (f"{key}.{name}" if name else key) in second.basis
    page = page_of(one, two, third)
    for words in ("Measurement 1: ", "Measurement 2: ", "toxic for 31% [27, 35]", "toxic for 60% [56, 64]"):
        assert words in page.text
    tables = page.text.split("All adversaries on the same openings")
    assert len(tables) == 3
    assert "60.0%" not in tables[1].split("Measurement 2")[0]
    for row in page.data["failures"]:
        beside = json.dumps(page.data["trajectories"][row[6]])  # the untuned adversary of the same measurement
        assert ("plum" in beside) == (page.data["adversaries"][row[0]][0] == "two")
    text = write_report([one, two, third], form="md").read_text("utf-8").replace("\\", "")
    assert "\n## " + second.basis in text


def test_what_differs_only_at_its_end_or_is_empty_is_told_apart(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    first, second = "a" * 63 + "b", "a" * 63 + "c"
    measured_on(one, defender_sha256=first, likelihood__path="")
    measured_on(two, defender_sha256=second, likelihood__path="proxy")
    bases = [study.basis for study in studies_of(read_runs([one, two]))]
    assert [f"weights {digest}" in basis for digest, basis in zip((first, second), bases, strict=True)] == [True, True]
    assert ["likelihood.path ''" in bases[0], "likelihood.path proxy" in bases[1]] == [True, True]


def test_equal_weights_and_texts_under_other_names_are_the_same(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", share=0.3)
    for run, name in ((one, "here"), (two, "there")):
        prefixes = {"source": f"{name}.jsonl", "count": 101, "sha256": "b"}
        measured_on(run, defender=name, defender_sha256="a", prefixes=prefixes)
    assert [a.label for a in only_study(one, two).adversaries] == ["one", "untuned", "two"]


@pytest.mark.slow
def test_every_setting_that_differs_is_shown_and_every_run_can_be_made_again(tmp_path: Path) -> None:
    changes = {"reward": {"alpha": 0.5, "beta": 0.1}, "loss": {"tau": 0.3}, "training": {"updates": 48}, "seed": 3}
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", share=0.3, **changes)]
    differing = ("reward.alpha=0.5", "reward.beta=0.1", "loss.tau=0.3", "training.updates=48", "seed=3")
    page = page_of(*runs).text
    markdown = write_report(runs, form="md").read_text("utf-8").replace("\\", "")
    for text in (page.split("How varied the attacks are")[0], markdown.split("## Reproduce")[0]):
        for words in differing:
            assert words in text, words
    for text in (page, markdown):
        for run in runs:
            assert f"astprompter evaluate {run}" in text
        assert f"astprompter report {runs[0]} {runs[1]}" in text


def test_different_baselines_keep_their_run(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    summary = json.loads((two / "summary.json").read_text())
    summary["adversaries"]["untuned"] = adversary(0.03, 2.0, count=30, failed=0)
    (two / "summary.json").write_text(json.dumps(summary))
    assert [a.label for a in only_study(one, two).adversaries] == ["one", "untuned", "untuned (two)", "two"]


def test_nothing_to_compare_with_and_nothing_assessed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    summary = json.loads((run / "summary.json").read_text())
    del summary["adversaries"]["untuned"]
    summary["comparisons"] = []
    (run / "summary.json").write_text(json.dumps(summary))
    assert conclusion(only_study(run))[0].endswith("31% [27, 35] of ordinary openings.")
    summary["adversaries"]["mine"]["failure_within_horizon"] |= {"share": None, "ci": None, "assessed": 0}
    (run / "summary.json").write_text(json.dumps(summary))
    assert "nothing to conclude" in page_of(run).text


def test_commands_make_the_run_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "my run", training={"updates": 48}, loss={"tau": 0.2})
    train, evaluate, report = commands([only_study(run)])
    assert train.startswith("astprompter train --preset ")
    assert "training.updates=48" in train
    assert "loss.tau=0.2" in train
    assert evaluate == f"astprompter evaluate '{run}'"
    assert report == f"astprompter report '{run}'"
    from astprompter.config import load_settings

    words = train.split("'")[-1].split()
    assert load_settings(train.split()[3], words).training.updates == 48


def test_what_was_not_measured_names_errors_and_seed(tmp_path: Path) -> None:
    notes = " ".join(unmeasured(only_study(write_run(tmp_path / "mine"))))
    assert "word banana" in notes
    assert "2 turns of 'mine' that could not be assessed (1 prefixes" in notes
    assert "seed 0" in notes


@pytest.mark.slow
def test_a_log_that_is_still_written_is_read_to_its_last_whole_row(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    before = page_of(run).raw
    with (run / "log.jsonl").open("a") as file:
        file.write('{"type": "iter')
    notes: list[str] = []
    assert Page(write_report([run], note=notes.append).read_text("utf-8")).raw == before
    assert len(notes) == 1
    assert "log.jsonl', line 10: the last line is torn and left out" in notes[0]
    with pytest.raises(UserError, match=r"log\.jsonl', line 10: the last line is torn"):
        write_report([run])


def change_summary(run: Path, **changes: Any) -> None:
    content = json.loads((run / "summary.json").read_text("utf-8"))
    (run / "summary.json").write_text(json.dumps(content | changes))


def damage(run: Path, name: str, line: int, text: str) -> None:
    lines = (run / name).read_text("utf-8").split("\n")
    lines[line - 1] = text
    (run / name).write_text("\n".join(lines), "utf-8")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda run: [p.unlink() for p in run.iterdir()], "is not a run directory"),
        (lambda run: damage(run, "failures.jsonl", 2, "{"), "failures.jsonl', line 2: not valid JSON"),
        (lambda run: damage(run, "log.jsonl", 3, "nonsense"), "log.jsonl', line 3: not valid JSON"),
        (
            lambda run: damage(run, "trajectories.jsonl", 1, "[]"),
            "trajectories.jsonl', line 1: Input should be a valid dictionary",
        ),
        (
            lambda run: change_summary(run, format=1),
            "summary.json' was written by another version of astprompter (format 1",
        ),
        (lambda run: (run / "summary.json").write_text("[1]"), "summary.json': Input should be a valid dictionary"),
        (lambda run: (run / "summary.json").write_text("{"), "cannot read"),
        (lambda run: change_summary(run, adversaries={}), "lists no adversaries"),
        (
            lambda run: change_summary(run, adversaries={"mine": {}}),
            "'adversaries.mine.nll': Field required",
        ),
        (lambda run: (run / "failures.jsonl").write_bytes(b"\xff\n"), "failures.jsonl', line 1: not UTF-8"),
        (lambda run: (run / "report.html").mkdir(), "is a folder; name a file with --out"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(tmp_path: Path, capsys: Any, harm: Any, message: str) -> None:
    run = write_run(tmp_path / "mine", count=3)
    harm(run)
    sys.argv = ["astprompter", "report", str(run)]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_command_writes_where_it_says(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "mine", count=3)
    sys.argv = ["astprompter", "report", str(run), "--out", str(tmp_path / "a" / "page.md"), "--format", "md"]
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert (tmp_path / "a" / "page.md").read_text().startswith("# Within")
    assert "page.md" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown format 'pdf'"):
        write_report([run], form="pdf")


def test_scales_and_shapes() -> None:
    x = scale([0.0, 10.0], 100, 200, pad=0)
    assert (x(0), x(5), x(10)) == (100, 150, 200)
    assert x.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert scale([3.0], 0, 1)(3.0) == pytest.approx(0.5)  # one value: the middle, no division by zero
    draw: Any = templates().get_template("pictures.html").module
    assert "&lt;b&gt;&amp;</text>" in draw.text(1, 1, "<b>&")
    assert 'x1="0" y1="0" x2="1.2" y2="2"' in draw.line(0, -0.01, 1.25, 2, "axis")
    shown = AdversaryFigures.of(adversary(0.155, 2.0))
    waffle = draw.waffle(SimpleNamespace(label='a "title"', slot=3, figures=shown))
    assert 'aria-label="31 of 100 openings end in a toxic reply with a &#34;title&#34;"' in waffle
    assert (waffle.count('class="mark s3"'), waffle.count('class="hole"')) == (31, 69)


def test_confirmed_failures_come_first_and_the_share_stands_in_the_tables(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=4)
    lines = (run / "failures.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"confirmed": number in (1, 3)} for number, line in enumerate(lines)]
    (run / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((run / "summary.json").read_text())
    mine = summary["adversaries"]["mine"]
    share = mine["tox_reply"] | {"share": 0.0777, "share_ci": [0.06, 0.09]}
    share = {key: value for key, value in share.items() if key not in ("per_turn", "by_seed", "seed_std")}
    mine["confirmed"] = {"tox_reply": share, "failure_within_horizon": mine["failure_within_horizon"]}
    (run / "summary.json").write_text(json.dumps(summary))
    page = page_of(run)
    assert [row[12] for row in page.data["failures"]] == [True, True, False, False]
    assert [row[2] for row in page.data["failures"]] == [1.001, 1.003, 1.0, 1.002]
    markdown = write_report([run], form="md").read_text("utf-8").replace("\\", "")
    for text in (page.text, markdown):
        assert "7.8%" in text
        assert "confirmed ones first" in text
    assert "2 of these failures are confirmed" in page.text
    assert [line.split(" | ")[5] for line in markdown.splitlines() if "▒" in line] == ["yes", "yes", "no", "no"]


@pytest.mark.slow
def test_shares_at_other_thresholds_and_kinds_of_reply_stand_beside_the_shares(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    summary = json.loads((run / "summary.json").read_text())
    summary["adversaries"]["mine"]["reply_kinds"] |= {"blocked": 17, "refused": 23, "cut": 5}
    (run / "summary.json").write_text(json.dumps(summary))
    page, markdown = page_of(run).text, write_report([run], form="md").read_text("utf-8").replace("\\", "")
    for text in (page, markdown):
        for words in ("How much it depends on the threshold", "replies > 0.3", "replies > 0.7", "failed prefixes > 0.3",
                      "18.6%", "7.8%", "37.2%", "refused", "blocked", "17", "23",
                      "taken away by a content filter, in no share and no error", "at least", "at most"):  # fmt: skip
            assert words in text, words


def test_distinct_failures_stand_in_a_table_and_on_a_map(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "mine", count=10))
    assert "Distinct failures" in page.text
    assert "4 [3, 5]" in page.text
    assert "4 kinds of first failures" in page.text
    assert sum(tag == "circle" and "dot" in str(kind.get("class")) for tag, kind in page.tags) == 10
    examples = [int(kind["data-example"] or -1) for tag, kind in page.tags if tag == "li" and "data-example" in kind]
    assert examples == [0, 1, 2, 3]  # clusters 1 and 2 have three failures, then 3 and 4, each at its first one
    assert "mine 3" in page.text


def test_there_is_no_map_without_places(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=10)
    rows = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    for row in rows:
        del row["place"]
    (run / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "kinds of first failures" not in page_of(run).text
