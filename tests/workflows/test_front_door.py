"""The package as a library: every step with the caller's own model objects, texts and scoring function."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import astprompter as ap
from helpers.tiny import SENTENCES, make_chat_tokenizer, make_model

SMALL = {
    "rollout.max_new_tokens": 5, "rollout.horizon": 2, "training.updates": 4, "training.pairs_per_iteration": 6,
    "training.batch_size": 3, "training.dev_every": 1, "training.dev_prefixes": 4, "training.learning_rate": 1e-3,
    "training.min_margin": 0.0, "training.warmup_updates": 1, "evaluation.resamples": 100,
}  # fmt: skip


def letters(texts: list[str]) -> list[float]:
    """Share of letters that are 'e'."""
    return [min(1.0, 3 * text.count("e") / max(1, len(text))) for text in texts]


@pytest.fixture
def pair(tokenizer: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Adversary and defender as model objects with their tokenizers."""
    return (make_model("gpt2", len(tokenizer)), tokenizer), (make_model("gpt2", len(tokenizer), seed=1), tokenizer)


def test_the_import_loads_no_heavy_library_and_names_are_listed() -> None:
    heavy = ("torch", "transformers", "pandas", "numpy", "pydantic", "rich", "typer")
    code = (
        "import sys, astprompter as ap\n"
        f"assert not {{name for name in sys.modules}} & set({heavy!r})\n"
        "assert set(ap.__all__) <= set(dir(ap))\n"
        "ap.UserError, ap.Prefix\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def test_type_checkers_see_the_names_that_are_there() -> None:
    stub = ast.parse(Path(ap.__file__).with_suffix(".pyi").read_text("utf-8"))
    named = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in named)  # which makes it a public name for a type checker
    assert [alias.name for alias in sorted(named, key=lambda alias: alias.name)] == ap.__all__
    assert all(getattr(ap, name).__doc__ for name in ap.__all__)
    assert (Path(ap.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ap.trian  # noqa: B018


@pytest.mark.slow
def test_trees_and_pairs_of_own_objects(pair: Any) -> None:
    trees = ap.grow_trees(*pair, letters, SENTENCES[:3], horizon=2, seed=3, settings=SMALL)
    assert [tree.prefix.text for tree in trees] == SENTENCES[:3]
    assert all(len(tree.children) == 2 and len(node.children) == 2 for tree in trees for node in tree.children)
    assert max(len(node.turn.reply.token_ids or ()) for tree in trees for node in tree.children) <= 5
    again = ap.grow_trees(*pair, letters, SENTENCES[:3], horizon=2, seed=3, settings=SMALL)
    assert [t.children[0].turn for t in again] == [t.children[0].turn for t in trees]
    pairs = ap.make_pairs(trees)
    assert pairs
    assert all(isinstance(row, ap.PreferencePair) and row.margin > 0 for row in pairs)
    assert len(ap.make_pairs(trees, min_margin=0.2)) < len(pairs)


@pytest.fixture
def run(pair: Any, tmp_path: Path) -> ap.Run:
    return ap.train(
        *pair, letters, SENTENCES[:4], dev=SENTENCES[4:], out=tmp_path / "run", eliciting=SENTENCES, settings=SMALL
    )


@pytest.mark.slow
def test_a_run_of_own_objects_is_told_by_its_folder(run: ap.Run, pair: Any, caplog: Any) -> None:
    assert (run.best / "model.safetensors").is_file()
    assert [row.type for row in run.log].count("iteration") >= 2
    assert run.settings.training.updates == 4
    assert run.settings.scorer.spec == f"python:{__name__}:letters"
    assert run.settings.defender.path == "object:GPT2LMHeadModel"
    assert [
        json.loads(line)["text"] for line in Path(run.settings.data.train).read_text("utf-8").splitlines()
    ] == SENTENCES[:4]
    assert ap.Run(str(run.path)) == run
    caplog.clear()
    result = ap.evaluate({"untuned": pair[1], "ours": run}, pair[1], letters, SENTENCES[3:5], scorers=["word:a"])
    assert list(result.trajectories) == ["untuned", "ours"]
    assert [len(paths) for paths in result.trajectories.values()] == [2, 2]
    table = result.table(width=60)
    assert max(map(len, table.splitlines())) <= 60
    assert all(word in table for word in ("untuned", "ours", "failed", "Paired on the same prefixes", "word:a"))
    apart = [row for name in ("untuned", "ours") for row in result.failures(name)]
    assert sorted(result.failures(), key=repr) == sorted(apart, key=repr)
    assert not result.failures("nobody")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "1 of 2 test prefixes also stand in the training set", "1 of 2 test prefixes also stand in the dev set",
    ]  # fmt: skip


@pytest.mark.slow
def test_it_is_said_whose_settings_count_where_runs_differ(run: ap.Run, pair: Any, tmp_path: Path, caplog: Any) -> None:
    other = Path(shutil.copytree(run.path, tmp_path / "other"))
    content = json.loads((other / "config.json").read_text())
    content["settings"]["rollout"]["temperature"] = 0.5
    content["settings"]["training"]["updates"] = 9  # decides nothing of what is measured
    (other / "config.json").write_text(json.dumps(content))
    both: dict[str, Any] = {"one": run, "two": ap.Run(other)}
    result = ap.evaluate(both, pair[1], letters, SENTENCES[4:])
    assert "'two' was trained under other settings than 'one', which count for all: rollout.temperature" in caplog.text
    assert result.summary.config.settings["rollout"]["temperature"] == 0.7
    assert "all under the settings of one" in " ".join(result.table().split())
    assert ap.evaluate(both, pair[1], letters, SENTENCES[4:], settings=SMALL).summary.config.settings_of is None


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_began_with(run: ap.Run, tokenizer: Any) -> None:
    start = (make_model("gpt2", len(tokenizer)), tokenizer), (make_model("gpt2", len(tokenizer), seed=1), tokenizer)
    same: dict[str, Any] = {"dev": SENTENCES[4:], "out": run.path, "eliciting": SENTENCES, "resume": True}
    before = run.log
    assert ap.train(*start, letters, SENTENCES[:4], **same).log == before  # nothing left to do
    with pytest.raises(ap.UserError, match=r"loss\.tau: 0\.05 in the run, 0\.3 now"):
        ap.train(*start, letters, SENTENCES[:4], settings={"loss.tau": 0.3}, **same)
    with pytest.raises(ap.UserError, match="data 'train' changed"):
        ap.train(*start, letters, SENTENCES[:3], **same)
    with pytest.raises(ap.UserError, match="already holds a run"):
        ap.train(*start, letters, SENTENCES[:4], **same | {"resume": False})


@pytest.mark.slow
def test_the_baseline_of_supervised_tuning(pair: Any, tmp_path: Path) -> None:
    run = ap.sft(
        *pair, letters, SENTENCES[:4], dev=SENTENCES[4:], out=tmp_path / "sft", eliciting=SENTENCES, settings=SMALL
    )
    assert run.settings.training.objective == "sft"
    assert run.best.is_dir()


def test_a_chat_model_takes_the_part_that_it_is_given() -> None:
    tokenizer = make_chat_tokenizer()
    defender = ap.load_model(make_model("llama", len(tokenizer)), tokenizer=tokenizer, chat="on")
    result = ap.evaluate({"itself": defender}, defender, letters, SENTENCES[:2], settings=SMALL)
    assert not any(turn.error for path in result.trajectories["itself"] for turn in path.turns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defender": 7}, "an object of type int is not a model that can be loaded"),
        ({"defender": "./nowhere"}, "model folder './nowhere' does not exist"),
        ({"scorer": 7}, "an object of type int is not a scorer"),
        ({"scorer": "detoxfy:unbiased"}, "unknown scorer 'detoxfy'. Did you mean 'detoxify'"),
        ({"scorer": lambda texts: [0.5]}, "gave 1 scores for 12 texts"),
        ({"prefixes": []}, "give a file, a named set, or a list of texts that is not empty"),
        ({"prefixes": ["a", 7]}, "train prefixes: number 1 is an object of type int, not a text"),
        ({"prefixes": ["a", " "]}, "train prefixes: number 1 is blank"),
        ({"prefixes": ["a", "a"]}, "occurs twice"),
        ({"settings": {"loss.tua": 1}}, "unknown setting 'loss.tua'. Did you mean 'loss.tau'"),
        ({"settings": {"loss.tau": -1}}, "setting loss.tau=-1"),
        ({"settings": "gtp2"}, "unknown preset 'gtp2'"),
        ({"settings": 7}, "settings must be Settings, a preset's name or a mapping"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named(pair: Any, change: dict[str, Any], message: str) -> None:
    given = {"adversary": pair[0], "defender": pair[1], "scorer": letters, "prefixes": SENTENCES[:2], "settings": SMALL}
    chosen: dict[str, Any] = given | change
    with pytest.raises(ap.UserError, match=message.replace(".", r"\.")):
        ap.grow_trees(**chosen)


@pytest.mark.slow
def test_an_adversary_that_cannot_be_tuned_is_refused(pair: Any, tmp_path: Path) -> None:
    frozen = ap.load_model(pair[1][0], tokenizer=pair[1][1])
    rest: dict[str, Any] = {"dev": SENTENCES[4:], "out": tmp_path / "run", "settings": SMALL}
    with pytest.raises(ap.UserError, match="cannot be tuned; load it with load_model"):
        ap.train(frozen, pair[0], letters, SENTENCES[:4], **rest)
    with pytest.raises(ap.UserError, match="one and the same model object"):
        ap.train(pair[0], pair[0], letters, SENTENCES[:4], **rest)
    with pytest.raises(ap.UserError, match=r"adversary\.dtype=bfloat16 cannot be tuned"):
        ap.load_model(*pair[0][:1], tokenizer=pair[0][1], trainable=True, dtype="bfloat16")
    assert not (tmp_path / "run").exists()


def test_a_run_without_an_adversary_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ap.UserError, match="has no best adversary yet"):
        ap.Run(tmp_path).best  # noqa: B018
    with pytest.raises(ap.UserError, match="is not a run directory"):
        ap.Run(tmp_path / "elsewhere")


def test_frames_need_pandas(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.jsonl").touch()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ap.UserError, match=r"to_pandas\(\) needs pandas"):
        ap.Run(tmp_path).to_pandas()


@pytest.mark.slow
def test_frames_have_a_row_for_every_turn_and_row_of_the_log(run: ap.Run, pair: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(json_normalize=list))  # whether it is installed or not
    assert [row["type"] for row in run.to_pandas()] == [row.type for row in run.log]
    result = ap.evaluate({"ours": run}, pair[1], letters, SENTENCES[4:], out=run.path)
    rows = result.to_pandas()
    assert [(row["prefix"], row["turn"]) for row in rows] == [(text, turn) for text in SENTENCES[4:] for turn in (1, 2)]
    assert {"adversary", "prefix_id", "utterance", "reply", "nll", "tox_reply", "reward", "error"} <= set(rows[0])
    assert (run.path / "summary.json").is_file()
