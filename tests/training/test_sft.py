"""The SFT baseline: its loss by another route, its data, and that a resumed run is the unbroken one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base.errors import UserError
from astprompter.base.records import ElicitingText
from astprompter.config import Settings, load_settings, settings_from
from astprompter.models.local.lm import LanguageModel, weights_hash
from astprompter.models.local.loading import load_model
from astprompter.runs.directory import LOG, RunDirectory
from astprompter.training.sft import SFTTrainer
from astprompter.training.state import TrainingModels
from helpers.files import config_file, read_rows
from helpers.tiny import PREFIXES, SHORT, WordScorer, make_model
from helpers.trainers import OPENINGS, TEXTS, begun, stable


def settings(**training: Any) -> Settings:
    values = {"updates": 9, "pairs_per_iteration": 12, "batch_size": 4, "learning_rate": 1e-3, "warmup_updates": 2}
    values |= {"dev_every": 1, "dev_prefixes": 3, "objective": "sft", **training}
    return settings_from({"rollout": {"horizon": 1, "max_new_tokens": 4}, "training": values})


def trainer(path: Path, tokenizer: Any, chosen: Settings, *, resume: bool = False, texts: Any = TEXTS) -> SFTTrainer:
    lms = [LanguageModel(make_model("gpt2", len(tokenizer)), tokenizer, name=n, sampling=SHORT) for n in "ad"]
    lms[1].model.requires_grad_(False)
    models = TrainingModels(lms[0], lms[1], lms[1], WordScorer(), free_reference=True)
    run = RunDirectory.open(path) if resume else RunDirectory.create(path, config_file(chosen))
    result = SFTTrainer(chosen, models, OPENINGS, OPENINGS, texts, run)
    if resume:
        result.resume()
    return result


def token_nll(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Mean nats per token, one text at a time, by the model's own loss."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.numel() - 1)
        count += ids.numel() - 1
    return total / count


@pytest.mark.parametrize("tokens", [40, 2048])
def test_loss_is_the_mean_nll_of_all_tokens(tmp_path: Path, tokenizer: Any, tokens: int) -> None:
    chosen = settings(updates=1, pairs_per_iteration=8, batch_size=8, max_tokens_per_batch=tokens)
    run = trainer(tmp_path / "a", tokenizer, chosen)
    expected = token_nll(run.models.adversary.model, tokenizer, [text.text for text in TEXTS])  # eight texts, one epoch
    assert run.iterate().loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_it_learns_the_texts_and_keeps_the_last_policy(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=30, learning_rate=3e-3))
    before = token_nll(run.models.adversary.model, tokenizer, PREFIXES)
    defender = weights_hash(run.models.defender.model)
    run.run()
    assert token_nll(run.models.adversary.model, tokenizer, PREFIXES) < before - 0.5
    assert weights_hash(run.models.defender.model) == defender
    assert weights_hash(load_model(str(tmp_path / "a" / "best"))) == weights_hash(run.models.adversary.model)
    dev = [row for row in read_rows(tmp_path / "a" / LOG) if row["type"] == "dev"]
    assert [row["best"] for row in dev] == [False] * (len(dev) - 1) + [True]
    card = (tmp_path / "a" / "best" / "README.md").read_text()
    assert "supervised fine-tuning" in card
    assert "as the last one" in card


@pytest.mark.slow
def test_resumed_run_is_the_unbroken_run(tmp_path: Path, tokenizer: Any) -> None:
    straight = trainer(tmp_path / "a", tokenizer, settings())
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, settings())
    begun(broken, measured=True)
    broken.directory.append(LOG, [broken.iterate()])
    resumed = trainer(tmp_path / "b", tokenizer, settings(), resume=True)
    assert resumed.state.iteration == 1
    resumed.run()
    assert weights_hash(resumed.models.adversary.model) == weights_hash(straight.models.adversary.model)
    rows = [stable(read_rows(tmp_path / name / LOG)) for name in "ab"]
    assert rows[0] == rows[1]


def test_texts_are_needed_whatever_q_is(tmp_path: Path, tokenizer: Any) -> None:
    chosen = settings_from(settings().as_dict() | {"supervision": {"q": 0}})
    with pytest.raises(UserError, match=r"data\.eliciting holds no text"):
        trainer(tmp_path / "a", tokenizer, chosen, texts=[])


def test_texts_of_one_token_teach_nothing_and_break_nothing(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=1), texts=[*TEXTS, ElicitingText("a")])
    assert run.iterate().updates == 1


def test_presets_stand_on_any_base() -> None:
    base = load_settings("gpt2").as_dict()
    both = load_settings("gpt2+sft").as_dict()
    assert both["training"] == base["training"] | {"objective": "sft", "dev_every": 10}
    assert {name: both[name] for name in both if name != "training"} == {
        name: base[name] for name in base if name != "training"
    }
    assert load_settings("sft") == load_settings("embedded+sft")
    assert load_settings("demo+neither").supervision.q == load_settings("demo+neither").reward.lambda_ == 0
