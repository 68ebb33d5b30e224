"""A sample of replies is drawn, judged by people in the terminal or in a table, and corrects the shares."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.runs.schema.labels import LabelsFile
from astprompter.runs.schema.summary import Summary
from astprompter.workflows.label import Sample, correct, draw, read_replies
from helpers.commands import call
from helpers.report_runs import write_run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: Any) -> Path:
    """Two adversaries, 180 replies of each; a third of those of 'mine' score above 0.5."""
    return write_run(tmp_path_factory.mktemp("runs") / "mine", count=60)


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    for name in ("summary.json", "trajectories.jsonl", "failures.jsonl"):
        (tmp_path / name).write_bytes((evaluated / name).read_bytes())
    return tmp_path


def test_the_sample_is_of_every_adversary_and_every_stratum_in_random_order(run: Path) -> None:
    summary, replies = read_replies(run)
    file = draw(replies, 40, scorer=summary.config.scorer, seed=0)
    assert Counter(label.adversary for label in file.labels) == {"untuned": 40, "mine": 40}
    scores = {reply.id: reply.score for reply in replies}
    assert sum(scores[label.id] > 0.5 for label in file.labels if label.adversary == "mine") >= 10
    assert [label.adversary for label in file.labels[:40]] != ["untuned"] * 40
    larger = draw(replies, 60, scorer=summary.config.scorer, seed=0)
    assert {label.id for label in file.labels} < {label.id for label in larger.labels}
    with pytest.raises(UserError, match="no assessed reply of an adversary 'ours'; there are: untuned, mine"):
        draw(replies, 9, scorer="s", seed=0, adversary="ours")


def test_who_judges_sees_the_text_before_but_neither_score_nor_adversary(run: Path) -> None:
    sample = Sample.open(run, run / "labels.json", 5)
    lines: list[str] = []
    sample.ask(["y", "n", "b", "what", "y", "s", "q"], lines.append, show=str)
    said = "\n".join(lines)
    assert said.count("REPLY: ") == 7
    assert "The opening number" in said
    assert not any(word in said for word in ("0.5", "0.1", "score", "adversary"))
    labels = LabelsFile.read(run / "labels.json").labels
    assert [label.toxic for label in labels[:4]] == [True, True, None, None]  # gone back, the second was changed
    again = Sample.open(run, run / "labels.json", 8)
    assert (again.done, len(again.file.labels)) == (2, 16)  # what was said is kept, and the sample enlarged


@pytest.mark.slow
def test_by_the_command_line_with_a_table(run: Path, tmp_path: Path, capsys: Any) -> None:
    table = run / "sample.csv"
    code, out, err = call(capsys, "label", str(run), "-n", "100", "--export", str(table))
    assert code == 0, err
    assert "wrote 200 replies" in out
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert list(rows[0]) == ["id", "before", "reply", "toxic"]
    for row in rows:
        row["toxic"] = "yes" if "reply1" in row["reply"] else "no"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")  # as a spreadsheet may save it
        writer.writeheader()
        writer.writerows(rows[::-1])
    code, out, err = call(capsys, "label", str(run), "--import", str(table))
    assert code == 0, err
    assert "200 of 200 replies are judged" in out
    code, out, err = call(capsys, "evaluate", str(run), "--labels", str(run / "labels.json"))
    assert code == 0, err
    assert "corrected by what people said" in " ".join(out.split())
    summary = Summary.read(run / "summary.json")
    assert summary.labels is not None
    mine = summary.labels.adversaries["mine"]
    assert (mine.labels, mine.raw.value) == (100, summary.adversaries["mine"].tox_reply.share)
    assert mine.share is not None
    assert mine.share.value is not None
    assert mine.share.ci is not None
    truth = sum(f"reply{i}".startswith("reply1") for i in range(60)) / 60
    assert mine.share.ci[0] < truth < mine.share.ci[1]
    assert mine.difference is not None
    assert summary.labels.adversaries["untuned"].difference is None
    assert sum(stratum.replies for stratum in mine.strata) == 180
    half = f"{(mine.raw.value + mine.share.value) / 2:.4f}"  # between what the scorer says and what people say
    for gate, code in ((f"replies={half}", 3 if mine.share.value > mine.raw.value else 0), ("prefixes=1", 0)):
        given = ["--labels", str(run / "labels.json"), "--fail-over", gate, "--junit", str(run / "gates.xml")]
        found, _, err = call(capsys, "evaluate", str(run), *given)
        assert found == code, err
        told = f"mine {mine.share.value:.4f} (corrected by 100 labels; {mine.raw.value:.4f} by the scorer alone; "
        assert (told in err) == (told in (run / "gates.xml").read_text("utf-8")) == gate.startswith("replies")
    assert call(capsys, "report", str(run), "-o", str(run / "page.html"))[0] == 0
    assert call(capsys, "report", str(run), "--format", "md", "-o", str(run / "page.md"))[0] == 0
    code, _, err = call(capsys, "export", str(run), "--to", "hf", "-o", str(tmp_path / "export"))
    assert code == 0, err
    corrected = f"{100 * mine.share.value:.1f}%"
    for text in (run / "page.html", run / "page.md", tmp_path / "export" / "README.md"):
        _, _, below = text.read_text("utf-8").partition("Toxic replies, corrected by what people said")
        assert corrected in below
    code, _, err = call(capsys, "evaluate", str(run), "seed=3", "--labels", str(run / "labels.json"))
    assert code == 2
    assert "settings would change nothing" in err


def test_a_share_of_few_labels_is_not_corrected(run: Path) -> None:
    sample = Sample.open(run, run / "labels.json", 20)
    sample.ask(["n"] * 40, lambda line: None, show=str)
    section = correct(run, run / "labels.json").labels
    assert section is not None
    assert [row.share for row in section.adversaries.values()] == [None, None]
    assert [row.labels for row in section.adversaries.values()] == [20, 20]


def test_labels_of_another_evaluation_or_scorer_are_refused(run: Path, tmp_path: Path) -> None:
    Sample.open(run, run / "labels.json", 5).save()
    rows = (run / "trajectories.jsonl").read_text("utf-8")
    (run / "trajectories.jsonl").write_text(rows.replace(" pear", " plum"), "utf-8")
    with pytest.raises(UserError, match=r"10 of 10 labels of .* are of replies that are not in this evaluation"):
        correct(run, run / "labels.json")
    (run / "trajectories.jsonl").write_text(rows, "utf-8")
    summary = json.loads((run / "summary.json").read_text())
    summary["config"]["scorer"] = "another"
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="was drawn by the scores of 'word banana'"):
        Sample.open(run, run / "labels.json", 5)
    with pytest.raises(UserError, match=r"has no evaluation \(summary\.json and trajectories\.jsonl\)"):
        correct(tmp_path / "elsewhere", run / "labels.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has no columns 'id' and 'toxic'"),
        ("id,toxic\nnobody,yes\n", "line 2: 'nobody' is not a reply of this sample"),
        ("id,toxic\nID,perhaps\n", "line 2: 'perhaps' is neither yes nor no"),
        ("id,toxic\nID,yes\nID,\nID,no\n", "line 4: 'ID' is called both toxic and not toxic"),
        ("id,reply,toxic\nID,something else,yes\n", "line 2: the reply is not that of 'ID'"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_its_line(run: Path, text: str, message: str) -> None:
    sample = Sample.open(run, run / "labels.json", 5)
    name = sample.file.labels[0].id
    (run / "sample.csv").write_text(text.replace("ID", name))
    with pytest.raises(UserError, match=message.replace("ID", name)):
        sample.read_csv(run / "sample.csv")
    assert sample.done == 0
    (run / "sample.csv").write_text(text, "utf-16")
    with pytest.raises(UserError, match="is not UTF-8; save the file as UTF-8"):
        sample.read_csv(run / "sample.csv")


def test_a_reply_of_any_characters_comes_back_from_a_table(run: Path) -> None:
    sample = Sample.open(run, run / "labels.json", 5)
    name = sample.file.labels[0].id
    sample._replies[name] = replace(sample._replies[name], text=' =1 \u2028 "a"\r\nb\x0c')  # type: ignore[index]
    sample.write_csv(run / "sample.csv")
    text = (run / "sample.csv").read_text("utf-8")
    (run / "sample.csv").write_text(text.replace(",\n", ",yes\n").replace(",\r\n", ",yes\r\n"), "utf-8")
    sample.read_csv(run / "sample.csv")
    assert sample.done >= 9


@pytest.mark.slow
def test_labels_that_correct_nothing_are_refused(run: Path, capsys: Any) -> None:
    Sample.open(run, run / "labels.json", 5).save()
    before = (run / "summary.json").read_bytes()
    given = ("evaluate", str(run), "--labels")
    for words, said in (
        ([str(run / "labels.json")], "is judged yet, so there is nothing to correct; judge some with 'label'"),
        ([str(run / "sample.csv")], f"'label {run} --import {run / 'sample.csv'}' makes labels of it"),
        ([str(run / "labels.json"), "--replace", "--defender", "x"], "leave out --defender, --replace"),
        ([str(run / "labels.json"), "--retry-errors"], "leave out --retry-errors"),
    ):
        code, _, err = call(capsys, *given, *words)
        assert (code, said in err.replace("\n", " ")) == (2, True), err
    assert (run / "summary.json").read_bytes() == before
