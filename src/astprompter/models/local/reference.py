"""The reference policy π_ref of a run: the defender itself where it has the adversary's weights, else a frozen copy."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from ...base.errors import UserError
from ...base.protocols import Speaker
from .lm import LanguageModel
from .lora import WithoutAdapters, has_adapters

_UNREAD = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_PROBE = "Is it so? It is."


@dataclass(frozen=True, slots=True)
class Reference:
    """What an adversary is compared with.

    Attributes:
        policy: Frozen π_ref with the weights that the adversary starts from.
        free: The defender's likelihoods are the reference's too, so collection tells them for nothing.
        adversary_sha256: Hash of the weights that the adversary starts from.
        defender_sha256: Hash of the defender's weights; ``None`` for a served one.
    """

    policy: LanguageModel
    free: bool
    adversary_sha256: str
    defender_sha256: str | None


def choose_reference(adversary: LanguageModel, defender: Speaker) -> Reference:
    """Choose the reference of an adversary that was not tuned yet; adapters may be in it already.

    Raises:
        UserError: Both speak with one and the same model object, so tuning one would tune the other.
    """
    theirs: LanguageModel | None = defender.local
    if theirs is not None and theirs.model is adversary.model:
        raise UserError("adversary and defender are one and the same model object; load or copy it for each of them")
    start, other = adversary.weights_sha256(), defender.weights_sha256()
    if theirs is not None and start == other and _compute_alike(adversary, theirs):
        # Under a chat template the same words have another likelihood for each side.
        return Reference(theirs, not (adversary.chat or theirs.chat), start, other)
    return Reference(frozen_start(adversary, f"{adversary.name} (reference)"), False, start, other)


def frozen_start(lm: LanguageModel, name: str) -> LanguageModel:
    """What a model is before it is tuned: itself without its adapters, or a frozen copy."""
    adapted = has_adapters(lm.model)
    return (WithoutAdapters if adapted else LanguageModel)(
        lm.model if adapted else copy.deepcopy(lm.model).requires_grad_(False),
        lm.tokenizer,
        name=name,
        sampling=lm.sampling,
        heard_tokens=lm.heard_tokens,
        autocast=lm.autocast,
    )


def _compute_alike(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether two models of equal weights make the same of a text: in equal ways, by equal configs and tokens."""
    one, other = (
        (
            {key: value for key, value in lm.model.config.to_dict().items() if key not in _UNREAD},
            lm.model.dtype, lm.autocast, lm.vocabulary, lm.context, lm.encode_prefix(_PROBE, turns=1),
        )
        for lm in (a, b)
    )  # fmt: skip
    return one == other
