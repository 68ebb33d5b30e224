"""Rounds: each is paid for failures unlike earlier ones; a set goes on where it broke off, and is measured as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import astprompter as ap
from astprompter.base.errors import UserError
from astprompter.base.vectors import hashed_vectors
from astprompter.config import Settings, settings_from
from astprompter.rollout.mixture import in_turn
from astprompter.runs.directory import RunDirectory
from astprompter.runs.rounds import failing_utterances, is_done, members_of, rounds_of, settings_in
from astprompter.runs.schema.common import save_rows
from astprompter.runs.schema.learnt import ArchiveRow
from astprompter.runs.schema.results import FailureRow
from astprompter.training.novelty import Archive
from astprompter.workflows.resume import refuse_changed
from astprompter.workflows.rounds import parts_of
from helpers.files import config_file
from helpers.report_runs import failure
from helpers.tiny import SENTENCES, make_model

SMALL = {
    "rollout.max_new_tokens": 5, "rollout.horizon": 2, "training.updates": 4, "training.pairs_per_iteration": 6,
    "training.batch_size": 3, "training.dev_every": 1, "training.dev_prefixes": 4, "training.learning_rate": 1e-3,
    "training.warmup_updates": 1, "evaluation.resamples": 100, "novelty.weight": 1.0, "evaluation.threshold": 0.0,
    "loss.kind": "margin",
}  # fmt: skip


def letters(texts: list[str]) -> list[float]:
    """Share of letters that are 'e'."""
    return [min(1.0, 3 * text.count("e") / max(1, len(text))) for text in texts]


def novel(**values: Any) -> Settings:
    return settings_from({"novelty": {"weight": 1.0, **values}})


def test_earlier_failures_are_never_pushed_out() -> None:
    archive = Archive(2, earlier=["the red goose", "a kettle", "bread"])
    assert len(archive) == 3
    archive.add(["one two three", "four five six", "seven eight"])
    assert len(archive) == 5
    vectors = hashed_vectors(["the red goose", "bread", "seven eight", "one two three"])
    found = archive.likeness(vectors, 1)
    assert found[:3].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert found[3] < 0.9


def put_run(folder: Path, chosen: Settings, utterances: list[str]) -> None:
    RunDirectory.create(folder, config_file(chosen))
    rows = [{"iteration": 1, "utterance": text, "reply": "r", "tox_reply": 0.9} for text in utterances]
    RunDirectory(folder).append("archive.jsonl", [ArchiveRow.of(row) for row in rows])


def test_where_earlier_failures_are_read(tmp_path: Path) -> None:
    put_run(tmp_path / "a", novel(), ["one", "two", "three"])
    assert failing_utterances(tmp_path / "a", 2) == ["two", "three"]
    RunDirectory.create(tmp_path / "none", config_file(novel()))
    assert failing_utterances(tmp_path / "none", 2) == []  # it looked and found none
    RunDirectory.create(tmp_path / "plain", config_file(settings_from({})))
    with pytest.raises(UserError, match=r"\(novelty\.earlier\) holds no failures"):
        failing_utterances(tmp_path / "plain", 2)
    save_rows(tmp_path / "plain" / "failures.jsonl", [FailureRow.of(failure("a", i)) for i in range(2)])
    assert failing_utterances(tmp_path / "plain", 1) == [" a pear and tea"]


def test_what_is_left_of_a_set_is_told_by_its_files(tmp_path: Path) -> None:
    out = tmp_path / "set"
    parts = parts_of(novel(), out, 3, resume=False)
    assert [part.folder.name for part in parts] == ["round-1", "round-2", "round-3"]
    assert [len(part.settings.novelty.earlier) for part in parts] == [0, 1, 2]
    assert parts[2].settings.novelty.earlier == [str(out / "round-1"), str(out / "round-2")]
    assert not any(part.resume for part in parts)
    assert settings_in(out) == novel()
    with pytest.raises(UserError, match=r"has 0 of 3 rounds; go on with 'astprompter train --out .*set --resume'"):
        members_of(out)
    RunDirectory.create(out / "round-1", config_file(parts[0].settings))
    assert [part.resume for part in parts_of(novel(), out, None, resume=True)] == [True, False, False]
    assert len(parts_of(novel(), out, 4, resume=True)) == 4  # a set may grow
    with pytest.raises(UserError, match="--rounds 3: a set has at least 4"):
        parts_of(novel(), out, 3, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        parts_of(novel(), out, 3, resume=False)
    with pytest.raises(UserError, match="is a set of adversaries; name one of its rounds"):
        RunDirectory.open(out)


def test_settings_that_a_set_cannot_have(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(UserError, match=r"--rounds needs novelty\.weight"):
        parts_of(settings_from({}), out, 2, resume=False)
    with pytest.raises(UserError, match="--rounds 1: a set has at least 2"):
        parts_of(novel(), out, 1, resume=False)
    assert not out.exists()
    with pytest.raises(UserError, match="is no set of adversaries that could go on"):
        parts_of(novel(), out, 2, resume=True)
    parts_of(novel(), out, 2, resume=False)
    longer = novel().changed(training={"updates": 20_000})
    with pytest.raises(UserError, match="cannot be trained longer"):
        parts_of(longer, out, None, resume=True)
    with pytest.raises(UserError, match=r"novelty\.weight: 1\.0 in the run, 2\.0 now"):
        parts_of(novel(weight=2.0), out, None, resume=True)


def test_other_earlier_failures_are_refused() -> None:
    now, before = config_file(novel()), config_file(novel()).model_copy(update={"data_sha256": {"earlier": "a"}})
    with pytest.raises(UserError, match="data 'earlier' changed"):
        refuse_changed(before, now)


@pytest.mark.slow
def test_a_set_in_python(tokenizer: Any, tmp_path: Path) -> None:
    def start() -> Any:
        return make_model("gpt2", len(tokenizer)), tokenizer

    defender, out = (make_model("gpt2", len(tokenizer), seed=1), tokenizer), tmp_path / "set"
    common: dict[str, Any] = {"dev": SENTENCES[4:], "out": out, "eliciting": SENTENCES}
    found = ap.train(start(), defender, letters, SENTENCES[:4], settings=SMALL, rounds=2, **common)
    assert [member.path for member in found.members] == rounds_of(out)
    assert all(map(is_done, rounds_of(out)))
    logs = [member.log for member in found.members]
    assert logs[0][0] == logs[1][0]  # the same start
    assert [row.likeness for row in logs[0]] != [row.likeness for row in logs[1]]
    assert (found.log, found.settings.novelty.weight) == ([], 1.0)
    with pytest.raises(UserError, match="name one of its rounds"):
        found.best  # noqa: B018
    (out / "round-2" / "frozen.json").unlink()  # it goes on, and has nothing left to learn
    again = ap.train(start(), defender, letters, SENTENCES[:4], resume=True, **common)
    assert [member.log for member in again.members] == logs
    result = ap.evaluate({"untuned": defender, "ours": found}, defender, letters, SENTENCES[:6])
    assert [len(paths) for paths in result.trajectories.values()] == [6, 6]
    names = {f"m{k}": member for k, member in enumerate(found.members)}
    alone = ap.evaluate(names, defender, letters, SENTENCES[:6]).trajectories
    assigned = in_turn(SENTENCES[:6], 2, seed=0)
    for row, path in enumerate(result.trajectories["ours"]):
        same = alone[f"m{assigned[path.prefix.text]}"][row]
        assert [turn.utterance.text for turn in path.turns] == [turn.utterance.text for turn in same.turns]
