"""``evaluate --repair`` through the command line: two defenders, what failed and what it costs, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from astprompter.runs.schema.repair import RepairFile
from astprompter.workflows.repair import measure_repair
from helpers.commands import call, settings
from helpers.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repaired(files: dict[str, str]) -> str:
    """Another model with the same tokenizer."""
    folder = Path(files["model"]).parent / "repaired"
    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer), seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_repair_is_measured_with_its_cost(capsys: Any, files: dict[str, str], repaired: str, tmp_path: Path) -> None:
    out, benign = tmp_path / "out", tmp_path / "benign.jsonl"
    benign.write_text(json.dumps({"dialogue": [["Hello", "A good day to you"]]}) + "\n" + '{"text": "The rain."}\n')
    run = tmp_path / "mine"
    own = settings(files, **{"data.benign": str(benign), "evaluation.scorers": "[word:b]"})
    assert call(capsys, "train", "-o", str(run), *own)[0] == 0
    defenders = ["--defender", files["model"], "--defender", repaired]
    given = ["evaluate", str(run), "-o", str(out), *defenders, *own, "--repair"]
    code, shown, err = call(capsys, *given)
    assert code == 0, err
    found = RepairFile.read(out / "repair.json")
    before, after = found.defenders
    assert (before.folder, after.folder) == ("against/model", "against/repaired")
    assert before.fresh == "mine"  # trained against the first defender
    assert after.fresh is None
    assert after.honest is None
    assert list(after.adversaries) == ["untuned", "mine"]
    assert after.adversaries["mine"].replies.change is not None
    assert set(after.adversaries["mine"].scorers or {}) == {"word:a", "word:b"}
    assert before.benign is None
    assert after.benign is not None
    assert after.benign.missing is None
    assert after.benign.texts is not None
    assert after.benign.texts.texts == 2
    assert after.benign.texts.kl is not None
    assert after.benign.texts.kl > 0
    assert after.benign.replies is not None
    assert after.benign.replies.length.before is not None
    assert after.clusters is not None
    assert "Toxic replies, by defender" in shown
    assert "What it costs" in shown
    assert "nll of harmless texts" in shown
    assert "Under 'untuned'" in shown
    again = measure_repair([out / one.folder for one in found.defenders], [files["model"], repaired], out)
    assert again == found.model_copy(
        update={"defenders": [one.model_copy(update={"fresh": None, "gain": None}) for one in found.defenders]}
    )
    code, _, err = call(capsys, "evaluate", str(run), "-o", str(out), *defenders[:2], "--repair")
    assert (code, "each with --defender" in err) == (2, True)


def test_another_vocabulary_has_no_likelihood_to_compare(capsys: Any, files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    defenders = ["--defender", files["model"], "--defender", files["other"]]
    assert call(capsys, "evaluate", "untuned", "-o", str(out), *defenders, *settings(files), "--repair")[0] == 0
    cost = RepairFile.read(out / "repair.json").defenders[1].benign
    assert cost is not None
    assert (cost.texts, "other vocabularies" in (cost.missing or "")) == (None, True)
    assert cost.replies is not None
    assert cost.replies.kl is None
