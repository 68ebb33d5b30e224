"""Detoxify by name: labels, explicit sigmoid, and parity with the package itself on a checkpoint made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from astprompter import scorers
from astprompter.base.errors import UserError
from astprompter.config import ScorerSettings
from astprompter.scorers import load_scorer
from astprompter.scorers.classifiers import ClassifierScorer
from helpers.tiny import SENTENCES, make_tokenizer

DATA_SET_LABELS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
"""Labels of the first Jigsaw challenge, as in the config of unitary/toxic-bert, in its order."""
TEXTS = [*SENTENCES, "Hi", " ".join(SENTENCES) * 3]


def classifier(folder: Path, labels: list[str]) -> Any:
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single=f"{end} $A {end}", special_tokens=[(end, 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=end, sep_token=end, pad_token=end, unk_token=end, model_max_length=64
    )
    names: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, pad_token_id=0, **names)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = BertForSequenceClassification(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "original", **options: Any) -> ClassifierScorer:
    monkeypatch.setitem(scorers.DETOXIFY, name, str(folder))
    scorer = load_scorer(f"detoxify:{name}", ScorerSettings(**options))
    assert isinstance(scorer, ClassifierScorer)
    return scorer


@pytest.mark.slow
def test_names_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier(tmp_path, DATA_SET_LABELS)
    scorer = load(tmp_path, monkeypatch)
    assert scorer.name == "detoxify:original (toxic)"
    assert load(tmp_path, monkeypatch, label="identity_attack").name == "detoxify:original (identity_hate)"
    assert load(tmp_path, monkeypatch, label="obscene").name == "detoxify:original (obscene)"
    assert load_scorer("detoxify:original#threat").name == "detoxify:original (threat)"
    with pytest.raises(UserError, match=r"no label 'sexual'"):
        load(tmp_path, monkeypatch, label="sexual")
    with pytest.raises(UserError, match=r"no model 'unbaised'\. Did you mean 'unbiased'\?"):
        load_scorer("detoxify:unbaised")


def test_it_is_a_sigmoid_whatever_the_config_or_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(tmp_path, ["severe_toxicity", "toxicity", "obscene"])  # not in the usual order
    scorer = load(tmp_path, monkeypatch, "unbiased", activation="softmax")
    ids = scorer.tokenizer("Hi", return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).logits.sigmoid()[0, 1]
    assert scorer.score(["Hi"])[0] == pytest.approx(float(expected), abs=1e-6)


def test_parity_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both routes on one checkpoint, in the package's own format, which this test made itself."""
    detoxify = pytest.importorskip("detoxify", reason="NOT COMPARED with Detoxify: pip install 'astprompter[detoxify]'")
    model = classifier(tmp_path / "model", DATA_SET_LABELS)
    checkpoint = tmp_path / "made-here.ckpt"
    arch = {"model_type": str(tmp_path / "model"), "model_name": "BertForSequenceClassification",
            "tokenizer_name": "AutoTokenizer", "num_classes": len(DATA_SET_LABELS)}  # fmt: skip
    config = {"arch": {"args": arch}, "dataset": {"args": {"classes": DATA_SET_LABELS}}}
    torch.save({"config": config, "state_dict": model.state_dict()}, checkpoint)
    theirs = detoxify.Detoxify(checkpoint=str(checkpoint), huggingface_config_path=str(tmp_path / "model"))
    expected = theirs.predict(TEXTS)
    assert "identity_attack" in expected
    for label, values in expected.items():
        ours = load(tmp_path / "model", monkeypatch, label=label).score(TEXTS)
        assert ours == pytest.approx(values, abs=1e-5), label
        assert max(values) - min(values) > 1e-4, "the comparison must be able to fail"
