"""A causal language model and its tokenizer: texts to tokens and back, tokens to hidden states and logits."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.records import Speech
from ...config import SamplingSettings
from .attention import Form, mask_in_form
from .cache import GrowingCache
from .whole import Alone, RowCaches, backbone, name_of_cache, own_logits, run_alone

_log = logging.getLogger(__name__)


def vocabulary_of(tokenizer: Any) -> str:
    """Fingerprint of the id-to-token table: equal fingerprints mean ids can travel without decoding."""
    table = json.dumps(sorted(tokenizer.get_vocab().items())).encode("utf-8", "surrogatepass")
    return hashlib.sha256(table).hexdigest()[:16]


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, those included that only ``tokenizer.json`` calls so (Llama 3's, for instance)."""
    flagged = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return flagged | set(tokenizer.all_special_ids)


def same_vocabulary(one: LocalModel, other: LocalModel) -> bool:
    """Whether token by token two models choose among the same."""
    return (one.vocabulary, one.vocabulary_size) == (other.vocabulary, other.vocabulary_size)


class LocalModel:
    """What conversations, probes and updates need of a model that runs in this process.

    Attributes:
        name: Name for logs and tables.
        model: The Hugging Face model, in evaluation mode while it speaks.
        tokenizer: Its tokenizer.
        sampling: How it samples.
        vocabulary: Fingerprint of the tokenizer.
        context: Most tokens the model can hold.
        vocabulary_size: Rows of the output embedding.
        logits_width: Width of the hidden states that the output embedding reads.
        end_ids: Tokens that end a speech.
        banned: Tokens that are never sampled, specials that are not an end and padding rows: int64 [tokens].
        banned_early: Those and the ends, before ``min_new_tokens``.
        shares_branches: Whether branches share the cache of what they have in common, instead of copies.
        masks: What it takes as attention masks.
        alone: How a row goes on, of a model that cannot compute several of unequal length at once; else ``None``.
        packs: Whether the model honours a mask of ancestors, so that sequences can share a row.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        sampling: SamplingSettings,
        heard_tokens: int | None = None,
        context: int | None = None,
        autocast: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A causal LM.
            tokenizer: Its tokenizer.
            name: Name for logs and tables.
            sampling: How it samples.
            heard_tokens: Tokens to reserve for each speech of the other side; default ``max_new_tokens``.
            context: Overrides the context length of the model's config.
            autocast: Matrix products in bfloat16 (weights stay as they are); log-probabilities then differ
                slightly.

        Raises:
            UserError: It is no causal language model, or does not go on from its own cache.
        """
        self.model, self.tokenizer, self.sampling, self.name = model, tokenizer, sampling, name
        self.config = model.config.get_text_config(decoder=True)
        self.vocabulary = vocabulary_of(tokenizer)
        self.context = context or context_of(self.config)
        self.autocast = autocast
        self.heard_tokens = sampling.max_new_tokens if heard_tokens is None else heard_tokens
        self.vocabulary_size, self.logits_width = _head_of(model, name).weight.shape
        self.end_ids = _end_ids(model, tokenizer, self.vocabulary_size)
        self._ban()
        self.shares_branches = self.packs = False
        self.masks: Form = "all"
        self.alone: Alone | None = None
        self._plain_head = _has_plain_head(model, self.logits_width)
        self._cache_argument = name_of_cache(model)
        self._takes_positions = "position_ids" in inspect.signature(self._body.forward).parameters
        plain = self._encode("a")
        with_specials = tokenizer("a")["input_ids"]
        self._opening = tuple(with_specials[: with_specials.index(plain[0])]) if plain[0] in with_specials else ()
        self._anchor = plain
        self._probe()

    def _probe(self) -> None:
        """Find out which short cuts the model supports; here none is trusted."""

    def _ban(self) -> None:
        """Set which tokens are never sampled, from the tokenizer and ``end_ids``."""
        never = {i for i in special_ids(self.tokenizer) if i < self.vocabulary_size} - set(self.end_ids)
        never |= set(range(len(self.tokenizer), self.vocabulary_size))  # padded rows of the embedding have no token
        self.banned = torch.tensor(sorted(never), dtype=torch.long, device=self.device)
        self.banned_early = torch.tensor(sorted(never | set(self.end_ids)), dtype=torch.long, device=self.device)

    @property
    def _body(self) -> Any:
        """The part of the model that gives hidden states."""
        return backbone(self.model)[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that continues a conversation: no opening tokens, no invented leading space."""
        if not text:
            return ()
        joined = self._encode("a" + text)
        if joined[: len(self._anchor)] == self._anchor:
            return tuple(joined[len(self._anchor) :])
        return tuple(self._encode(text))

    def tokens_of(self, speech: Speech) -> tuple[int, ...]:
        """Token ids of a speech in this vocabulary: its own where they fit, else those of its text."""
        if speech.token_ids is not None and speech.vocabulary == self.vocabulary:
            return speech.token_ids
        return self.encode(speech.text)

    def pieces(self, speech: Speech) -> tuple[str, ...]:
        """Text of every token of a speech; the pieces joined are the speech."""
        ids, said, pieces = self.tokens_of(speech), "", []
        for end in range(1, len(ids) + 1):
            text = self.decode(ids[:end])
            if text.endswith("\ufffd") and end < len(ids):
                text = said  # half a character: it belongs to the token that completes it
            pieces.append(text[len(said) :])
            said = text
        return tuple(pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of tokens that continue a conversation, leading space kept."""
        joined = self.tokenizer.decode(
            [*self._anchor, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(joined.removeprefix("a"))

    def precision(self) -> AbstractContextManager[object]:
        """Context of a whole speech or forward pass, so that weights are converted once in it."""
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def new_cache(self, rows: int) -> Any:
        """An empty key-value cache of so many rows, as :meth:`forward` takes it."""
        if self.alone:
            return RowCaches([None] * rows)
        layers = int(self.config.num_hidden_layers)
        return GrowingCache.empty(layers, self.sampling.max_new_tokens + self.heard_tokens, shared=self.shares_branches)

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """Hidden states of new tokens.

        Args:
            ids: New tokens, int64 [rows, new].
            mask: Validity of all columns so far, bool [rows, past + new]; or, without a cache and where the model
                :attr:`packs`, who sees whom, bool [rows, 1, new, new].
            positions: Position of each new token, int64 [rows, new].
            cache: From :meth:`new_cache`, with the past columns; extended in place.

        Returns:
            Hidden states [rows, new, width], to be read by :meth:`logits`.
        """
        if self.alone:
            return run_alone(self.model, self.alone, ids, mask, self.logits_width, cache)
        options = {} if cache is None else {self._cache_argument: cache}
        if self._takes_positions:
            options["position_ids"] = positions
        masks = mask_in_form(self.masks, mask, positions, self.config, self.model.dtype)
        output = self._body(input_ids=ids, attention_mask=masks, use_cache=cache is not None, **options)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits, by the model's own head: [..., width] -> [..., vocabulary]."""
        if self._plain_head:
            logits: Tensor = self.model.get_output_embeddings()(hidden)
            return logits
        return own_logits(self.model, hidden.flatten(0, -2)).view(*hidden.shape[:-1], -1)

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text; a special token that is spelt out in it stays text."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])


def context_of(config: Any) -> int:
    """Most tokens; with rotary factors that change beyond a length (long-RoPE), no more than that.

    There a text's longest batch mate would choose the factors of all, and keys in the cache would have those of before.
    """
    context = 2048
    for key in ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            context = value
            break
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            before, context = context, min(context, rope.get("original_max_position_embeddings") or context)
            if context < before:
                _log.info(
                    f"note: {context} of {before} tokens of context are used: beyond, the rotary factors of a model "
                    "with long-RoPE change with the longest text of a batch"
                )
    return context


def _head_of(model: Any, name: str) -> Any:
    head = model.get_output_embeddings()
    if getattr(head, "weight", None) is None:
        raise UserError(f"model '{name}' ({type(model).__name__}) has no output layer over a vocabulary")
    return head


@torch.no_grad()
def _has_plain_head(model: Any, width: int) -> bool:
    """Whether the output layer alone is the whole head; large states show every soft cap."""
    states = torch.linspace(-30, 30, 2 * width, device=model.device, dtype=model.dtype).view(2, width)
    try:
        return torch.equal(own_logits(model, states), model.get_output_embeddings()(states))
    except Exception:  # architectures raise their own kinds; the probe will tell which
        return False


def _end_ids(model: Any, tokenizer: Any, size: int) -> tuple[int, ...]:
    """Ids that end a text; a config may keep the end of a larger vocabulary than the ``size`` rows of the model's."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    found = [i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int) and 0 <= i < size]
    return tuple(dict.fromkeys(found))
