"""Any Hugging Face causal language model as adversary, reference or defender."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from ...base.errors import UserError
from ...base.processes import whole
from ...base.protocols import Session, Speaker
from ...data.download import reaches
from .base import LocalModel
from .capabilities import install
from .session import LMSession

Role = Literal["adversary", "defender"]
_MIN_PREFIX_TOKENS = 8
_PREFIX = 256
"""Tokens assumed for a prefix, to reckon memory, where the context allows them."""


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


def load_model(
    path: str, *, revision: str | None = None, dtype: str = "float32", device: str = "auto", classifier: bool = False
) -> Any:
    """Load a causal LM, or a sequence classifier, from safetensors, without remote code; in evaluation mode.

    Raises:
        UserError: The model cannot be found or loaded, or lacks weights; the message names it and says why.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    what = "sequence classifier" if classifier else "causal language model"
    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    with explained(path, what):
        model, loading = kind.from_pretrained(
            path, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, attn_implementation=None if classifier else "sdpa",
        )  # fmt: skip
    if loading["missing_keys"]:
        raise UserError(f"'{path}' is not a trained {what}: it has no weights for '{min(loading['missing_keys'])}'")
    return model.to(resolve_device(device)).eval()


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with explained(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)


@contextmanager
def explained(path: str, what: str) -> Iterator[None]:
    """Turn the loaders' many exceptions into one line that names the model."""
    check_folder(path)
    _check_hub(path, what)
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(f"cannot load {what} '{path}': {_first_line(error)}") from error


def check_folder(path: str) -> None:
    """Refuse what looks like a local path and is none, before a hub is asked for it.

    Raises:
        UserError: There is no such folder.
    """
    if (path.startswith((".", "/", "~")) or "\\" in path) and not Path(path).is_dir():
        raise UserError(f"model folder '{path}' does not exist")


def hub_constants() -> Any:
    """Where the hub is, where its files are kept, and whether it may be asked."""
    from transformers.utils import hub

    return hub.constants  # type: ignore[attr-defined]


def _check_hub(path: str, what: str) -> None:
    """Refuse a model that is neither here nor to be had, without the minutes in which the loader tries again and again.

    Raises:
        UserError: It is no folder, nothing of it is in the hub's cache, and the hub is not to be asked or not reached.
    """
    constants = hub_constants()
    cached = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"
    if Path(path).is_dir() or cached.is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    elif not reaches(constants.ENDPOINT):
        why = f"{constants.ENDPOINT} cannot be reached"
    else:
        return
    raise UserError(
        f"cannot load {what} '{path}': it is not on this machine, and {why}; name a folder in its place (for a scorer: "
        "scorer.spec=hf:./my-classifier, or scorer.spec=embedded), or fetch it once where there is a network: hf "
        f"download {path}"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names and values of all parameters but adapters: which weights were used, and that they stayed."""
    digest = hashlib.sha256()
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in sorted(weights.items()):
        if ".lora_" not in name:
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
        config = self.model.config
        heads = int(config.num_attention_heads)
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        head_width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        turn = self.sampling.max_new_tokens + self.heard_tokens
        prefix = min(_PREFIX, max(1, self.context - horizon * turn))
        leaves = int(branching**horizon)
        if self.shares_branches:
            columns = prefix + turn * sum(branching**depth for depth in range(1, horizon + 1))
        else:
            columns = leaves * (prefix + turn * horizon)
        number = 2 if self.autocast else self.model.dtype.itemsize
        cache = columns * 2 * self.layers * key_heads * head_width * number
        chunk = leaves * turn * (8 * self.logits_width + 2 * heads * (prefix + turn * horizon)) * 4
        return {str(self.device): int(cache + chunk + leaves * 2 * self.vocabulary_size * 4)}
