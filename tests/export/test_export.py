"""Exports: each format against its neighbour's schema, from a run that was made through the command line."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from astprompter.base.errors import UserError
from astprompter.base.files import write_rows
from astprompter.base.progress import Silent
from astprompter.base.records import Speech
from astprompter.export import FORMATS, export_run
from astprompter.export.card import _licence
from astprompter.export.files import _literal
from astprompter.export.found import Attack, first_turn_pairs
from astprompter.export.hardening import draw_replies, repair_pairs
from astprompter.runs.schema.results import TrajectoryRow, TurnRow
from helpers.commands import SMALL, call
from helpers.files import read_rows
from helpers.functions import often
from helpers.tiny import PREFIXES, make_model, make_tokenizer

OPENINGS = tuple(text.rstrip() for text in PREFIXES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    """A tiny run whose scorer flags a frequent token of the tiny model, so that some replies fail and some do not."""
    from astprompter.cli.app import main

    folder: Path = tmp_path_factory.mktemp("export")
    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "p.jsonl").write_text(
        "".join(json.dumps({"id": f"p{i}", "text": t}) + "\n" for i, t in enumerate(PREFIXES))
    )
    settings = [f"{who}.path={folder / 'model'}" for who in ("adversary", "defender")]
    settings += [f"data.{name}={folder / 'p.jsonl'}" for name in ("train", "dev", "test", "eliciting")]
    settings += ["training.updates=2", "training.save_pairs=true", "scorer.spec=python:helpers.functions:often"]
    with pytest.MonkeyPatch.context() as patch:
        for arguments in (["train", "-o", str(folder / "run"), *SMALL[:-2], SMALL[-1], *settings],
                          ["evaluate", str(folder / "run"), "--top", "0"]):  # fmt: skip
            patch.setattr(sys, "argv", ["astprompter", *arguments])
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code
    return folder / "run"


def written(run: Path, to: str, out: Path, **options: Any) -> Path:
    export_run(run, to, out, **options)
    return out


def test_trl_rows_are_the_training_pairs(run: Path, tmp_path: Path) -> None:
    rows = read_rows(written(run, "trl", tmp_path / "x") / "preferences.jsonl")
    pairs = read_rows(run / "pairs.jsonl")
    assert len(rows) == len(pairs) > 0
    for row, pair in zip(rows, pairs, strict=True):
        assert {"prompt", "chosen", "rejected"} <= set(row)
        assert all(isinstance(row[key], str) and row[key] for key in ("prompt", "chosen", "rejected"))
        assert (row["chosen"], row["rejected"], row["source"]) == (pair["chosen"], pair["rejected"], pair["source"])
    assert any(row["prompt"].startswith(OPENINGS) for row in rows if row["source"] == "on_policy")
    assert len({tuple(sorted(row)) for row in rows}) == 1  # datasets wants the same columns in every row


def test_without_saved_pairs_first_turns_of_an_evaluation_are_paired(run: Path, tmp_path: Path) -> None:
    lean = tmp_path / "lean"
    lean.mkdir()
    for name in ("summary.json", "trajectories.jsonl", "failures.jsonl"):
        (lean / name).write_text((run / name).read_text())
    rows = read_rows(written(lean, "trl", tmp_path / "x") / "preferences.jsonl")
    assert {row["source"] for row in rows} == {"evaluation"}
    assert {row["prompt"] for row in rows} <= set(OPENINGS)
    assert all(row["margin"] > 0 for row in rows)
    (lean / "trajectories.jsonl").unlink()
    with pytest.raises(UserError, match=r"no preference pair; train with training\.save_pairs=true"):
        export_run(lean, "trl", tmp_path / "y")


def test_accumulated_turns_are_attacks_of_their_own(run: Path, tmp_path: Path) -> None:
    replayed = tmp_path / "replayed"
    replayed.mkdir()
    for name in ("summary.json", "trajectories.jsonl", "failures.jsonl"):
        (replayed / name).write_text((run / name).read_text())
    rows = read_rows(run / "trajectories.jsonl")
    write_rows(replayed / "trajectories.jsonl", [{**row, "accumulated": True} for row in rows])
    texts = {(row["adversary"], row["prefix_id"]): row for row in rows}
    samples = read_rows(written(replayed, "inspect", tmp_path / "x") / "samples.jsonl")
    assert any(sample["metadata"]["turn"] > 1 for sample in samples)
    for sample in samples:
        facts = sample["metadata"]
        row = texts[facts["adversary"], facts["prefix_id"]]
        assert [message["content"] for message in sample["input"]] == [
            row["prefix"] + row["turns"][facts["turn"] - 1]["utterance"]
        ]


def turn(utterance: str, reply: str, tox: float, reward: float | None = 0.0, **more: Any) -> TurnRow:
    values: dict[str, Any] = {
        "turn": 1, "utterance": utterance, "reply": reply, "nll": 1.0, "tox_utterance": 0.0, "tox_reply": tox,
        "tox_turn": tox, "reward": reward, "reply_kind": "answered", "error": None, "token_logprobs": [], "tokens": [],
    }  # fmt: skip
    return TurnRow(**values | more)


def test_first_turn_pairs_by_hand() -> None:
    def row(prefix: str, adversary: str, said: TurnRow) -> TrajectoryRow:
        return TrajectoryRow(
            prefix_id=prefix,
            prefix=prefix.upper(),
            prefix_cut=0,
            prefix_cut_for_adversary=0,
            adversary=adversary,
            accumulated=False,
            turns=[said],
        )

    rows = [
        row("p", "u", turn(" a", "", 0, 0.1)), row("p", "t", turn(" b", "", 0, 0.9)),
        row("p", "v", turn(" c", "", 0, 0.5)),
        row("q", "u", turn(" a", "", 0, 0.3)), row("q", "t", turn(" b", "", 0, 0.3)),
        row("r", "u", turn(" a", "", 0, 0.3)), row("r", "t", turn(" b", "", 0, None, error="no score")),
        row("s", "u", turn(" a", "", 0, 0.3)), row("s", "t", turn(" b", "", 0, 0.4, reply_kind="blank")),
    ]  # fmt: skip
    (pair,) = first_turn_pairs(rows)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("P", " b", " a")
    assert pair["margin"] == pytest.approx(0.8)


class Replies:
    """A defender that replies from a table."""

    name = "table"

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table

    def start(self, prefixes: Any, *, turns: int) -> Any:
        self.prefixes = list(prefixes)
        return self

    def speak(self, keys: Any) -> list[Speech]:
        return [Speech(self.table[prefix].pop(0)) for prefix in self.prefixes]


def test_hardening_prefers_the_least_toxic_reply_of_the_same_attack() -> None:
    class Length:
        name = "length"

        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [min(1.0, len(text) / 10) for text in texts]

    def attack(name: str) -> Attack:
        earlier = turn(" u1", " y1", 0.1)
        return Attack("ours", name, f"{name}:", (earlier, turn(" u2", "bad reply", 0.9, turn=2)), 1.5)

    found = [attack("a"), attack("b"), attack("c")]
    assert found[0].prompt == "a: u1 y1 u2"
    table = {"a: u1 y1 u2": ["good", "ok", "  "], "b: u1 y1 u2": ["longer reply", "long one"],
             "c: u1 y1 u2": ["ok", "a yet longer one", "ok"]}  # fmt: skip
    table["b: u1 y1 u2"].append("long two")
    drawn = draw_replies(found, Replies(table), samples=3, seed=0, trees_per_batch=2, progress=Silent())  # type: ignore[arg-type]
    counts: Counter[str] = Counter()
    first, last = repair_pairs(found, drawn, Length(), counts, threshold=0.5)
    assert counts == {"pairs": 2, "without a harmless reply": 1}
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("a: u1 y1 u2", "ok", "bad reply")
    assert (first["chosen_toxicity"], first["rejected_toxicity"], first["turn"]) == (0.2, 0.9, 2)
    assert (last["chosen"], last["rejected"], last["candidates"]) == ("ok", "a yet longer one", 3)


def test_hardening_of_a_run_is_seeded(run: Path, tmp_path: Path) -> None:
    first = read_rows(written(run, "hardening", tmp_path / "x", samples=4) / "hardening.jsonl")
    assert first == read_rows(written(run, "hardening", tmp_path / "y", samples=4) / "hardening.jsonl")
    assert first != read_rows(
        written(run, "hardening", tmp_path / "z", samples=4, overrides=("seed=5",)) / "hardening.jsonl"
    )
    for row in first:
        assert row["chosen_toxicity"] <= 0.5 < row["rejected_toxicity"]
        assert [often([row[key]])[0] for key in ("chosen", "rejected")] == pytest.approx(
            [row["chosen_toxicity"], row["rejected_toxicity"]]
        )
        assert row["prompt"].startswith(OPENINGS)
    assert len(first) <= len(read_rows(run / "failures.jsonl"))


def test_garak_config_has_the_keys_of_atkgen(run: Path, tmp_path: Path) -> None:
    out = written(run, "garak", tmp_path / "x")
    config = yaml.safe_load((out / "garak.yaml").read_text())
    attack = config["plugins"]["probes"]["atkgen"]["Tox"]
    assert attack["red_team_model_type"] == "huggingface.Pipeline"
    assert attack["red_team_model_name"] == "./adversary"  # seen from the folder, in which garak is started
    assert (out / attack["red_team_model_name"] / "config.json").is_file()
    assert attack["red_team_prompt_template"] == "[query]"
    assert attack["red_team_postproc_rm_regex"] == "(?!)"
    assert re.sub(attack["red_team_postproc_rm_regex"], "", "kept as it is") == "kept as it is"
    assert attack["red_team_model_config"]["max_tokens"] == 5
    assert config["run"]["spec"] == {"include": ["probes.atkgen.Tox"]}
    assert "detectors" not in config["plugins"]  # the scorer is no classifier that garak could load
    own = written(run, "garak", tmp_path / "y", overrides=("scorer.spec=embedded",)) / "garak.yaml"
    assert yaml.safe_load(own.read_text())["run"]["eval_threshold"] == (1 + 0.5) / 2
    detector = yaml.safe_load(own.read_text())["plugins"]["detectors"]["unsafe_content"]["ToxicCommentModel"]
    assert detector["detector_target_class"] == "toxicity"
    assert detector["detector_model_path"] == "./detector"
    assert (own.parent / "detector" / "model.safetensors").is_file()
    saved = json.loads((out / "adversary" / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == 256 - 5
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(out / "adversary").model_max_length == 251
    theirs = AutoModelForCausalLM.from_pretrained(out / "adversary").state_dict()
    ours = AutoModelForCausalLM.from_pretrained(run / "best").state_dict()
    assert all((theirs[name] == value).all() for name, value in ours.items())


def test_promptfoo_intents_are_texts_or_lists_of_texts(run: Path, tmp_path: Path) -> None:
    out = written(run, "promptfoo", tmp_path / "x")
    intents = json.loads((out / "intents.json").read_text())
    failures = read_rows(run / "failures.jsonl")
    assert len(intents) == len(failures)
    for intent, failure in zip(intents, failures, strict=True):
        assert isinstance(intent, str) == (failure["turn"] == 1)
        texts = [intent] if isinstance(intent, str) else intent
        assert len(texts) == failure["turn"]
        assert texts[-1].endswith(_literal(failure["utterance"].strip()))
        assert texts[0].startswith(OPENINGS)
    config = yaml.safe_load((out / "promptfooconfig.yaml").read_text())
    assert config["defaultTest"] == {"options": {"provider": "openai:chat:YOUR-GRADER"}}
    assert config["redteam"]["plugins"] == [{"id": "intent", "config": {"intent": "file://intents.json"}}]


@pytest.mark.parametrize(
    ("text", "literal"),
    [("plain {7} text", "plain {7} text"), ("{{ 7*7 }}", "{{ '{' }}{ 7*7 }{{ '}' }}"),
     ("{% a #}", "{{ '{' }}% a #{{ '}' }}"), ("{{{", "{{ '{' }}{{ '{' }}{")],
)  # fmt: skip
def test_text_that_looks_like_a_template_stays_text(text: str, literal: str) -> None:
    from jinja2 import Environment

    assert _literal(text) == literal
    assert Environment().from_string(literal).render() == text  # noqa: S701 - Nunjucks' syntax is Jinja's here


def test_inspect_samples(run: Path, tmp_path: Path) -> None:
    rows = read_rows(written(run, "inspect", tmp_path / "x") / "samples.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == len(read_rows(run / "failures.jsonl"))
    for row in rows:
        assert set(row) == {"id", "input", "target", "metadata"}
        roles = [message["role"] for message in row["input"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert all(isinstance(message["content"], str) for message in row["input"])
        assert row["metadata"]["turn"] == (len(roles) + 1) / 2
        assert row["metadata"]["tox_reply"] > 0.5


def test_the_task_of_inspect_is_python_that_judges_as_the_run_did(run: Path, tmp_path: Path) -> None:
    (tmp_path / "classifier").mkdir()
    task = written(run, "inspect", tmp_path / "x") / "task.py"
    tree = ast.parse(task.read_text())
    chosen = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert chosen == {"spec": "python:helpers.functions:often"}
    assert "max_tokens=5" in ast.unparse(tree)
    local = (f"scorer.spec=hf:{tmp_path / 'classifier'}#insult", "scorer.activation=softmax")
    text = (written(run, "inspect", tmp_path / "y", overrides=local) / "task.py").read_text()
    assert "SCORER = {'spec': 'hf:classifier#insult', 'activation': 'softmax'}" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
def test_the_task_of_inspect_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="pip install inspect-ai to test it")
    task = written(run, "inspect", tmp_path / "x", overrides=("scorer.spec=word:banana",)) / "task.py"
    monkeypatch.chdir(task.parent)
    words = SimpleNamespace(encode=lambda text, **options: text.split())
    monkeypatch.setattr("tiktoken.get_encoding", lambda name: words)  # which it would fetch
    (log,) = inspect_ai.eval("task.py", model="mockllm/model", log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["mean"].value == 0.0


def test_inspect_reads_them(run: Path, tmp_path: Path) -> None:
    dataset = pytest.importorskip("inspect_ai.dataset", reason="pip install inspect-ai to test it")
    path = written(run, "inspect", tmp_path / "x") / "samples.jsonl"
    samples = dataset.json_dataset(str(path))
    assert samples[0].input[0].role == "user"
    assert samples[0].metadata["adversary"] in ("untuned", "run")


def test_the_data_set_folder(run: Path, tmp_path: Path) -> None:
    out = written(run, "hf", tmp_path / "x", adversary="run")
    header = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert {item["config_name"]: item["data_files"] for item in header["configs"]} == {
        name: f"data/{name}.jsonl" for name in ("turns", "failures", "preferences")
    }
    turns = read_rows(out / "data" / "turns.jsonl")
    assert {row["adversary"] for row in turns} == {"run"}
    assert len(turns) == 2 * len(PREFIXES)
    assert all(not isinstance(value, list | dict) for row in turns for value in row.values())
    assert len({tuple(row) for row in turns}) == 1


def test_datasets_reads_the_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'astprompter[hub]' to test it")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    out = written(run, "hf", tmp_path / "x")
    assert len(datasets.load_dataset(str(out), "turns", split="train")) == 2 * 2 * len(PREFIXES)
    assert "chosen" in datasets.load_dataset(str(out), "preferences", split="train").column_names


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_every_format_has_a_card_and_no_absolute_path(run: Path, tmp_path: Path, to: str) -> None:
    out = written(run, to, tmp_path / "x")
    card = (out / "README.md").read_text()
    assert "Content warning" in card
    assert "- defender, whose replies these are: `model`; licence: not known here" in card
    assert "- scorer, by its label 'toxicity': `python:helpers.functions:often`" in card
    assert "- prefixes of the evaluation: `p.jsonl`" in card
    if to in ("trl", "hardening", "hf", "inspect"):
        assert "- `prompt`:" in card or "- `path_nll`:" in card
    assert ("'chosen' is the attack" in card) == (to == "trl")
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert str(run.parent).encode() not in path.read_bytes(), path


def test_licences_are_told_where_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert _licence(str(tmp_path)) == "licence: apache-2.0"
    assert "card in the package" in _licence("embedded")
    assert _licence("real-toxicity-prompts") == "licence: Apache-2.0"
    assert _licence("openai:some-model") == _licence("") == "licence: not known here"
    (tmp_path / "README.md").write_text("# No header")
    assert _licence(str(tmp_path)) == "licence: not known here"


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_every_format_refuses_what_is_no_run_and_folders_in_use(run: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        export_run(tmp_path / "empty", to, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "empty") in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is not a folder"):
        export_run(tmp_path / "nothing", to, tmp_path / "out")
    with pytest.raises(UserError, match=r"not an empty folder|already holds a run"):
        export_run(run, to, run)


@pytest.mark.parametrize("to", ["promptfoo", "inspect", "hardening"])
def test_a_run_without_failures_is_told(run: Path, tmp_path: Path, to: str) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    (calm / "failures.jsonl").write_text("")
    for name in ("summary.json", "trajectories.jsonl"):
        (calm / name).write_text((run / name).read_text())
    with pytest.raises(UserError, match="holds no failure to export"):
        export_run(calm, to, tmp_path / "out")


def test_through_the_command_line(run: Path, tmp_path: Path, capsys: Any) -> None:
    code, out, err = call(
        capsys, "export", str(run), "--to", "inspect", "-o", str(tmp_path / "x"), "--adversary", "run"
    )
    assert code == 0, err
    assert "inspect eval task.py" in out
    code, out, err = call(capsys, "export", str(run), "--to", "trl", "-o", str(tmp_path / "z"))
    assert code == 0, err
    assert "'chosen' is the attack" in out
    assert "export --to hardening" in out
    for arguments, message in (
        ([], "name a format with --to: trl, hardening"),
        (["--to", "garka"], "Did you mean 'garak'?"),
        (["--to", "inspect", "--adversary", "ruin"], "Did you mean 'run'?"),
    ):
        code, _, err = call(capsys, "export", str(run), "-o", str(tmp_path / "y"), *arguments)
        assert code == 2
        assert message in " ".join(err.split())


@pytest.mark.slow
def test_no_neighbour_is_imported(run: Path, tmp_path: Path) -> None:
    folder, formats = str(tmp_path), ("trl", "garak", "promptfoo", "inspect", "hf")
    program = (
        "import sys; from pathlib import Path; from astprompter.export import export_run;"
        f"[export_run(Path({str(run)!r}), to, Path({folder!r}) / to) for to in {formats}];"
        "sys.exit(bool({'trl', 'garak', 'promptfoo', 'inspect_ai', 'datasets'} & set(sys.modules)))"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})  # noqa: S603
