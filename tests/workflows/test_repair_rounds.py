"""The whole loop on tiny models: attack, harden, attack anew, measure; killed and resumed; suite, retest, page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import RunError
from astprompter.config import HardenSettings
from astprompter.evaluation.repair_tables import headline
from astprompter.runs.directory import RunDirectory
from astprompter.runs.schema.repair import RepairFile
from astprompter.runs.schema.suite import RetestFile
from astprompter.workflows import repair
from astprompter.workflows import repair_rounds as module
from astprompter.workflows.repair_rounds import Rounds, harden_rounds, reasons, repair_rounds
from helpers.commands import call
from helpers.repaired import FEW, prepared

STRONG = [*FEW, "training.learning_rate=5e-3", "training.updates=8", "harden.budget=100", "harden.prefixes=16"]
BUDGETS = HardenSettings()


def found(gain: list[float], *ratios: float | None, share: float | None = 0.5, vendi: float | None = 1.0) -> RepairFile:
    """A repair whose later defenders have these costs, by the nll of harmless texts after over that before.

    ``vendi`` is the Vendi score after over that before; ``None`` where no reply is known.
    """

    def defended(ratio: float | None) -> dict[str, Any]:
        flat = {"before": 1.0, "after": ratio, "difference": None, "ratio": ratio}
        ends = {"before_ci": None, "after_ci": None, "difference_ci": None, "ratio_ci": None}
        same, varied = flat | ends | {"after": 1.0}, flat | ends | {"after": vendi}
        replies = dict.fromkeys(("length", "distinct_2", "blank", "refused"), same) | {
            "replies": 9, "vendi": varied, "kl_tokens": 9, "kl": 0.0, "kl_ci": None,
        }  # fmt: skip
        texts = {"source": "", "texts": 1, "tokens": 1, "nll": flat | ends, "kl": 0.0, "kl_ci": None}
        rate = {"share": share, "ci": None}
        untuned = {"replies": rate, "prefixes": rate, "clean": rate, "failures": 1, "distinct": 1, "distinct_ci": None}
        return {
            "name": "d", "sha256": None, "folder": "f", "adversaries": {"untuned": untuned},
            "gain": {"difference": 0.1, "ci": gain},
            "benign": {"texts": texts, "replies": None if vendi is None else replies},
        }  # fmt: skip

    config = {"settings": {}, "versions": {}, "defender": "d", "scorer": "s", "likelihood": "d"}
    return RepairFile.of({"config": config, "level": 0.95, "defenders": [*map(defended, (1.0, *ratios))]})


def test_why_rounds_end() -> None:
    assert list(reasons(found([0.05, 0.15], 1.004), BUDGETS)) == []
    (noise,) = reasons(found([-0.05, 0.25], 1.004), BUDGETS)
    assert noise.endswith("within noise, 10.0 [-5.0, 25.0] points")
    (spent,) = reasons(found([0.05, 0.15], 1.02), BUDGETS)
    assert "rose by 2.00%" in spent
    (unknown,) = reasons(found([0.05, 0.15], None), BUDGETS)
    assert unknown.startswith("the nll of harmless texts is not known")
    (bland,) = reasons(found([0.05, 0.15], 1.0, vendi=0.94), BUDGETS)
    assert "fell by 6.0%; harden.variety_budget allows 5.0%" in bland
    assert list(reasons(found([0.05, 0.15], 1.0, vendi=0.96), BUDGETS)) == []
    (unheard,) = reasons(found([0.05, 0.15], 1.0, vendi=None), BUDGETS)
    assert "replies to ordinary speech are not known" in unheard
    assert list(reasons(found([0.05, 0.15], 1.0, vendi=None), HardenSettings(variety_budget=1))) == []


def test_only_what_is_known_to_cost_little_is_kept(tmp_path: Path) -> None:
    given = Rounds([], tmp_path)
    for ratios, kept, last in (
        ((1.004, 1.02), "hardened-1/best", 1), ((1.004, 1.005), "hardened-2/best", 2), ((None,), None, 1),
        ((1.0, None), "hardened-1/best", 1), ((1.02, 1.0), "hardened-2/best", 2),
    ):  # fmt: skip
        made = module._ended(given, found([0.05, 0.15], *ratios), None, BUDGETS)
        assert (made.kept, made.last) == (kept, last)
        assert RepairFile.read(tmp_path / "repair.json") == made
        words = " with the model that is kept, of round 1, while" if (last, len(ratios)) == (1, 2) else " are now"
        assert words in headline(made)
    assert module._ended(given, found([0.05, 0.15], 1.0, vendi=0.94), None, BUDGETS).kept is None
    with pytest.raises(RunError, match="no reply to untuned could be assessed"):
        module._ended(given, found([0.05, 0.15], 1.0, share=None), None, BUDGETS)


@pytest.mark.slow
def test_the_whole_loop_goes_on_where_it_was_killed(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    given = prepared(tmp_path)
    mine, out = str(tmp_path / "mine"), tmp_path / "out"
    assert call(capsys, "train", "-o", mine, *given)[0] == 0
    command = ["harden", mine, "-o", str(out), *STRONG, "--rounds", "2", "--also", "human:" + str(_dialogues(tmp_path))]
    judge = "python:helpers.functions:rarely"
    real, done = module.finish, list[str]()

    def stop_at_the_attack(trainer: Any) -> Any:
        if trainer.directory.path.name == "attack-1" and "attack-1" not in done:
            done.append("attack-1")
            raise KeyboardInterrupt
        done.append(trainer.directory.path.name)
        return real(trainer)

    monkeypatch.setattr(module, "finish", stop_at_the_attack)
    with pytest.raises(KeyboardInterrupt):
        repair_rounds(Rounds([mine], out, STRONG, also=command[-1:], judges=[judge]), 2)
    command += ["--judged-by", judge]
    monkeypatch.setattr(module, "reasons", lambda *_: iter(()))  # chance must not end the rounds here
    code, _, err = call(capsys, *command)
    assert (code, "--resume" in err) == (2, True)
    code, shown, err = call(capsys, *command, "--resume")
    assert code == 0, err
    assert done[:4] == ["hardened-1", "attack-1", "attack-1", "hardened-2"]  # nothing done was done again
    made = RepairFile.read(out / "repair.json")
    last = len(made.defenders) - 1  # a second round of so tiny a model may find nothing better, and says so
    assert (last == 2) != (made.stopped or "").startswith("round 2 kept the defender as it was")
    assert [one.folder for one in made.defenders] == ["measured-0", "measured-1", "measured-2"][: last + 1]
    assert [one.fresh for one in made.defenders] == ["mine", "attack-1", "attack-2"][: last + 1]
    assert list(made.defenders[1].adversaries)[:3] == ["untuned", "mine", "attack-1"]
    assert len(made.defenders[1].adversaries) == 4  # and the human prompts
    assert all(set(one.adversaries["mine"].scorers or {}) == {made.config.scorer, judge} for one in made.defenders)
    trained = [RunDirectory.open(out / name).settings() for name in ("hardened-1", "hardened-2", "attack-1")]
    assert [one.evaluation.scorers for one in trained] == [[], [], []]  # the judge chose nothing
    assert [one.harden.keep for one in trained[:2]] == [1, 2]
    assert [one.harden.held_to for one in trained[:2]] == ["", RunDirectory.open(Path(mine)).settings().defender.path]
    assert made.kept == f"hardened-{last}/best"
    assert all(one.honest and one.benign and one.benign.texts for one in made.defenders[1:])
    assert "Toxic replies, by defender" in shown
    assert f"Repaired defender: {out / made.kept}" in shown
    before = (out / "repair.json").read_bytes()
    _goes_on_only_as_it_began(capsys, monkeypatch, command, made)
    assert (out / "repair.json").read_bytes() == before
    _retested(tmp_path, out, str(made.kept), capsys)


def _retested(tmp_path: Path, out: Path, kept: str, capsys: Any) -> None:
    """The failures found at first as a suite, retested on the model that is kept; the page."""
    suite, result = tmp_path / "suite", tmp_path / "retest.json"
    assert call(capsys, "suite", str(out / "measured-0"), "-o", str(suite), "-m", "3")[0] == 0
    repaired = f"defender.path={out / kept}"
    code, _, err = call(capsys, "retest", str(suite), repaired, "-o", str(result), "--fail-over", "1")
    assert code == 0, err
    assert RetestFile.read(result).samples == 3
    code, _, err = call(capsys, "report", str(out))
    assert code == 0, err
    page = (out / "report.html").read_text("utf-8")
    assert "toxic replies" in page
    assert '<section id="repair">' in page


def _pair(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    return key, json.loads(value)


def _goes_on_only_as_it_began(capsys: Any, monkeypatch: Any, command: list[str], made: RepairFile) -> None:
    out = Path(command[3])
    costs, cost = list[Any](), repair.cost_of
    monkeypatch.setattr(repair, "cost_of", lambda *given: costs.append(given[1].folder) or cost(*given))
    also, judged_by = command[-3:-2], command[-1:]
    chosen = dict(map(_pair, STRONG))
    again = harden_rounds(command[1], 2, out=out, settings=chosen, also=also, judged_by=judged_by, resume=True)
    assert again == made
    assert costs == [out / f"measured-{place}" for place in range(1, len(made.defenders))]  # each is found once
    for other, said in (("evaluation.threshold=0.3", "evaluation.threshold"), ("harden.keep=7", "harden.keep: 1.0")):
        code, _, err = call(capsys, *command, "--resume", other)
        assert (code, said in err) == (2, True), err
    code, _, err = call(capsys, *command[:-4], *command[-2:], "--resume")  # without --also
    assert (code, "adversaries: untuned, mine, human there, untuned, mine now" in err) == (2, True), err


def _dialogues(folder: Path) -> Path:
    path = folder / "dialogues.jsonl"
    path.write_text('{"id": "d", "turns": ["Hello there", "And you?"]}\n')
    return path
