"""Any Hugging Face causal language model as adversary, reference or defender."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ...base.errors import UserError
from ...base.processes import whole
from ...base.protocols import Session, Speaker
from ...base.records import Prefix
from .base import LocalModel
from .capabilities import install
from .session import LMSession

Role = Literal["adversary", "defender"]
ADAPTER = "astprompter"
"""Name of the adapters that a run puts beside a model; adapters of others are a part of the model."""
_MIN_PREFIX_TOKENS = 8
_PREFIX = 256
"""Tokens assumed for a prefix, to reckon memory, where the context allows them."""


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names and values of all weights but :data:`ADAPTER`: which were used, and that they stayed."""
    digest = hashlib.sha256()
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in sorted(weights.items()):
        if f".{ADAPTER}." not in name:
            digest.update(name.encode())
            digest.update(whole(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class LanguageModel(LocalModel, Speaker):
    """A causal LM that hears and speaks text.

    Attributes:
        chat: Whether it speaks under a chat template.
        role: Which side it plays; only under a chat template this changes what it says.
    """

    chat = False
    role: Role = "adversary"

    def _probe(self) -> None:
        install(self)

    @property
    def local(self) -> LanguageModel:
        """Itself."""
        return self

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        """Open one conversation per prefix, cut on the left to what is allowed and so that ``turns`` turns fit.

        Raises:
            UserError: The context is too short for the horizon.
        """
        return self.start_ids([self.prompt_of(self.encode_prefix(text, turns=turns)) for text in prefixes])

    def start_ids(self, rows: Sequence[Sequence[int]]) -> Session:
        """Open one conversation per row of token ids."""
        return LMSession.open(self, rows)

    def prompt_of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """From tokens of an opening (:meth:`encode_prefix`) to what is continued; a chat model frames them."""
        return ids

    def prefix_budget(self, turns: int) -> int:
        """Most prefix tokens that leave room for ``turns`` turns.

        Raises:
            UserError: Fewer than a handful remain.
        """
        budget = self.context - turns * (self.sampling.max_new_tokens + self.heard_tokens)
        if budget < _MIN_PREFIX_TOKENS:
            raise UserError(
                f"model '{self.name}' has a context of {self.context} tokens, too short for {turns} turns of "
                f"{self.sampling.max_new_tokens} + {self.heard_tokens} tokens; lower rollout.horizon or "
                "rollout.max_new_tokens"
            )
        return budget

    def encode_prefix(self, text: str, *, turns: int) -> tuple[int, ...]:
        """Token ids of an opening: the tokenizer's opening tokens once, then the last tokens that fit."""
        ids, _ = self._fitted(text, self.prefix_budget(turns) - len(self._opening))
        return (*self._opening, *ids) if self._opening or ids else tuple(self.end_ids[:1])

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What is left of a prefix, and how many tokens were cut."""
        return self._cut(prefix, *self._fitted(prefix.text, self.prefix_budget(turns) - len(self._opening)))

    def _fitted(self, text: str, room: int) -> tuple[list[int], int]:
        """The last tokens of a text, ``room`` or what is allowed at most, and how many were cut before them."""
        ids, room = self._encode(text), min(room, self.sampling.max_prefix_tokens)
        return ids[-room:], max(0, len(ids) - room)

    def _cut(self, prefix: Prefix, ids: list[int], lost: int) -> Prefix:
        return replace(prefix, text=self.decode(ids), cut=lost) if lost else prefix

    def check_room(self, turns: int) -> None:
        """Refuse a horizon for which the context is too short.

        Raises:
            UserError: It leaves no room for a prefix.
        """
        self.prefix_budget(turns)

    def weights_sha256(self) -> str:
        """See :func:`weights_hash`."""
        return weights_hash(self.model)

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """Memory one tree needs at its last depth, by the name of the device.

        With P prefix tokens, t tokens a turn and branching b, the cache holds P + t·Σ_{k=1..d} b^k tokens (or
        b^d·(P + t·d) where branches are copied), each of 2·layers·key heads·head width numbers. Each of the b^d rows
        also needs two rows of logits, and for the t tokens of a chunk about eight hidden states and their scores.
        """
        config = self.config
        layers, heads = int(config.num_hidden_layers), int(getattr(config, "num_attention_heads", None) or 1)
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        head_width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        turn = self.sampling.max_new_tokens + self.heard_tokens
        prefix = min(_PREFIX, self.sampling.max_prefix_tokens, max(1, self.context - horizon * turn))
        leaves = int(branching**horizon)
        if self.shares_branches:
            columns = prefix + turn * sum(branching**depth for depth in range(1, horizon + 1))
        else:
            columns = leaves * (prefix + turn * horizon)
        number = 2 if self.autocast else self.model.dtype.itemsize
        cache = columns * 2 * layers * key_heads * head_width * number
        chunk = leaves * turn * (8 * self.logits_width + 2 * heads * (prefix + turn * horizon)) * 4
        return {str(self.device): int(cache + chunk + leaves * 2 * self.vocabulary_size * 4)}
