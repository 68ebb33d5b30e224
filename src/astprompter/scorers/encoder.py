"""A sentence encoder: texts of one meaning get vectors of one direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..base.errors import UserError
from ..models.local.loading import explained, load_tokenizer, resolve_device
from .classifiers import padded
from .remembering import in_batches

_BATCH = 64


class SentenceEncoder:
    """Means of an encoder's last hidden states, of unit length (Reimers and Gurevych 2019, arXiv 1908.10084).

    An :class:`~astprompter.base.protocols.Encoder`. Texts that are too long lose their end.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        """Wrap a loaded encoder and its tokenizer."""
        self.name, self._model, self._tokenizer = name, model.eval().requires_grad_(False), tokenizer
        self._limit = min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings))

    @classmethod
    def load(cls, path: str) -> SentenceEncoder:
        """Load from safetensors, without remote code, in float32.

        Raises:
            UserError: It cannot be loaded, or lacks weights; the message names it.
        """
        from transformers import AutoModel

        with explained(path, "sentence encoder"):
            model, loading = AutoModel.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
        missing = [key for key in loading["missing_keys"] if not key.startswith("pooler.")]
        if missing or getattr(model.config, "is_encoder_decoder", False):
            raise UserError(f"'{path}' is not a trained sentence encoder; mend evaluation.encoder")
        return cls(model.to(resolve_device("auto")), load_tokenizer(path), name=path)

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A unit vector for each text, [texts, width]."""
        rows = self._tokenizer(list(texts), truncation=True, max_length=self._limit)["input_ids"]
        return np.stack(in_batches(rows, _BATCH, self._forward))

    @torch.no_grad()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        ids, mask = padded(rows, 0, self._model.device)
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        sums = (states * mask[..., None]).sum(dim=1)
        return list((sums / sums.norm(dim=1, keepdim=True)).cpu().numpy())
