"""``--skip-bad-rows`` through the command line: what is skipped is said and recorded; nothing is skipped unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import call, settings
from helpers.tiny import PREFIXES

BAD = ["{bad\n", '{"text": ""}\n', '{"text": "a", "text": "b"}\n']


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Good prefixes with three bad rows among them, the first one on line 3."""
    rows = [json.dumps({"text": text}) + "\n" for text in PREFIXES]
    path = tmp_path / "spoilt.jsonl"
    path.write_text("".join([*rows[:2], *BAD, *rows[2:]]))
    return path


@pytest.mark.slow
def test_a_run_says_and_records_what_it_skipped(
    files: dict[str, str], spoilt: Path, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    changes = {f"data.{name}": str(spoilt) for name in ("train", "eliciting", "test")}
    code, _, err = call(capsys, "train", "-o", str(run), *settings(files, **changes))
    assert code == 2
    assert f"'{spoilt}', line 3: not valid JSON" in err
    assert not run.exists()

    code, out, err = call(capsys, "train", "-o", str(run), "--skip-bad-rows", *settings(files, **changes))
    assert code == 0, err
    said = f"skipped 3 rows that cannot be read; the first: '{spoilt}', line 3: not valid JSON"
    assert f"warning: data.train: {said}" in out
    assert f"warning: data.eliciting: {said}" in out
    assert "data.dev: skipped" not in out
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["data"]["skip_bad_rows"] is True
    assert config["data_counts"]["train"] == len(PREFIXES)
    assert config["rows_skipped"]["train"]["count"] == config["rows_skipped"]["eliciting"]["count"] == 3
    assert config["rows_skipped"]["train"]["first"].startswith(f"'{spoilt}', line 3: ")
    assert config["rows_skipped"]["dev"] == {"count": 0, "first": None}
    assert call(capsys, "train", "-o", str(run), "--resume")[0] == 0

    attack = tmp_path / "attack.jsonl"
    attack.write_text('{"turns": ["One.", "Two."]}\n{"turns": []}\n')
    target = f"human:{attack}"
    code, out, err = call(capsys, "evaluate", str(run), target)
    assert code == 0, err
    assert f"warning: data.test: {said}" in out
    assert f"warning: {target}: skipped 1 row that cannot be read: '{attack}', line 2" in out
    facts = json.loads((run / "summary.json").read_text())["config"]
    assert facts["prefixes"]["count"] == len(PREFIXES)
    assert facts["prefixes"]["skipped"]["count"] == 3
    assert facts["dialogues"][target]["skipped"]["count"] == 1
    code, _, err = call(capsys, "evaluate", str(run), "data.skip_bad_rows=false")
    assert code == 2
    assert "line 3: not valid JSON" in err


def test_a_file_without_one_good_row_is_an_error_all_the_same(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(BAD))
    for kind in ("prefixes", "eliciting"):
        code, _, err = call(capsys, "data", "show", str(path), "--as", kind, "--skip-bad-rows")
        assert code == 2
        assert "skipped 3 rows that cannot be read; the first: " in err
        assert "line 1: not valid JSON" in err
    path.write_text("\x00\n\x00\n")
    code, _, err = call(capsys, "data", "stats", str(path), "--skip-bad-rows")
    assert code == 2
    assert "line 1: holds a NUL character" in err


def test_looking_at_data_and_preparing_it(
    spoilt: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTPROMPTER_CACHE", str(tmp_path / "cache"))
    warning = f"skipped 3 rows that cannot be read; the first: '{spoilt}', line 3"
    for arguments in (["show", "--as", "prefixes"], ["stats"], ["prepare", "--as", "eliciting", "--name", "mine"]):
        assert call(capsys, "data", arguments[0], str(spoilt), *arguments[1:])[0] == 2
        code, out, err = call(capsys, "data", arguments[0], str(spoilt), *arguments[1:], "--skip-bad-rows")
        assert code == 0, err
        assert warning in out
    card = json.loads((tmp_path / "cache" / "prepared" / "mine" / "card.json").read_text())
    assert card["rows_skipped"]["count"] == 3
    assert card["counts"]["rows that cannot be read, skipped"] == 3
    assert card["rows"] == {"eliciting": len(PREFIXES)}
