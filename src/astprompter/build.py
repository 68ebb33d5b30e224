"""From settings to objects: who is loaded, from where, and what they share."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path

from .config import ModelSettings, RolloutSettings, Settings
from .data import load_eliciting, load_prefixes, overlap
from .errors import UserError
from .models.lm import LanguageModel, load_model, load_tokenizer, vocabulary_of, weights_hash
from .models.sampling import Sampling
from .progress import Progress, Silent
from .runlog import RunDirectory
from .scorers import ScorerOptions, load_scorer
from .training.trainer import Cast, Trainer
from .types import ElicitingText, Prefix, Scorer

EMBEDDED = "embedded"


def model_folder(path: str) -> str:
    """Folder of the embedded model, or the path as given.

    Raises:
        UserError: The embedded model is not part of this installation.
    """
    if path != EMBEDDED:
        return path
    folder = Path(str(resources.files(__package__) / "embedded" / "lm"))
    if not (folder / "config.json").is_file():
        raise UserError("the embedded language model is missing; build it with scripts/build_embedded.py or reinstall")
    return str(folder)


def sampling_of(rollout: RolloutSettings) -> Sampling:
    """Sampling settings of both speakers."""
    return Sampling(
        max_new_tokens=rollout.max_new_tokens,
        min_new_tokens=min(rollout.min_new_tokens, rollout.max_new_tokens),
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        repetition_penalty=rollout.repetition_penalty,
    )


def build_lm(
    settings: ModelSettings, rollout: RolloutSettings, *, partner: ModelSettings | None = None
) -> LanguageModel:
    """Load a speaker.

    Args:
        settings: Which model.
        rollout: Sampling settings.
        partner: The other speaker; a different vocabulary needs more room for what is heard.

    Raises:
        UserError: The model cannot be loaded or does not support rollouts.
    """
    path = model_folder(settings.path)
    tokenizer = load_tokenizer(path, revision=settings.revision)
    heard = rollout.max_new_tokens
    if partner is not None and (partner.path, partner.revision) != (settings.path, settings.revision):
        other = load_tokenizer(model_folder(partner.path), revision=partner.revision)
        if vocabulary_of(other) != vocabulary_of(tokenizer):
            heard *= 2
    model = load_model(path, revision=settings.revision, dtype=settings.dtype, device=settings.device)
    return LanguageModel(model, tokenizer, name=settings.path, sampling=sampling_of(rollout), heard_tokens=heard,
        autocast=settings.autocast == "bfloat16",
    )  # fmt: skip


def build_scorer(settings: Settings) -> Scorer:
    """Load the toxicity scorer.

    Raises:
        UserError: It cannot be loaded, or has no such label.
    """
    chosen = settings.scorer
    options = ScorerOptions(chosen.label, chosen.activation, chosen.revision, chosen.device, chosen.batch_size)
    return load_scorer(chosen.spec, options)


def build_defender(settings: Settings) -> LanguageModel:
    """Load the frozen defender."""
    defender = build_lm(settings.defender, settings.rollout, partner=settings.adversary)
    defender.model.requires_grad_(False)
    return defender


def build_cast(settings: Settings) -> Cast:
    """Load all models of a training run; the reference is the defender where the weights are the same.

    Raises:
        UserError: Something cannot be loaded; or the adversary's dtype cannot be trained.
    """
    adversary = build_lm(settings.adversary, settings.rollout, partner=settings.defender)
    defender, scorer = build_defender(settings), build_scorer(settings)
    same = (
        settings.adversary.dtype == settings.defender.dtype
        and settings.adversary.autocast == settings.defender.autocast
        and adversary.vocabulary == defender.vocabulary
        and weights_hash(adversary.model) == weights_hash(defender.model)
    )
    reference = defender
    if not same:
        frozen = copy.deepcopy(adversary.model).requires_grad_(False)
        reference = LanguageModel(
            frozen, adversary.tokenizer, name=f"{adversary.name} (reference)", sampling=adversary.sampling,
            heard_tokens=adversary.heard_tokens, autocast=adversary.autocast,
        )  # fmt: skip
    return Cast(adversary, reference, defender, scorer, free_reference=same)


def load_texts(settings: Settings) -> tuple[list[Prefix], list[Prefix], list[ElicitingText]]:
    """Training prefixes, dev prefixes and eliciting texts.

    Raises:
        UserError: A file is missing or malformed.
    """
    prefixes = load_prefixes(settings.data.train, split="train")
    dev = load_prefixes(settings.data.dev, split="dev")
    eliciting = load_eliciting(settings.data.eliciting) if settings.supervision.q > 0 else []
    return prefixes, dev, eliciting


def new_trainer(settings: Settings, out: Path, *, resume: bool, progress: Progress | None = None) -> Trainer:
    """Load everything for a run, new or resumed; input is checked before anything is written.

    Raises:
        UserError: Bad input, or an output folder in use.
    """
    progress = progress or Silent()
    prefixes, dev, eliciting = load_texts(settings)
    shared = overlap(prefixes, dev)
    if shared:
        progress.note(f"warning: {len(shared)} prefixes stand in both training and dev; dev figures will flatter")
    cast = build_cast(settings)
    for speaker in (cast.adversary, cast.defender):
        speaker.prefix_budget(settings.rollout.horizon)
    if resume:
        directory = RunDirectory.open(out)
    else:
        hashes = {"adversary": weights_hash(cast.reference.model), "defender": weights_hash(cast.defender.model)}
        counts = {"train": len(prefixes), "dev": len(dev), "eliciting": len(eliciting)}
        facts = {"models_sha256": hashes, "data_counts": counts, "free_reference": cast.free_reference}
        directory = RunDirectory.create(out, settings, facts)
    trainer = Trainer(settings, cast, prefixes, dev, eliciting, directory, progress)
    if resume:
        trainer.resume()
    return trainer


def check_resumable(settings: Settings, recorded: Settings) -> None:
    """Refuse to continue a run under other settings.

    Raises:
        UserError: Names each setting that changed.
    """
    old, new = _flat(recorded), _flat(settings)
    changed = [f"{key}: {old[key]!r} in the run, {new[key]!r} now" for key in old if old[key] != new[key]]
    if changed:
        raise UserError(
            f"cannot resume under other settings ({'; '.join(changed)}); start a new run with another --out"
        )


def _flat(settings: Settings) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in settings.as_dict().items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
        else:
            flat[name] = value
    return flat
