"""The last layer of a BERT-like classifier, computed where it is read: at the first token.

Such classifiers judge a text by the last hidden state of its first token alone. The keys and values behind it need
all tokens, its query and everything after attention need only that one; the score is the same. Of the matrix
products of a layer four times as wide inside as outside ten twelfths are left out, in the last layer only: much for
the embedded classifier, which has two, little for a large one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FAMILIES = {"bert", "roberta", "xlm-roberta", "camembert"}
"""Model types whose sequence classifiers read the first token only, and whose layers are built alike."""


class FirstTokenLayer(nn.Module):
    """An encoder layer that returns the hidden state of the first token only.

    Attributes:
        layer: The layer whose weights it uses.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, mask: Tensor | None = None, *unused: Any, **options: Any) -> Tensor:
        """[rows, tokens, width] -> [rows, 1, width]; ``mask`` is [rows, 1, tokens, tokens], bool or added to scores."""
        del unused, options
        attention = self.layer.attention.self
        first, heads = hidden[:, :1], attention.num_attention_heads
        query, key, value = (
            product(states).unflatten(2, (heads, -1)).transpose(1, 2)  # [rows, heads, tokens or 1, head width]
            for product, states in ((attention.query, first), (attention.key, hidden), (attention.value, hidden))
        )
        seen = None if mask is None else mask[:, :, :1]
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=attention.scaling)
        attended = self.layer.attention.output(mixed.transpose(1, 2).flatten(2), first)
        result: Tensor = self.layer.feed_forward_chunk(attended)
        return result


def shorten_last_layer(model: Any) -> None:
    """Let a sequence classifier compute its last layer at the first token only, where its family allows that."""
    if model.config.model_type not in _FAMILIES or getattr(model.config, "is_decoder", False):
        return
    layers = model.base_model.encoder.layer
    if not isinstance(layers[-1], FirstTokenLayer):
        layers[-1] = FirstTokenLayer(layers[-1])
