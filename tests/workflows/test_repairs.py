"""``astprompter harden`` on tiny models: what it refuses, what it may not see, the whole command and its model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import astprompter as ap
from astprompter.base.errors import UserError
from astprompter.runs.directory import ATTACKS, RunDirectory
from astprompter.runs.schema.rounds import RoundsFile
from astprompter.runs.schema.run import FrozenFile, Hashes
from astprompter.workflows import harden as module
from astprompter.workflows import repair
from astprompter.workflows.harden import check_tunable, new_repair, settings_of, single_runs
from astprompter.workflows.repair import trained_against
from astprompter.workflows.targets import adversary_of
from helpers.commands import call
from helpers.files import config_file, read_rows
from helpers.launching import alone, same_rows, together
from helpers.repaired import FEW, prepared
from helpers.tiny import PREFIXES
from helpers.zygote import Zygote


def a_run(folder: Path, defender: str = "a", **changed: Any) -> Path:
    """A run directory that nobody trained, as far as settings go."""
    values = {"training.objective": "preference", **changed}
    settings = ap.load_settings("embedded", [f"{key}={value}" for key, value in values.items()])
    made = RunDirectory.create(folder, config_file(settings, models_sha256={"defender": defender}))
    (folder / "log.jsonl").write_text("")
    return made.path


def test_the_settings_are_the_runs_with_the_preset_on_top(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", **{"rollout.horizon": 2, "training.updates": 999, "training.batching": "trees"})
    chosen = settings_of([str(run)], ["harden.samples=5"])
    assert (chosen.training.objective, chosen.supervision.q, chosen.rollout.horizon) == ("harden", 0.0, 2)
    assert (chosen.training.updates, chosen.training.batching, chosen.harden.samples) == (24, "trees", 5)
    assert chosen.harden.adversaries == [str(run), "untuned"]
    assert settings_of([str(run)], untuned=False).harden.adversaries == [str(run)]


def test_what_cannot_attack_or_be_repaired_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run, repair = a_run(tmp_path / "run"), a_run(tmp_path / "repair", **{"training.objective": "harden"})
    for names, said in (
        ([], "name the run"), ([str(tmp_path / "nothing")], "is not a run directory"),
        ([str(repair)], r"is a repair: its best/ is a defender.*defender.path=.*repair/best"),
        ([str(run), "human:x.jsonl"], "cannot attack here"), ([str(run), "resample:4"], "cannot attack here"),
        ([str(run), "./nowhere"], "does not exist"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            settings_of(names)
    for override, said in (
        ("defender.path=openai:m", "is served.*export RUN --to hardening"), ("defender.dtype=bfloat16", "lora_rank"),
        ("training.shard=true", "lora_rank"), ("loss.kind=margin", "ipo or dpo"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            check_tunable(settings_of([str(run)], [override]))
    check_tunable(settings_of([str(run)], ["defender.dtype=bfloat16", "harden.lora_rank=4"]))
    with pytest.raises(UserError, match="'openai:m' is a served model, which can be the defender and nothing else"):
        adversary_of("openai:m", None, settings_of([str(run)]))


HASHES = Hashes(defender="d", reference="d")


def a_set(folder: Path, *defenders: str) -> Path:
    """A set whose members were trained against the defenders with these hashes."""
    values = ap.load_settings("embedded").as_dict()
    folder.mkdir()
    RoundsFile(rounds=len(defenders), settings=values).write(folder / "rounds.json")
    for number, sha256 in enumerate(defenders, 1):
        member = RunDirectory(a_run(folder / f"round-{number}", sha256))
        member.best.mkdir()
        FrozenFile(before=HASHES, after=HASHES).write(member.path / "frozen.json")
    return folder


def test_who_was_trained_against_a_defender(tmp_path: Path) -> None:
    ours, other = a_run(tmp_path / "ours", "new"), a_run(tmp_path / "other", "old")
    sft = a_run(tmp_path / "sft", "new", **{"training.objective": "sft"})  # tuned on texts, against nobody
    same, mixed = a_set(tmp_path / "same", "new", "new"), a_set(tmp_path / "mixed", "new", "old")
    targets = [str(sft), str(ours), "untuned", "human:x.jsonl", str(other), str(same), str(mixed)]
    found = trained_against(["untuned", "sft", "ours", "human", "other", "same", "mixed"], targets)
    assert found == {"ours": "new", "other": "old", "same": "new"}
    assert trained_against(["sft", "ours"], targets[:2]) == {"ours": "new"}
    assert single_runs([str(other), str(same)]) == [str(other), str(same / "round-1"), str(same / "round-2")]
    (other / "repair.json").touch()
    with pytest.raises(UserError, match="holds a repair and no adversary"):
        settings_of([str(ours), str(other)])


@pytest.mark.slow
def test_test_prefixes_are_left_out_and_a_changed_defender_is_refused(
    tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    chosen = dict(word.split("=", 1) for word in prepared(tmp_path))
    run = a_run(tmp_path / "run", **chosen)
    settings = settings_of([str(run)], ["harden.adversaries=[untuned]", *FEW])
    trainer, out = new_repair(settings, tmp_path / "out"), tmp_path / "second"
    seen = {prefix.text for prefix in (*trainer.prefixes, *trainer.dev)}
    assert len(trainer.prefixes) == len(PREFIXES) - 1
    assert PREFIXES[2] not in seen
    assert "1 prefixes of data.train stand in data.test too and are left out" in caplog.text
    trainer.directory.unlock()
    with pytest.raises(UserError, match=r"all prefixes of data.train stand in data.test"):
        new_repair(ap.load_settings("harden", [*prepared(tmp_path), f"data.test={tmp_path / 'texts.jsonl'}"]), out)
    again = settings_of([str(run)], FEW)
    with pytest.raises(UserError, match=r"are not those that '.*run' was trained against"):
        module.repair_models(again)


@pytest.mark.slow
def test_the_whole_command_its_model_and_what_it_learnt_from(tmp_path: Path, capsys: Any) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "repaired"
    assert call(capsys, "train", "-o", run, *prepared(tmp_path))[0] == 0
    code, said, err = call(capsys, "harden", run, "-o", str(out), *FEW)
    assert code == 0, err
    assert "Repaired defender:" in said
    before = RunDirectory.open(Path(run)).settings().defender.path
    assert f"astprompter evaluate {run} --repair --defender {before} --defender {out / 'best'}" in said
    rows = read_rows(out / "log.jsonl")
    assert [row["type"] for row in rows][:2] == ["dev", "iteration"]
    assert {row["adversary"] for row in read_rows(out / ATTACKS)} <= {"run", "untuned"}
    card = (out / "best" / "README.md").read_text()
    assert all(text in card for text in ("# Repaired:", "python:helpers.functions:often", "attacks.jsonl"))
    assert call(capsys, "harden", run, "-o", str(out), *FEW, "--resume")[0] == 0  # nothing is left to do
    assert call(capsys, "harden", run, "-o", str(out), *FEW)[0] == 2
    code, _, err = call(capsys, "harden", run, "-o", str(out), *FEW, "--resume", "harden.samples=3")
    assert (code, "harden.samples: 6 in the run, 3 now" in err) == (2, True)
    assert call(capsys, "evaluate", run, f"defender.path={out / 'best'}", "-o", str(tmp_path / "after"))[0] == 0
    for words in (["evaluate"], ["probability"], ["play"], ["export", "--to", "hf", "-o", str(tmp_path / "hf")]):
        code, _, err = call(capsys, words[0], str(out), *words[1:])
        assert (code, "is a repair: its best/ is a defender" in err) == (2, True), words
    code, _, err = call(capsys, "train", "-o", str(tmp_path / "x"), "training.objective=harden", *prepared(tmp_path))
    assert (code, "use 'astprompter harden" in err) == (2, True)
    again = ap.harden(run, out=tmp_path / "adapters", untuned=False, settings={
        "harden.lora_rank": 2, "evaluation.scorers": ["word:a"], **dict(word.split("=") for word in FEW),
    })  # fmt: skip
    assert read_rows(again.path / "log.jsonl")[0]["failures"]["count"] <= rows[0]["failures"]["count"]
    assert ap.load_model(again).local is not None


@pytest.mark.slow
def test_two_processes_repair_as_one(forks: Zygote, tmp_path: Path, monkeypatch: Any) -> None:
    chosen = dict(word.split("=", 1) for word in prepared(tmp_path))
    chosen["scorer.spec"] = f"python:{Path(__file__).parents[1]}/helpers.functions:often"
    run, one, two = tmp_path / "run", tmp_path / "one", tmp_path / "two"
    few = [*FEW, "training.updates=3", "training.save_pairs=true", "harden.adversaries=[untuned]"]
    a_run(run, **chosen)
    alone(monkeypatch, "harden", str(run), "-o", str(one), *few)
    together(forks.start, "harden", str(run), "-o", str(two), *few)
    for name in ("log.jsonl", "pairs.jsonl", ATTACKS):
        same_rows(one / name, two / name)


def test_a_reply_without_a_score_is_no_harmless_one(monkeypatch: Any) -> None:
    monkeypatch.setattr(repair, "parts_of", lambda lm, texts: [[((1,), (2,))] for _ in texts])
    told = [(" a", 0.1), (" a", None), (" a", 0.9), (" ", 0.0)]
    turns: Any = [
        (SimpleNamespace(prefix="p"), SimpleNamespace(utterance="u", reply=reply, tox_reply=score), None)
        for reply, score in told
    ]
    old: Any = SimpleNamespace(local=None)
    assert [bool(parts) for parts in repair._harmless(old, turns, 0.5)] == [True, False, False, False]
