"""From settings to objects: who is loaded, from where, and what they share."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.records import Scorer, Speaker
from ..base.registry import Registry
from ..config import ModelSettings, RolloutSettings, ScorerSettings, Settings
from ..evaluation.evaluate import likelihood_of
from ..models.local.chat import ChatModel, Role, has_template
from ..models.local.likelihood_proxy import LikelihoodProxy
from ..models.local.lm import LanguageModel, load_model, load_tokenizer, vocabulary_of, weights_hash
from ..models.local.lora import WithoutAdapters, add_adapters
from ..models.served.http import Endpoint
from ..models.served.remote import RemoteSpeaker
from ..scorers import load_scorer
from ..training.state import TrainingModels

EMBEDDED = "embedded"
DefenderFactory = Callable[[str, Settings], Speaker]


def model_folder(path: str) -> str:
    """Folder of the embedded model, or the path as given.

    Raises:
        UserError: The embedded model is not part of this installation.
    """
    if path != EMBEDDED:
        return path
    folder = Path(str(resources.files("astprompter") / "embedded" / "lm"))
    if not (folder / "config.json").is_file():
        raise UserError("the embedded language model is missing; build it with scripts/build_embedded.py or reinstall")
    return str(folder)


def build_lm(
    settings: ModelSettings,
    rollout: RolloutSettings,
    *,
    partner: ModelSettings | None = None,
    role: Role = "adversary",
) -> LanguageModel:
    """Load a speaker.

    Args:
        settings: Which model.
        rollout: How it samples.
        partner: The other speaker; a different vocabulary needs more room for what is heard.
        role: Which side a chat model plays.

    Raises:
        UserError: The model cannot be loaded or does not support rollouts.
    """
    path = model_folder(settings.path)
    tokenizer = load_tokenizer(path, revision=settings.revision)
    heard = rollout.max_new_tokens * (2 if partner is not None and _other_tokens(settings, partner, tokenizer) else 1)
    model = load_model(path, revision=settings.revision, dtype=settings.dtype, device=settings.device)
    options: dict[str, Any] = {
        "name": settings.path,
        "sampling": rollout,
        "heard_tokens": heard,
        "autocast": settings.autocast == "bfloat16",
    }
    if settings.chat == "on" or (settings.chat == "auto" and has_template(tokenizer)):
        return ChatModel(model, tokenizer, role=role, **options)
    return LanguageModel(model, tokenizer, **options)


def _other_tokens(settings: ModelSettings, partner: ModelSettings, tokenizer: Any) -> bool:
    """Whether what the partner says must be encoded anew; so for partners of a kind without a tokenizer to compare."""
    if (partner.chat, settings.chat) != ("off", "off"):
        return True  # messages are encoded anew, without the white space around them
    if (partner.path, partner.revision) == (settings.path, settings.revision):
        return False
    if defender_kind(partner.path) is not None:
        return True
    other = load_tokenizer(model_folder(partner.path), revision=partner.revision)
    return vocabulary_of(other) != vocabulary_of(tokenizer)


def build_scorer(settings: Settings) -> Scorer:
    """Load the toxicity scorer.

    Raises:
        UserError: It cannot be loaded, or has no such label.
    """
    return load_scorer(settings.scorer.spec, settings.scorer)


def build_other_scorers(settings: Settings) -> list[Scorer]:
    """Load the scorers that evaluation reports beside the one that drives the reward, with their kinds' own labels.

    Raises:
        UserError: One cannot be loaded.
    """
    options = ScorerSettings(**settings.scorer.model_dump(exclude={"label", "activation", "revision"}))
    return [load_scorer(spec, options) for spec in settings.evaluation.scorers]


def defender_kind(path: str) -> str | None:
    """Kind of a ``kind:argument`` defender; ``None`` for a local model or hub name, which hold no colon there."""
    kind, colon, _ = path.partition(":")
    return kind if colon and re.fullmatch(r"[a-z][a-z0-9_-]+", kind) else None


def build_defender(settings: Settings) -> Speaker:
    """Load the frozen defender: a model, or ``kind:argument`` of :data:`DEFENDERS`.

    Raises:
        UserError: It cannot be loaded or reached; or it tells no likelihood and none stands in.
    """
    kind = defender_kind(settings.defender.path)
    if kind is not None:
        return DEFENDERS.get(kind)(settings.defender.path.partition(":")[2], settings)
    defender = build_lm(settings.defender, settings.rollout, partner=settings.adversary, role="defender")
    defender.model.requires_grad_(False)
    return defender


def _build_served(model: str, settings: Settings) -> Speaker:
    remote, local = settings.remote, settings.likelihood
    if not model:
        raise UserError("defender.path='openai:' needs the name of the served model, for instance openai:my-model")
    if remote.likelihood == "local" and not local.path:
        raise UserError("remote.likelihood=local needs a model: set likelihood.path")
    speaker = RemoteSpeaker(
        Endpoint(remote), model, settings.rollout, api=remote.api, likelihood=remote.likelihood != "local"
    )
    if speaker.route is not None:
        return speaker
    if remote.likelihood == "server" or not local.path:
        raise UserError(
            f"server {remote.base_url} gives no prompt log-probs that can be trusted "
            f"({'; '.join(speaker.facts.why_not)}); name a local model that stands in with likelihood.path"
        )
    standing = build_lm(local, settings.rollout, partner=settings.defender, role="defender")
    # It hears both sides: replies are encoded anew always, utterances where the adversary's tokens are others.
    if _other_tokens(local, settings.adversary, standing.tokenizer):
        standing.heard_tokens += settings.rollout.max_new_tokens
    standing.model.requires_grad_(False)
    return LikelihoodProxy(speaker, standing)


DEFENDERS: Registry[DefenderFactory] = Registry("defender", "astprompter.defenders", {"openai": _build_served})
"""Defenders by ``kind:argument`` in ``defender.path``; other paths are local models or hub names."""


def defender_hash(defender: Speaker) -> str | None:
    """Hash of the defender's weights; ``None`` for a served one."""
    return weights_hash(defender.model) if isinstance(defender, LanguageModel) else None


def defender_facts(defender: Speaker) -> dict[str, object]:
    """What is known about the defender beside its weights, for ``config.json`` and ``summary.json``."""
    speaker = defender.defender if isinstance(defender, LikelihoodProxy) else defender
    return {
        "remote": dataclasses.asdict(speaker.facts) if isinstance(speaker, RemoteSpeaker) else None,
        "likelihood": likelihood_of(defender),
    }


def load_training_models(settings: Settings) -> TrainingModels:
    """Load all models of a training run; the reference is the defender where the weights are the same.

    Raises:
        UserError: Something cannot be loaded; or the adversary's dtype cannot be trained.
    """
    if settings.adversary.dtype != "float32" and not settings.adversary.lora_rank:
        raise UserError(
            f"adversary.dtype={settings.adversary.dtype} cannot be tuned, its steps are larger than the updates; use "
            "adversary.dtype=float32 (adversary.autocast=bfloat16 makes it fast), or adapters (adversary.lora_rank)"
        )
    adversary = build_lm(settings.adversary, settings.rollout, partner=settings.defender)
    defender, scorer = build_defender(settings), build_scorer(settings)
    start = weights_hash(adversary.model)
    theirs = defender_hash(defender)
    same = (
        isinstance(defender, LanguageModel)
        and settings.adversary.dtype == settings.defender.dtype
        and settings.adversary.autocast == settings.defender.autocast
        and adversary.vocabulary == defender.vocabulary
        and start == theirs
        and _compute_alike(adversary, defender)
    )
    reference = defender if isinstance(defender, LanguageModel) else adversary
    chosen = settings.adversary
    if chosen.lora_rank:
        add_adapters(adversary.model, rank=chosen.lora_rank, alpha=chosen.lora_alpha, seed=settings.seed)
    if not same and chosen.lora_rank:
        reference = WithoutAdapters(
            adversary.model, adversary.tokenizer, name=f"{adversary.name} (reference)", sampling=adversary.sampling,
            heard_tokens=adversary.heard_tokens, autocast=adversary.autocast,
        )  # fmt: skip
    elif not same:
        frozen = copy.deepcopy(adversary.model).requires_grad_(False)
        reference = LanguageModel(
            frozen, adversary.tokenizer, name=f"{adversary.name} (reference)", sampling=adversary.sampling,
            heard_tokens=adversary.heard_tokens, autocast=adversary.autocast,
        )  # fmt: skip
    # Under a chat template the same words have another likelihood for each side.
    free = same and not isinstance(adversary, ChatModel) and not isinstance(defender, ChatModel)
    return TrainingModels(
        adversary, reference, defender, scorer, free_reference=free, adversary_sha256=start, defender_sha256=theirs
    )


_UNREAD = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def _compute_alike(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether two models of equal weights make the same of a text: equal configs, and equal tokens."""
    one, other = ({k: v for k, v in lm.model.config.to_dict().items() if k not in _UNREAD} for lm in (a, b))
    probe = "Is it so? It is."
    return (
        one == other and a.context == b.context and a.encode_prefix(probe, turns=1) == b.encode_prefix(probe, turns=1)
    )
