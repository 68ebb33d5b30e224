from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from astprompter.base.errors import UserError
from astprompter.config import ScorerSettings
from astprompter.scorers import load_scorer
from astprompter.scorers.classifiers import ClassifierScorer
from astprompter.scorers.first_token import FirstTokenLayer
from helpers.judges import classifier
from helpers.tiny import SENTENCES, make_model, make_tokenizer

TEXTS = [*SENTENCES, "Hi", SENTENCES[0], "   ", ""]


def load(folder: Path, **options: Any) -> ClassifierScorer:
    scorer = load_scorer(f"hf:{folder}", ScorerSettings(**options))
    assert isinstance(scorer, ClassifierScorer)
    return scorer


def plain_logits(folder: Path, scorer: ClassifierScorer, text: str) -> torch.Tensor:
    """By the library's own forward pass: the scorer's model leaves out what nobody reads."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([scorer.tokenizer(text, truncation=True, max_length=40)["input_ids"]])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return logits


@pytest.mark.parametrize("kind", ["bert", pytest.param("roberta", marks=pytest.mark.slow), "gpt2"])
def test_score_is_the_sigmoid_of_the_named_label_whatever_the_batch(tmp_path: Path, kind: str) -> None:
    folder = classifier(tmp_path / kind, kind)
    scorer = load(folder, batch_size=3)
    assert any(isinstance(module, FirstTokenLayer) for module in scorer.model.modules()) == (kind != "gpt2")
    got = scorer.score(TEXTS)
    for text, value in zip(TEXTS, got, strict=True):
        expected = 1 / (1 + math.exp(-float(plain_logits(folder, scorer, text)[1]))) if text.strip() else 0.0
        assert value == pytest.approx(expected, abs=1e-6)
    assert len(set(got)) > 5


@pytest.mark.slow
def test_softmax_when_asked(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    scorer = load(folder, activation="softmax", label="threat")
    logits = plain_logits(folder, scorer, "Hi")
    assert scorer.score(["Hi"])[0] == pytest.approx(float(logits.exp()[2] / logits.exp().sum()), abs=1e-6)


def test_activation_must_be_known(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "x", problem_type=None)
    with pytest.raises(UserError, match=r"scorer\.activation=sigmoid"):
        load(folder)
    assert load(folder, activation="sigmoid").score(["Hi"])[0] > 0
    single = classifier(tmp_path / "y", problem_type="single_label_classification")
    shares = [load(single, label=name).score(["Hi"])[0] for name in load(single).labels]
    assert sum(shares) == pytest.approx(1.0)


def test_labels_go_by_name(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    assert load(folder, label="Toxicity").name.endswith("(toxicity)")
    with pytest.raises(UserError, match=r"no label 'toxicty'\. Did you mean 'toxicity'\?"):
        load(folder, label="toxicty")
    (Path(folder) / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no label 'toxicty'"):  # known before the weights are read
        load(folder, label="toxicty")


def test_identical_texts_are_scored_once(tmp_path: Path, monkeypatch: Any) -> None:
    scorer = load(classifier(tmp_path))
    seen = 0
    real = scorer.model.forward

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += len(kwargs["input_ids"])
        return real(*args, **kwargs)

    monkeypatch.setattr(scorer.model, "forward", count)
    first = scorer.score(["a b", "c", "a b", " "])
    assert seen == 2
    assert scorer.score(["c", "a b"]) == [first[1], first[0]]
    assert seen == 2


def test_long_texts_lose_their_end(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    scorer = load(folder)
    text = SENTENCES[0] * 20
    assert scorer.score([text])[0] == pytest.approx(
        1 / (1 + math.exp(-float(plain_logits(folder, scorer, text)[1]))), abs=1e-5
    )


def test_non_finite_scores_come_back_as_nan_and_are_not_remembered(tmp_path: Path) -> None:
    scorer = load(classifier(tmp_path))
    bias = scorer.model.classifier.bias
    keep = bias.clone()
    bias[1] = math.nan
    assert math.isnan(scorer.score(["Hi"])[0])
    bias.copy_(keep)
    assert math.isfinite(scorer.score(["Hi"])[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("detoxfy:x", "unknown scorer"),
        ("wrod:x", "Did you mean 'word'"),
        ("hf:", "needs a model"),
        ("word:", "needs a word"),
        ("hf:./no/such/folder", "does not exist"),
        ("hf:no-such-model-anywhere", "cannot load sequence classifier 'no-such-model-anywhere'"),
    ],
)
def test_bad_names_are_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_scorer(spec)
    assert "\n" not in str(caught.value)


def test_a_language_model_is_not_a_classifier(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a trained sequence classifier"):
        load(tmp_path, label="LABEL_1", activation="softmax")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    model = BertForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(folder)


def test_word_scorer_needs_no_toxic_text() -> None:
    scorer = load_scorer("word:banana")
    assert scorer.score(["A Banana!", "bananas", ""]) == [1.0, 0.0, 0.0]


def test_a_decoder_is_read_at_the_last_token_that_the_model_takes_for_real(tmp_path: Path) -> None:
    scorer = load(classifier(tmp_path, "gpt2", pad_token_id=5))
    short, long = "Hello there", "Hello there, it is a long and winding road."
    assert scorer.score([short, long])[0] == pytest.approx(load(tmp_path).score([short])[0], abs=1e-6)
