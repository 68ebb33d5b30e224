"""A tiny sentence encoder: mean pooling by the library's own forward pass, whatever the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from astprompter.base.errors import UserError
from astprompter.scorers.encoder import SentenceEncoder
from helpers.tiny import SENTENCES, make_tokenizer


def encoder(folder: Path, **options: Any) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 24
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, **options)  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_vectors_are_means_of_unit_length_whatever_the_batch(tmp_path: Path) -> None:
    folder = encoder(tmp_path)
    mine = SentenceEncoder.load(str(folder))
    texts = [*SENTENCES, SENTENCES[0] * 9, "Hi"]
    vectors = mine.vectors(texts)
    assert vectors.dtype == np.float32
    plain, tokenizer = BertModel.from_pretrained(folder).eval(), make_tokenizer()
    for text, vector in zip(texts, vectors, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:24]])
        with torch.no_grad():
            mean = plain(input_ids=ids).last_hidden_state[0].mean(dim=0)
        assert np.allclose(vector, mean / mean.norm(), atol=1e-6)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "whole")
    with pytest.raises(UserError, match="cannot load sentence encoder"):
        SentenceEncoder.load("no-such-model-anywhere")
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = 3  # a layer without weights
    config.save_pretrained(folder)
    with pytest.raises(UserError, match="not a trained sentence encoder"):
        SentenceEncoder.load(str(folder))
