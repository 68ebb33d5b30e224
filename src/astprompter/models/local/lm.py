"""Any Hugging Face causal language model as adversary, reference or defender."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from ...base.processes import whole
from ...base.records import Session, Speech
from ...config import SamplingSettings
from .capabilities import install, special_ids
from .session import LMSession

_log = logging.getLogger(__name__)
_MIN_PREFIX_TOKENS = 8


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: The device name is unknown or not present.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' is not usable here ({_first_line(error)}); try device=cpu") from None


def load_model(path: str, *, revision: str | None = None, dtype: str = "float32", device: str = "auto") -> Any:
    """Load a causal LM from safetensors, without remote code.

    Raises:
        UserError: The model cannot be found or loaded; the message names it and says why.
    """
    from transformers import AutoModelForCausalLM

    with explained(path, "causal language model"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    model.to(resolve_device(device))
    return model.eval()


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with explained(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)


class explained:
    """Turn the loaders' many exceptions into one line that names the model."""

    def __init__(self, path: str, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        check_folder(self.path)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, torch.cuda.OutOfMemoryError) or not isinstance(error, Exception):
            return
        raise UserError(f"cannot load {self.what} '{self.path}': {_first_line(error)}") from error


def check_folder(path: str) -> None:
    """Refuse what looks like a local path and is none, before a hub is asked for it.

    Raises:
        UserError: There is no such folder.
    """
    if (path.startswith((".", "/", "~")) or "\\" in path) and not Path(path).is_dir():
        raise UserError(f"model folder '{path}' does not exist")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def vocabulary_of(tokenizer: Any) -> str:
    """Fingerprint of the id-to-token table: equal fingerprints mean ids can travel without decoding."""
    table = json.dumps(sorted(tokenizer.get_vocab().items())).encode("utf-8", "surrogatepass")
    return hashlib.sha256(table).hexdigest()[:16]


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names and values of all parameters but adapters: which weights were used, and that they stayed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".lora_" not in name:
            digest.update(name.replace(".base_layer.", ".").encode())
            digest.update(whole(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class LanguageModel:
    """A causal LM that hears and speaks text (protocol :class:`~astprompter.base.records.Speaker`).

    Attributes:
        model: The Hugging Face model, in evaluation mode while it speaks.
        tokenizer: Its tokenizer.
        sampling: How it samples.
        vocabulary: Fingerprint of the tokenizer.
        context: Most tokens the model can hold.
        vocabulary_size: Rows of the output embedding.
        layers: Attention layers.
        logits_width: Width of the hidden states that the output embedding reads.
        end_ids: Tokens that end a speech.
        banned: Tokens that are never sampled, specials that are not an end and padding rows: int64 [tokens].
        banned_early: Those and the ends, before ``min_new_tokens``.
        shares_branches: Whether branches share the cache of what they have in common, instead of copies.
        packs: Whether the model honours a mask of ancestors, so that sequences can share a row.
        refusals: What the model answered to short cuts that it does not support.
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
            UserError: The model does not honour attention masks and caches the way rollouts need.
        """
        self.model, self.tokenizer, self.sampling, self._name = model, tokenizer, sampling, name
        self.vocabulary = vocabulary_of(tokenizer)
        self.context = context or _context_of(model.config)
        self.autocast = autocast
        self.heard_tokens = sampling.max_new_tokens if heard_tokens is None else heard_tokens
        self.end_ids = _end_ids(model, tokenizer)
        size, self.logits_width = model.get_output_embeddings().weight.shape
        self.vocabulary_size = size
        self.layers = int(model.config.num_hidden_layers)
        self._ban()
        self.shares_branches = self.packs = False
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        plain = self._encode("a")
        with_specials = tokenizer("a")["input_ids"]
        self._opening = tuple(with_specials[: with_specials.index(plain[0])]) if plain[0] in with_specials else ()
        self._anchor = plain
        self.refusals: list[str] = []
        install(self)

    def _ban(self) -> None:
        """Set which tokens are never sampled, from the tokenizer and ``end_ids``."""
        never = {i for i in special_ids(self.tokenizer) if i < self.vocabulary_size} - set(self.end_ids)
        never |= set(range(len(self.tokenizer), self.vocabulary_size))  # padded rows of the embedding have no token
        self.banned = torch.tensor(sorted(never), dtype=torch.long, device=self.device)
        self.banned_early = torch.tensor(sorted(never | set(self.end_ids)), dtype=torch.long, device=self.device)

    @property
    def name(self) -> str:
        """Name for logs and tables."""
        return self._name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        """Open one conversation per prefix, cut on the left so that ``turns`` turns fit.

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
        room = self.prefix_budget(turns) - len(self._opening)
        ids = self._encode(text)[-room:]
        return (*self._opening, *ids) if self._opening or ids else tuple(self.end_ids[:1])

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
        """Text of every token of a speech; see :class:`astprompter.base.records.Spells`."""
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

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """Hidden states of new tokens.

        Args:
            ids: New tokens, int64 [rows, new].
            mask: Validity of all columns so far, bool [rows, past + new]; or who sees whom,
                [rows, 1, new, past + new], bool or added to the scores.
            positions: Position of each new token, int64 [rows, new].
            cache: Key-value cache of the past columns, extended in place.

        Returns:
            Hidden states [rows, new, width], to be read by :meth:`logits`.
        """
        body = self.model.base_model
        options = {self._cache_argument: cache} if cache is not None else {}
        output = body(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=cache is not None, **options
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits: [..., width] -> [..., vocabulary]."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text; a special token that is spelt out in it stays text."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])


def _context_of(config: Any) -> int:
    """Most tokens; no more than a sliding window, so that the window never matters."""
    context = 2048
    for key in ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            context = value
            break
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return min(context, window) if isinstance(window, int) and window > 0 else context


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    size = model.get_output_embeddings().weight.size(0)  # a config may keep the end of a larger vocabulary
    found = [i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int) and 0 <= i < size]
    return tuple(dict.fromkeys(found))
