"""Exports: each format against its neighbour's schema, from a run that was made through the command line."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from astprompter.base.errors import UserError
from astprompter.base.files import write_rows
from astprompter.base.progress import Silent
from astprompter.base.protocols import Session
from astprompter.base.records import Speech
from astprompter.config.settings import LossSettings
from astprompter.export import FORMATS, export_run
from astprompter.export.card import _licence
from astprompter.export.files import _beta_of, _literal
from astprompter.export.found import Attack, Defender, first_turn_pairs
from astprompter.export.hardening import conversation_of, row_of
from astprompter.rollout.repair import Drawn, Repair, draw_replies, repairs
from astprompter.runs.schema.results import TrajectoryRow, TurnRow
from astprompter.training.loss import ipo_loss, log_ratio_difference
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
    settings += ["training.save_pairs=true", "scorer.spec=python:helpers.functions:often"]
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


@pytest.mark.slow
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
    assert not any(sample["metadata"]["later_turns"] for sample in samples)
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


class Replies(Session):
    """A defender that replies from a table; it also notes which words were put into its mouth."""

    name = "table"

    def __init__(self, table: dict[str, list[str]], rows: Sequence[str] = (), told: list[str] | None = None) -> None:
        self.table, self.rows, self.told = table, list(rows), [] if told is None else told

    def start(self, prefixes: Any, *, turns: int) -> Any:
        assert turns == 2
        return Replies(self.table, prefixes, self.told)

    def hear(self, speeches: Any, *, likelihood: bool = False) -> None:
        self.rows = [row + speech.text for row, speech in zip(self.rows, speeches, strict=True)]

    def say(self, speeches: Any) -> None:
        self.told += [speech.text for speech in speeches]
        self.hear(speeches)

    def branch(self, rows: Any) -> Any:
        return Replies(self.table, [self.rows[row] for row in rows], self.told)

    def speak(self, keys: Any) -> list[Speech]:
        assert len(set(keys.tolist())) == len(self.rows)
        said = [Speech(self.table[row].pop(0)) for row in self.rows]
        self.hear(said)
        return said


class Length:
    name = "length"

    def __init__(self) -> None:
        self.contexts: list[Any] = []

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        self.contexts += contexts
        return [min(1.0, len(text) / 10) for text in texts]


def attack(name: str) -> Attack:
    earlier = turn(" u1", " y1", 0.1)
    return Attack("ours", name, f"{name}:", (earlier, turn(" u2", "bad reply", 0.9, turn=2)), 1.5)


def drawn_from(table: dict[str, list[str]], found: list[Attack], *, own: bool) -> tuple[list[Drawn], list[str]]:
    defender: Any = Replies(table)
    again = [conversation_of(one, own=own) for one in found]
    drawn = draw_replies(again, defender, samples=3, seed=0, trees_per_batch=6, progress=Silent())
    return drawn, defender.told


def rows_of(drawn: list[Drawn], found: list[Attack], scorer: Any, *, chat: bool = False) -> tuple[list[Any], Any]:
    outcomes = repairs(drawn, [scorer], threshold=0.5)
    made = [row_of(a, d, r, chat=chat) for a, d, r in zip(found, drawn, outcomes, strict=True) if isinstance(r, Repair)]
    return made, Counter(outcome if isinstance(outcome, str) else "pairs" for outcome in outcomes)


def test_hardening_prefers_the_least_toxic_reply_of_the_same_attack() -> None:
    found = [attack("a"), attack("b"), attack("c")]
    assert found[0].said == ("a:", " u1", " y1", " u2")
    table = {"a: u1 y1 u2": ["good", "ok", "  "], "b: u1 y1 u2": ["longer reply", "long one", "long two"],
             "c: u1 y1 u2": ["ok", "a yet longer one", "ok"]}  # fmt: skip
    drawn, told = drawn_from(table, found, own=True)
    assert told == [" y1"] * 3  # the conversation is replayed turn by turn, its own replies as its own
    (first, last), counts = rows_of(drawn, found, Length())
    assert counts == {"pairs": 2, "without a harmless reply": 1}
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("a: u1 y1 u2", "ok", "bad reply")
    assert (first["chosen_toxicity"], first["rejected_toxicity"], first["turn"]) == (0.2, 0.9, 2)
    assert (last["chosen"], last["rejected"], last["candidates"]) == ("ok", "a yet longer one", 3)


def test_hardening_of_a_chat_defender_writes_messages() -> None:
    drawn, _ = drawn_from({"a: u1 y1 u2": ["good", " ok", "  "]}, [attack("a")], own=True)
    scorer = Length()
    (row,), _ = rows_of(drawn, [attack("a")], scorer, chat=True)
    assert row["prompt"] == [
        {"role": "user", "content": "a: u1"}, {"role": "assistant", "content": "y1"}, {"role": "user", "content": "u2"},
    ]  # fmt: skip
    assert row["chosen"] == [{"role": "assistant", "content": "ok"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad reply"}]
    assert set(scorer.contexts) == {("a:", " u1", " y1", " u2")}  # a judge sees what the reply answers


def test_hardening_of_another_defender_holds_no_reply_of_the_first() -> None:
    table = {"a: u1": [" mine"], "a: u1 mine u2": ["ok", "very long reply", ""], "b: u1": [" own"],
             "b: u1 own u2": ["ok", "fine", "good"]}  # fmt: skip
    drawn, told = drawn_from(table, [attack("a"), attack("b")], own=False)
    assert told == []
    (row,), counts = rows_of(drawn, [attack("a"), attack("b")], Length())
    assert counts == {"pairs": 1, "without a toxic reply": 1}
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("a: u1 mine u2", "ok", "very long reply")
    assert row["candidates"] == 2


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Defender("b", "1f", None, "off"), True),  # one model in two folders
        (Defender("a", "2e", None, "off"), False),
        (Defender("a", "1f", None, "on"), False),  # under its chat template it is another one
        (Defender("a", None, "http://x/v1", "off"), False),
    ],
)
def test_defenders_are_told_apart_by_what_answers(other: Defender, same: bool) -> None:
    assert Defender("a", "1f", None, "off").is_same(other) == same
    assert Defender("s", None, "http://x/v1", "off").is_same(Defender("s", None, "http://x/v1", "off"))
    assert not Defender("s", None, "http://x/v1", "off").is_same(Defender("s", None, "http://y/v1", "off"))


@pytest.mark.slow
def test_hardening_of_a_run_for_another_model(run: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer), seed=3).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    out = written(run, "hardening", tmp_path / "x", samples=6, overrides=(f"defender.path={tmp_path / 'other'}",))
    card = (out / "README.md").read_text()
    digests = re.findall(
        r"(whose replies these are|the attacks were found): `(\w+)`;.* of its weights: (\w{64})$", card, re.M
    )
    assert [found[:2] for found in digests] == [
        ("whose replies these are", "other"),
        ("the attacks were found", "model"),
    ]
    assert digests[1][2] == json.loads((run / "summary.json").read_text())["config"]["defender_sha256"] != digests[0][2]
    found = {turn["reply"] for row in read_rows(run / "trajectories.jsonl") for turn in row["turns"]}
    for row in read_rows(out / "hardening.jsonl"):
        assert not {row["chosen"], row["rejected"]} & found


@pytest.mark.parametrize("tokens", [1, 7])
def test_tau_and_the_beta_of_trl(tokens: int) -> None:
    """TRL's IPO takes means per token, its DPO sums: what this run calls tau is turned into their beta."""
    policy, reference = torch.tensor([-0.9, -1.4]) * tokens, torch.tensor([-1.1, -1.2]) * tokens
    sides = (policy[:1], policy[1:], reference[:1], reference[1:])
    h_sum, tau = float(log_ratio_difference(*sides)), 0.2
    h_mean = h_sum / tokens

    def beta(kind: str, reduction: str) -> float:
        said = _beta_of(LossSettings(kind=kind, reduction=reduction, tau=tau), float(tokens))  # type: ignore[arg-type]
        return float((re.search(r"about ([\d.]+) at", said) or re.search(r"beta = tau = ([\d.]+)", said))[1])  # type: ignore[index]

    ours = float(ipo_loss(*sides, tau=tau))
    assert ours == pytest.approx(tokens**2 * (h_mean - 1 / (2 * beta("ipo", "sum"))) ** 2)
    assert beta("ipo", "mean") == beta("dpo", "sum") == tau
    assert beta("dpo", "mean") * h_sum == pytest.approx(tau * h_mean, rel=1e-2)  # three digits


@pytest.mark.slow
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
        (message,), facts = row["input"], row["metadata"]
        assert message["role"] == "user"
        assert message["content"].startswith(OPENINGS)
        assert facts["turn"] == 1 + len(facts["later_turns"])
        assert facts["tox_reply"] > 0.5


def test_no_reply_of_the_first_defender_is_put_into_the_mouth_of_another(run: Path, tmp_path: Path) -> None:
    paths = {(row["adversary"], row["prefix_id"]): row for row in read_rows(run / "trajectories.jsonl")}
    rows = read_rows(written(run, "inspect", tmp_path / "x") / "samples.jsonl")
    assert any(row["metadata"]["later_turns"] for row in rows)
    for row in rows:
        facts = row["metadata"]
        path = paths[facts["adversary"], facts["prefix_id"]]
        said = [turn["utterance"] for turn in path["turns"][: facts["turn"]]]
        assert [row["input"][0]["content"], *facts["later_turns"]] == [path["prefix"] + said[0], *said[1:]]
        assert (facts["defender"], facts["found_reply"]) == ("model", path["turns"][facts["turn"] - 1]["reply"])
    out = written(run, "hf", tmp_path / "y")
    for name in ("turns", "failures"):
        assert {row["defender"] for row in read_rows(out / "data" / f"{name}.jsonl")} == {"model"}


def test_failures_that_every_scorer_confirms_come_first(run: Path, tmp_path: Path) -> None:
    judged = tmp_path / "judged"
    judged.mkdir()
    for name in ("summary.json", "trajectories.jsonl"):
        (judged / name).write_text((run / name).read_text())
    failures = read_rows(run / "failures.jsonl")
    last = failures[-1]
    write_rows(judged / "failures.jsonl", [row | {"confirmed": row is last} for row in failures])
    samples = read_rows(written(judged, "inspect", tmp_path / "x") / "samples.jsonl")
    assert [sample["metadata"]["confirmed"] for sample in samples] == [True] + [False] * (len(failures) - 1)
    assert samples[0]["metadata"]["prefix_id"] == last["prefix_id"]
    assert "confirmed" not in read_rows(written(run, "inspect", tmp_path / "y") / "samples.jsonl")[0]["metadata"]


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
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # streams that it leaves open
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


@pytest.mark.slow
@pytest.mark.parametrize("to", sorted(FORMATS))
def test_every_format_has_a_card_and_no_absolute_path(run: Path, tmp_path: Path, to: str) -> None:
    out = written(run, to, tmp_path / "x")
    card = (out / "README.md").read_text()
    assert "Content warning" in card
    digest = json.loads((run / "summary.json").read_text())["config"]["defender_sha256"]
    assert (
        f"- defender, whose replies these are: `model`; licence: not known here; SHA-256 of its weights: {digest}"
        in card
    )
    assert "| adversary | failed prefixes |" in card
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
    summary = json.loads((calm / "summary.json").read_text())
    for row in summary["adversaries"].values():
        row["failure_within_horizon"]["failed"] = 0
    (calm / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="holds no failure to export"):
        export_run(calm, to, tmp_path / "out")


@pytest.mark.slow
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
