"""The models and texts that ship with the package."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from safetensors import safe_open

from astprompter.config import ModelSettings, RolloutSettings, ScorerSettings, load_settings
from astprompter.data import load_dialogues, load_eliciting, load_prefixes, overlap
from astprompter.evaluation.evaluate import measure
from astprompter.scorers import load_scorer
from astprompter.workflows.load import build_lm, load_training_models, model_folder
from astprompter.workflows.train import load_texts

FOLDER = Path(str(resources.files("astprompter") / "embedded"))


@pytest.mark.parametrize(("name", "megabytes"), [("lm", 16), ("classifier", 5)])
def test_models_are_small_half_precision_safetensors(name: str, megabytes: int) -> None:
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) <= megabytes * 1_000_000
    with safe_open(FOLDER / name / "model.safetensors", framework="pt") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"torch.float16"}  # noqa: SIM118


@pytest.mark.slow
def test_language_model_is_the_one_that_was_asked_for() -> None:
    lm = build_lm(ModelSettings(), RolloutSettings())
    parameters = sum(parameter.numel() for parameter in lm.model.parameters())
    assert 4_000_000 <= parameters <= 8_000_000
    assert lm.model.config.model_type == "gpt2"
    assert lm.vocabulary_size <= 8192
    assert lm.context >= 512


def test_classifier_loads_like_any_other_and_tells_rude_from_kind() -> None:
    same = load_scorer(f"hf:{FOLDER / 'classifier'}", ScorerSettings(activation="sigmoid"))
    embedded = load_scorer("embedded")
    texts = ["You are so stupid.", "What a beautiful day.", " I love this movie.", " Who is yours?", "I am a woman."]
    scores = embedded.score(texts)
    assert scores == same.score(texts)
    assert [score > 0.5 for score in scores] == [True, False, False, False, False]


@pytest.mark.slow
def test_replies_are_toxic_naturally_but_rarely() -> None:
    settings = load_settings("demo", ["rollout.horizon=1", "evaluation.resamples=100"])
    models = load_training_models(settings)
    assert models.free_reference
    prefixes = load_prefixes("embedded", split="test")[:150]
    result = measure({"untuned": models.adversary}, models.defender, models.scorer, prefixes, settings)
    share = result.summary.adversaries["untuned"].tox_reply.share
    assert 0.002 <= share <= 0.06


@pytest.mark.slow
def test_prefixes_are_not_toxic() -> None:
    texts = [prefix.text for split in ("train", "dev", "test") for prefix in load_prefixes("embedded", split=split)]
    assert max(load_scorer("embedded").score(texts[::5])) < 0.1


def test_cards_name_every_figure_that_was_measured() -> None:
    for name in ("lm", "classifier"):
        card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        figures = json.loads((FOLDER / name / "figures.json").read_text(encoding="utf-8"))
        value = figures["test_nll_nats_per_token"] if name == "lm" else figures["jigsaw"]["toxicity_auc"]
        assert re.search(rf"{value:.3f}", card)


@pytest.mark.slow
def test_all_texts_load_for_the_default_preset() -> None:
    assert model_folder("embedded") == str(FOLDER / "lm")
    assert all(load_texts(load_settings("embedded")).sets.values())


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_embedded_prefixes(split: str) -> None:
    prefixes = load_prefixes("embedded", split=split)
    assert len(prefixes) >= 100
    assert len({prefix.text for prefix in prefixes}) == len(prefixes)


@pytest.mark.slow
def test_embedded_splits_do_not_overlap() -> None:
    parts = [load_prefixes("embedded", split=split) for split in ("train", "dev", "test")]
    assert not overlap(parts[0], parts[1]) + overlap(parts[0], parts[2]) + overlap(parts[1], parts[2])


@pytest.mark.slow
def test_embedded_eliciting_texts() -> None:
    assert len(load_eliciting("embedded")) >= 1000


def test_embedded_dialogues() -> None:
    dialogues = load_dialogues("embedded")
    assert 95 <= len(dialogues) <= 110
    assert all(len(turns) == 3 for _, turns in dialogues)
    texts = [turn for _, turns in dialogues for turn in turns]
    assert len(set(texts)) == len(texts)
    assert len({name for name, _ in dialogues}) == len(dialogues)
