"""From settings to objects: who is loaded, from where, and what they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.protocols import Scorer, Speaker
from ..base.registry import Registry
from ..config import AdversarySettings, ModelSettings, RolloutSettings, ScorerSettings, Settings
from ..models.local.base import vocabulary_of
from ..models.local.chat import speaker_from
from ..models.local.likelihood_proxy import LikelihoodProxy
from ..models.local.lm import LanguageModel, Role
from ..models.local.loading import check_folder, load_model, load_tokenizer
from ..models.local.lora import add_adapters
from ..models.local.reference import choose_reference
from ..models.served.connect import connect
from ..models.served.http import Endpoint
from ..scorers import OF_TEXTS, load_scorer
from ..training.state import TrainingModels

EMBEDDED, OBJECT = "embedded", "object:"
DefenderFactory = Callable[[str, Settings], Speaker]


def model_folder(path: str) -> str:
    """Folder of the embedded model, or the path as given.

    Raises:
        UserError: The embedded model is not part of this installation; or a run's model was an object of a program.
    """
    if path.startswith(OBJECT):
        raise UserError(
            f"the run used the model object '{path.removeprefix(OBJECT)}' of a Python program; say where it is "
            "saved with adversary.path=... and defender.path=..."
        )
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
    partners: Sequence[ModelSettings] = (),
    role: Role = "adversary",
) -> LanguageModel:
    """Load a speaker.

    Args:
        settings: Which model.
        rollout: How it samples.
        partners: Whom it hears; each that has another vocabulary needs more room.
        role: Which side a chat model plays.

    Raises:
        UserError: The model cannot be loaded or does not support rollouts; or it is served.
    """
    if defender_kind(settings.path) is not None:
        raise UserError(
            f"'{settings.path}' is a served model, which can be the defender and nothing else; name the folder or hub "
            "name of the model behind it"
        )
    path = model_folder(settings.path)
    tokenizer = load_tokenizer(path, revision=settings.revision)
    encoded_anew = sum(_other_tokens(settings, partner, tokenizer) for partner in partners)
    return speaker_from(
        load_model(path, revision=settings.revision, dtype=settings.dtype, device=settings.device),
        tokenizer,
        sampling=rollout,
        name=settings.path,
        role=role,
        chat=settings.chat,
        heard_tokens=rollout.max_new_tokens * (1 + encoded_anew),
        autocast=settings.autocast == "bfloat16",
    )


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
    alone = options.changed(context="none")
    return [
        load_scorer(spec, alone if spec.partition(":")[0] in OF_TEXTS else options)
        for spec in settings.evaluation.scorers
    ]


def defender_kind(path: str) -> str | None:
    """Kind of a ``kind:argument`` defender; ``None`` for a local model or hub name, which hold no colon there."""
    kind, colon, _ = path.partition(":")
    return kind if colon and re.fullmatch(r"[a-z][a-z0-9_-]+", kind) and not path.startswith(OBJECT) else None


def build_defender(settings: Settings) -> Speaker:
    """Load the frozen defender: a model, or ``kind:argument`` of :data:`DEFENDERS`.

    Raises:
        UserError: It cannot be loaded or reached; or it tells no likelihood and none stands in.
    """
    kind = defender_kind(settings.defender.path)
    if kind is not None:
        return DEFENDERS.get(kind)(settings.defender.path.partition(":")[2], settings)
    return build_lm(settings.defender, settings.rollout, partners=[settings.adversary], role="defender")


def _build_served(model: str, settings: Settings) -> Speaker:
    remote, local = settings.remote, settings.likelihood
    if not model:
        raise UserError("defender.path='openai:' needs the name of the served model, for instance openai:my-model")
    if remote.likelihood == "local" and not local.path:
        raise UserError("remote.likelihood=local needs a model: set likelihood.path")
    speaker = connect(
        Endpoint(remote), model, settings.rollout, api=remote.api, likelihood=remote.likelihood != "local",
        reasoning_tokens=remote.reasoning_tokens,
    )  # fmt: skip
    if speaker.route is not None:
        return speaker
    if remote.likelihood == "server" or not local.path:
        raise UserError(
            f"server {remote.base_url} gives no prompt log-probs that can be trusted "
            f"({'; '.join(speaker.why_not)}); name a local model that stands in with likelihood.path"
        )
    # It hears both sides: replies are encoded anew always, utterances where the adversary's tokens are others.
    proxy = build_lm(local, settings.rollout, partners=[settings.defender, settings.adversary], role="defender")
    return LikelihoodProxy(speaker, proxy)


DEFENDERS: Registry[DefenderFactory] = Registry("defender", "astprompter.defenders", {"openai": _build_served})
"""Defenders by ``kind:argument`` in ``defender.path``; other paths are local models or hub names."""


def load_training_models(settings: Settings) -> TrainingModels:
    """Load all models of a training run.

    Raises:
        UserError: Something cannot be loaded; or the adversary's dtype cannot be trained.
    """
    check_trainable(settings.adversary)
    for path in (settings.adversary.path, settings.defender.path):
        if defender_kind(path) is None:
            check_folder(path)
    scorer = build_scorer(settings)  # first, since it is the one that is most often not at hand
    adversary = build_lm(settings.adversary, settings.rollout, partners=[settings.defender])
    defender = build_defender(settings)
    chosen = settings.adversary
    if chosen.lora_rank:
        add_adapters(adversary.model, rank=chosen.lora_rank, alpha=chosen.lora_alpha, seed=settings.seed)
    return training_models(adversary, defender, scorer)


def check_trainable(settings: AdversarySettings) -> None:
    """Refuse an adversary whose number format cannot be tuned.

    Raises:
        UserError: Its steps are larger than the updates.
    """
    if settings.dtype != "float32" and not settings.lora_rank:
        raise UserError(
            f"adversary.dtype={settings.dtype} cannot be tuned, its steps are larger than the updates; use "
            "adversary.dtype=float32 (adversary.autocast=bfloat16 makes it fast), or adapters (adversary.lora_rank)"
        )


def training_models(adversary: LanguageModel, defender: Speaker, scorer: Scorer) -> TrainingModels:
    """Who takes part in a training; the reference is the defender where the weights are the same.

    Raises:
        UserError: Adversary and defender are one and the same model object.
    """
    reference = choose_reference(adversary, defender)
    return TrainingModels(
        adversary, reference.policy, defender, scorer, free_reference=reference.free,
        adversary_sha256=reference.adversary_sha256, defender_sha256=reference.defender_sha256,
    )  # fmt: skip
