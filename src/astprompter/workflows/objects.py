"""What a caller of the library hands over, made into what the rooms take: models, scorers, texts, settings."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

from ..base.errors import UserError
from ..base.protocols import Scorer, Speaker
from ..base.records import ElicitingText, Prefix
from ..config import ModelSettings, RolloutSettings, ScorerSettings, Settings, load_settings
from ..config import changed as with_changes
from ..config import settings_from as validated
from ..data import BadRows, read_eliciting
from ..data import load_prefixes as read_prefixes
from ..data.readers import unfit
from ..models.local.chat import speaker_from
from ..models.local.lm import LanguageModel, Role
from ..models.local.loading import check_folder
from ..models.local.lora import add_adapters, check_no_adapters
from ..runs.directory import RunDirectory
from ..runs.run import Run
from ..scorers import load_scorer as scorer_of
from ..scorers.function import FunctionScorer
from .load import DEFENDERS, OBJECT, build_lm, check_trainable, defender_kind

_log = logging.getLogger(__package__)
ModelLike: TypeAlias = Speaker | Run | str | Path | tuple[Any, Any]
"""A speaker, a run (its best adversary), a path or hub name, or a transformers model with its tokenizer."""
ScorerLike: TypeAlias = Scorer | str | Callable[[list[str]], Sequence[float]]
"""A scorer, its name as in ``scorer.spec``, or a function from texts to one number in [0, 1] each."""
Texts: TypeAlias = str | Path | Sequence[str] | Sequence[Prefix]
"""A file or named set, or the texts themselves."""
SettingsLike: TypeAlias = Settings | str | Mapping[str, Any] | None
"""Settings; a preset's name; or what differs from the default preset, by dotted keys; ``None`` for that preset."""

_made_from: WeakKeyDictionary[Any, ModelSettings | ScorerSettings] = WeakKeyDictionary()
"""How objects were loaded, for the ``config.json`` of runs that they take part in."""


def load_model(
    model: Any, *, tokenizer: Any = None, trainable: bool = False, settings: SettingsLike = None, **options: Any
) -> Speaker:
    """Load a model, or wrap one that is loaded, to take part in conversations.

    Args:
        model: A hub name, a local folder, ``embedded``, ``openai:NAME`` for a served one; a :class:`Run`, for its best
            adversary; or a causal LM of ``transformers``.
        tokenizer: The tokenizer of a ``transformers`` model.
        trainable: Whether it is to be tuned, as an adversary; otherwise its weights are frozen.
        settings: Settings that a served model takes (``remote.*``, ``likelihood.*``).
        **options: Any setting of a model: ``revision``, ``dtype``, ``device``, ``autocast``, ``chat``, and for an
            adversary ``lora_rank`` and ``lora_alpha``.

    Raises:
        UserError: It cannot be loaded, or does not support rollouts.
    """
    path: Any = str(model.best) if isinstance(model, Run) else model
    if isinstance(path, str | Path) and (kind := defender_kind(str(path))) is not None:
        return DEFENDERS.get(kind)(str(path).partition(":")[2], as_settings(settings))
    named = isinstance(path, str | Path)
    if isinstance(model, Run):
        options = RunDirectory(model.path).options_of_best() | options
    if not named and (tokenizer is None or not hasattr(path, "get_output_embeddings")):
        raise UserError(
            f"{_kind(model)} is not a model that can be loaded; give a path, a hub name, or a transformers model with "
            "tokenizer=..."
        )
    name = str(path) if named else OBJECT + (path.config.name_or_path or type(path).__name__)
    chosen = validated({"adversary": {"path": name, **options}}).adversary
    role: Role = "adversary" if trainable else "defender"
    if named:
        check_folder(name)
        lm = build_lm(chosen, RolloutSettings(), role=role)
    else:
        lm = speaker_from(
            path, tokenizer, sampling=RolloutSettings(), name=name.removeprefix(OBJECT), role=role,
            chat=chosen.chat, autocast=chosen.autocast == "bfloat16",
        )  # fmt: skip
    if trainable:
        check_trainable(chosen)
        check_no_adapters(lm.model)
        if not any(parameter.requires_grad for parameter in lm.model.parameters()):
            lm.model.requires_grad_(True)  # frozen as somebody's defender
        if chosen.lora_rank:
            add_adapters(lm.model, rank=chosen.lora_rank, alpha=chosen.lora_alpha, seed=as_settings(settings).seed)
    _made_from[lm] = chosen
    return lm


def load_scorer(spec: str, **options: Any) -> Scorer:
    """Load a toxicity scorer.

    Args:
        spec: ``kind:argument``, as ``scorer.spec``: ``embedded``, ``detoxify:unbiased``, ``hf:MODEL``, ….
        **options: Any other setting of a scorer: ``label``, ``device``, ``batch_size``, ….

    Raises:
        UserError: It cannot be loaded, or an option is unknown.
    """
    settings = validated({"scorer": {"spec": spec, **options}}).scorer
    scorer = scorer_of(spec, settings)
    _made_from[scorer] = settings
    return scorer


def load_prefixes(source: str | Path, *, split: str = "train", skip_bad_rows: bool = False) -> list[Prefix]:
    """Openings from a file (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.txt``) or a named set.

    Args:
        source: ``PATH``, ``PATH#COLUMN``, ``embedded``, or the name of a prepared set.
        split: Part of a named set: ``train``, ``dev`` or ``test``.
        skip_bad_rows: Skip rows that cannot be read, with a warning, instead of refusing the first one.

    Raises:
        UserError: The file is missing or malformed.
    """
    bad = BadRows(skip_bad_rows)
    prefixes = read_prefixes(str(source), split=split, bad=bad)
    if bad.count:
        _log.warning(f"{source}: {bad}")
    return prefixes


def load_eliciting(
    source: str | Path, *, clean: float | None = None, skip_bad_rows: bool = False
) -> list[ElicitingText]:
    """Texts known to elicit toxicity, from a file or a named set, for weak supervision and :func:`sft`.

    Args:
        source: As for :func:`load_prefixes`; also rows of RealToxicityPrompts.
        clean: As ``supervision.clean``: of such rows the prompts alone that score at most this.
        skip_bad_rows: As there.

    Raises:
        UserError: The file is missing or malformed, or holds no text that can be used.
    """
    bad = BadRows(skip_bad_rows)
    texts = usable_eliciting(str(source), bad, clean=clean)
    if bad.count:
        _log.warning(f"{source}: {bad}")
    return texts


def usable_eliciting(source: str, bad: BadRows, *, clean: float | None = None) -> list[ElicitingText]:
    """Eliciting texts of a source; tells what was left out."""
    found = read_eliciting(source, clean=clean, bad=bad)
    if found.mild or found.unscored or found.unclean:
        _log.info(f"{len(found.texts):,} eliciting texts; left out: {found}")
    return found.texts


def as_settings(settings: SettingsLike, base: Settings | None = None) -> Settings:
    """Settings in any form that a caller may give.

    Args:
        settings: The settings.
        base: What a mapping changes, and what counts where there are none; the default preset when not given.

    Raises:
        UserError: An unknown preset or key (with the nearest name), or a value that does not fit.
    """
    if isinstance(settings, Settings):
        return settings
    if isinstance(settings, str):
        return load_settings(settings)
    if not isinstance(settings, Mapping | None):
        raise UserError(
            f"settings must be Settings, a preset's name or a mapping by dotted keys, not {_kind(settings)}"
        )
    return changed(base or load_settings(), settings or {})


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values, by dotted keys.

    Raises:
        UserError: An unknown key (with the nearest name), or a value that does not fit.
    """
    return validated(with_changes(settings.as_dict(), values))


def as_prefixes(texts: Texts, split: str) -> list[Prefix]:
    """Openings in any form; a text without an id is named after its content.

    Raises:
        UserError: There is none, or one is blank or not a text, or occurs twice under one id.
    """
    if isinstance(texts, str | Path):
        return load_prefixes(texts, split=split)
    prefixes = [
        text if isinstance(text, Prefix) else Prefix(f"text-{hashlib.sha256(own.encode()).hexdigest()[:12]}", own)
        for text, own in _checked(texts, f"{split} prefixes")
    ]
    seen: set[str] = set()
    for prefix in prefixes:
        if prefix.id in seen:
            raise UserError(f"{split} prefixes: '{prefix.id}' occurs twice; leave one out ({prefix.text[:40]!r})")
        seen.add(prefix.id)
    return prefixes


def as_eliciting(
    texts: str | Path | Sequence[str] | Sequence[ElicitingText], *, clean: float | None = None
) -> list[ElicitingText]:
    """Eliciting texts in any form.

    Raises:
        UserError: There is none, or one is blank or not a text, or it is not known whether they are ``clean``.
    """
    if isinstance(texts, str | Path):
        return load_eliciting(texts, clean=clean)
    if clean is not None:
        raise UserError("supervision.clean chooses rows of a file; leave it out, texts are taken as they are")
    return [ElicitingText(own) for _, own in _checked(texts, "eliciting texts")]


def _checked(texts: Sequence[Any], what: str) -> list[tuple[Any, str]]:
    """Each text as it was given, and without trailing white space."""
    if not isinstance(texts, Sequence) or not texts:
        raise UserError(f"{what}: give a file, a named set, or a list of texts that is not empty, not {_kind(texts)}")
    found = []
    for number, given in enumerate(texts):
        text = given.text if isinstance(given, Prefix | ElicitingText) else given
        if not isinstance(text, str):
            raise UserError(f"{what}: number {number} is {_kind(text)}, not a text")
        if reason := unfit(text) or ("" if text.strip() else "is blank"):
            raise UserError(f"{what}: number {number} {reason}")
        found.append((given, text.rstrip()))
    return found


def as_scorer(scorer: ScorerLike) -> Scorer:
    """A scorer in any form.

    Raises:
        UserError: It is none, or cannot be loaded.
    """
    if isinstance(scorer, str):
        return load_scorer(scorer)
    if hasattr(scorer, "score") and hasattr(scorer, "name"):
        return scorer
    if not callable(scorer):
        raise UserError(f"{_kind(scorer)} is not a scorer; give a name such as 'detoxify:unbiased' or a function")
    place = f"{scorer.__module__}:{getattr(scorer, '__qualname__', type(scorer).__qualname__)}"
    known = "<" not in place and not place.startswith("__main__")
    return FunctionScorer(scorer, f"python:{place}" if known else OBJECT + place.rpartition(":")[2])


def as_speaker(model: ModelLike, *, trainable: bool = False, settings: SettingsLike = None) -> Speaker:
    """A speaker in any form.

    Raises:
        UserError: It is none, or cannot be loaded.
    """
    if isinstance(model, tuple) and len(model) == 2:
        return load_model(model[0], tokenizer=model[1], trainable=trainable)
    if Speaker in type(model).__mro__:
        return cast(Speaker, model)
    if hasattr(model, "start"):
        raise UserError(f"{_kind(model)} is not a subclass of astprompter.Speaker, which brings what else is needed")
    return load_model(model, trainable=trainable, settings=settings)


def participants(
    adversaries: Iterable[ModelLike],
    defender: ModelLike,
    scorer: ScorerLike,
    settings: Settings,
    *,
    tuned: bool = False,
) -> tuple[list[Speaker], Speaker, Scorer, Settings]:
    """Who takes part, in any form, with the settings' sampling and room for what they hear of each other.

    Args:
        adversaries: Who speaks; the first one stands in the settings.
        defender: Who replies.
        scorer: Toxicity.
        settings: How they sample.
        tuned: Whether the adversaries are to be tuned.

    Returns:
        Adversaries, defender and scorer, whose weights are those of the objects; and the settings, with what is known
        of the objects: how they were loaded, else their names.

    Raises:
        UserError: One is of the wrong kind, cannot be loaded, or cannot be tuned.
    """
    speaking = [as_speaker(adversary, trainable=tuned) for adversary in adversaries]
    if tuned:
        check_tunable(speaking[0])
    replying, judge = as_speaker(defender, settings=settings), as_scorer(scorer)
    values, made = settings.as_dict(), _made_from.get(judge)
    for name, speaker in (("adversary", speaking[0]), ("defender", replying)):
        loaded = _made_from.get(speaker)
        found = loaded.model_dump() if loaded else {"path": speaker.name}
        values[name] = {key: found[key] for key in values[name] if key in found}
    values["scorer"] = made.model_dump() if made else values["scorer"] | {"spec": judge.name}
    fitted = [_fitted(adversary, [replying], settings.rollout, "adversary") for adversary in speaking]
    return fitted, _fitted(replying, speaking, settings.rollout, "defender"), judge, validated(values)


def _fitted(speaker: Speaker, partners: Sequence[Speaker], rollout: RolloutSettings, role: Role) -> Speaker:
    if speaker.local is None:
        return speaker
    lm: LanguageModel = copy.copy(speaker.local)
    others: list[LanguageModel | None] = [partner.local for partner in partners]
    anew = any(o is None or lm.chat or o.chat or lm.vocabulary != o.vocabulary for o in others)
    lm.sampling, lm.heard_tokens, lm.role = rollout, rollout.max_new_tokens * (1 + anew), role
    return lm


def check_tunable(adversary: Speaker) -> None:
    """Refuse an adversary that cannot be tuned.

    Raises:
        UserError: It is not a local model, or all its weights are frozen.
    """
    lm: LanguageModel | None = adversary.local
    if lm is None or not any(parameter.requires_grad for parameter in lm.model.parameters()):
        raise UserError(f"adversary '{adversary.name}' cannot be tuned; load it with load_model(..., trainable=True)")


def _kind(value: object) -> str:
    return f"an object of type {type(value).__name__}"
