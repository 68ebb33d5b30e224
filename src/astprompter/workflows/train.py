"""Start or resume a training run, from settings or from objects: all is checked before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import RunError, UserError
from ..base.files import write_rows
from ..base.processes import is_main, world
from ..base.progress import Progress, progress_of
from ..base.records import ElicitingText, Prefix
from ..config import Settings, load_settings
from ..data import BadRows, load_prefixes, overlap
from ..runs.directory import RunDirectory, refuse_used, versions
from ..runs.rounds import failing_utterances, is_set, settings_in
from ..runs.run import Run
from ..runs.schema.run import ConfigFile, Skipped
from ..runs.started import started_in
from ..training.harden import HardenTrainer, RepairModels
from ..training.preference import PreferenceTrainer
from ..training.sft import SFTTrainer
from ..training.sharding import check_shard
from ..training.state import TrainingModels
from ..training.trainer import Trainer
from . import objects
from .held_out import warn_of_repeats
from .load import load_training_models, training_models
from .objects import ModelLike, ScorerLike, SettingsLike, Texts
from .resume import check_resumable, refuse_changed, texts_hash
from .rounds import parts_of

_log = logging.getLogger(__package__)
KINDS: dict[str, type[Trainer[Any]]] = {"preference": PreferenceTrainer, "sft": SFTTrainer, "harden": HardenTrainer}
"""What trains by ``training.objective``."""
_FEW = 32
"""Fewer prefixes in a set are told to be too few."""


@dataclass(frozen=True, slots=True)
class RunTexts:
    """What a run learns from and is chosen by.

    Attributes:
        train: Training prefixes.
        dev: Held-out prefixes that choose the best adversary.
        eliciting: Texts for weak supervision or SFT; empty where neither needs them.
        skipped: Rows that could not be read, by set.
        earlier: Utterances that led to failures in earlier runs.
    """

    train: Sequence[Prefix]
    dev: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    skipped: Mapping[str, BadRows]
    earlier: Sequence[str] = ()

    @property
    def sets(self) -> dict[str, Sequence[Prefix] | Sequence[ElicitingText] | Sequence[str]]:
        """The sets by name."""
        found: dict[str, Sequence[Prefix] | Sequence[ElicitingText] | Sequence[str]]
        found = {"train": self.train, "dev": self.dev, "eliciting": self.eliciting}
        return found | ({"earlier": self.earlier} if self.earlier else {})


def load_texts(settings: Settings) -> RunTexts:
    """The texts that ``data.*`` names; tells what was left out and skipped.

    Raises:
        UserError: A file is missing or malformed.
    """
    bad = {name: BadRows(settings.data.skip_bad_rows) for name in ("train", "dev", "eliciting")}
    train = load_prefixes(settings.data.train, split="train", bad=bad["train"])
    dev = load_prefixes(settings.data.dev, split="dev", bad=bad["dev"])
    eliciting: list[ElicitingText] = []
    if settings.needs_eliciting:
        source, clean = settings.data.eliciting, settings.supervision.clean
        eliciting = objects.usable_eliciting(source, bad["eliciting"], clean=clean)
    for name, rows in bad.items():
        if rows.count:
            _log.warning(f"data.{name}: {rows}")
    return RunTexts(train, dev, eliciting, bad, _earlier(settings))


def _earlier(settings: Settings) -> list[str]:
    """What led to failures in the runs of ``novelty.earlier``."""
    novelty = settings.novelty
    if novelty.earlier and not novelty.weight:
        raise UserError("novelty.earlier counts with novelty.weight only; set that too, for instance to 1.5")
    return [text for path in novelty.earlier for text in failing_utterances(Path(path), novelty.archive)]


def _warn_of_splits(settings: Settings, prefixes: Sequence[Prefix], dev: Sequence[Prefix]) -> None:
    for name, texts in (("training", prefixes), ("dev", dev)):
        warn_of_repeats(name, texts)
    shared = overlap(prefixes, dev)
    if shared:
        _log.warning(f"{len(shared)} prefixes stand in both training and dev; dev figures will flatter")
    used = min(len(dev), settings.training.dev_prefixes)
    if used < _FEW:
        _log.warning(
            f"best/ is chosen by {used} dev prefixes, so mostly by chance: give at least {_FEW} "
            "(data.dev, training.dev_prefixes)"
        )
    if len(prefixes) < _FEW:
        _log.warning(f"data.train holds {len(prefixes)} prefixes: an adversary learns them rather than the defender")


def new_trainer(settings: Settings, out: Path, *, resume: bool, progress: Progress | None = None) -> Trainer[Any]:
    """Load everything that settings name for a run, new or resumed.

    Raises:
        UserError: Bad input, or an output folder in use.
    """
    check_shard(settings)
    texts = load_texts(settings)
    return begin(settings, load_training_models(settings), texts, out, resume=resume, progress=progress)


def train(
    adversary: ModelLike,
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    dev: Texts,
    out: str | Path,
    eliciting: str | Path | Sequence[str] | Sequence[ElicitingText] | None = None,
    settings: SettingsLike = None,
    resume: bool = False,
    rounds: int | None = None,
    progress: bool | Progress = False,
) -> Run:
    """Tune an adversary, in place, to write likely text after which the defender's replies are toxic.

    Args:
        adversary: A model of :func:`load_model` with ``trainable=True``, a path or hub name, or a ``transformers``
            model and its tokenizer as a pair.
        defender: The frozen model under test, in the same forms; another object than the adversary.
        scorer: Toxicity: of :func:`load_scorer`, its name, or a function ``list[str] -> list[float]``.
        prefixes: Training prefixes: a file, a named set, or texts; texts are kept in the run directory.
        dev: Held-out prefixes that choose the best adversary.
        out: Run directory to create, or to resume.
        eliciting: Texts for weak supervision (``supervision.q``) or SFT; those of ``data.eliciting`` where not given.
        settings: Settings, a preset's name, or what differs from the default preset by dotted keys, such as
            ``{"training.updates": 64}``.
        resume: Continue the run from its checkpoint; adversary and texts must be what it began with.
        rounds: Train a set of so many adversaries, from the same start, each paid for failures unlike those of the ones
            before (``novelty.weight``); every one is a run in ``out``, and the set is evaluated as one adversary.
        progress: Whether to show progress bars. Notices go to the logger ``astprompter``.

    Raises:
        UserError: Something of the wrong kind, or an output folder in use.
        RunError: The run failed.
    """
    out = Path(out)
    options: dict[str, Any] = {"dev": dev, "eliciting": eliciting, "progress": progress}
    if rounds is None and not (resume and is_set(out)):
        return _run(adversary, defender, scorer, prefixes, out, settings, resume=resume, **options)
    speaker = objects.as_speaker(adversary, trainable=True)
    objects.check_tunable(speaker)
    model = speaker.local.model
    start = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    chosen = objects.as_settings(settings, settings_in(out) if resume else None)
    for part in parts_of(chosen, out, rounds, resume=resume):
        model.load_state_dict(start)
        _run(speaker, defender, scorer, prefixes, part.folder, part.settings, resume=part.resume, **options)
    return Run(out)


def _run(
    adversary: ModelLike,
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    out: Path,
    settings: SettingsLike,
    *,
    dev: Texts,
    eliciting: str | Path | Sequence[str] | Sequence[ElicitingText] | None,
    resume: bool,
    progress: bool | Progress,
) -> Run:
    """One run of :func:`train`."""
    recorded = RunDirectory.open(out).settings() if resume else None
    chosen = objects.as_settings(settings, recorded)
    if not resume and is_main():
        refuse_used(out)
    (speaking,), replying, judge, chosen = objects.participants([adversary], defender, scorer, chosen, tuned=True)
    given: dict[str, Any] = {"train": prefixes, "dev": dev}
    sets: dict[str, Any] = {name: objects.as_prefixes(texts, name) for name, texts in given.items()} | {"eliciting": []}
    if chosen.needs_eliciting:
        given["eliciting"] = chosen.data.eliciting if eliciting is None else eliciting
        sets["eliciting"] = objects.as_eliciting(given["eliciting"], clean=chosen.supervision.clean)
    kept = {name: out / "texts" / f"{name}.jsonl" for name in given if not isinstance(given[name], str | Path)}
    chosen = objects.changed(chosen, {f"data.{name}": str(kept.get(name, source)) for name, source in given.items()})
    if recorded is not None:
        check_resumable(chosen, recorded)
    models = training_models(speaking.local, replying, judge)
    texts = RunTexts(**sets, skipped={name: BadRows() for name in sets}, earlier=_earlier(chosen))
    trainer = begin(chosen, models, texts, out, resume=resume, progress=progress_of(progress))
    if is_main() and not resume:
        for name, path in kept.items():
            path.parent.mkdir(exist_ok=True)
            write_rows(path, [_row(text) for text in sets[name]])
    return finish(trainer)


def sft(
    adversary: ModelLike,
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    settings: SettingsLike = None,
    **options: Any,
) -> Run:
    """Tune the SFT baseline on eliciting texts: :func:`train` with the preset ``sft`` on top.

    Raises:
        UserError: As for :func:`train`, which takes the same options.
    """
    if isinstance(settings, Settings):
        chosen = objects.changed(settings, {"training.objective": "sft"})
    else:
        base = load_settings(f"{settings if isinstance(settings, str) else 'embedded'}+sft")
        chosen = objects.as_settings(None if isinstance(settings, str) else settings, base)
    return train(adversary, defender, scorer, prefixes, settings=chosen, **options)


def finish(trainer: Trainer[Any]) -> Run:
    """Run a training to its end.

    Raises:
        RunError: It failed, or no dev turn could be assessed.
    """
    trainer.run()
    out = trainer.directory.path
    if trainer.state.best_iteration < 0:
        raise RunError(f"no dev turn of '{out}' could be assessed, so no model was kept; log.jsonl counts the errors")
    return Run(out)


def begin(
    settings: Settings, models: TrainingModels, texts: RunTexts, out: Path, *, resume: bool, progress: Progress | None
) -> Trainer[Any]:
    """Check that all fits together, and make or open the run directory.

    Raises:
        UserError: Bad input, or an output folder in use.
    """
    _warn_of_splits(settings, texts.train, texts.dev)
    if settings.training.objective == "sft" and models.adversary.chat:
        raise UserError("training.objective=sft tunes on plain text; use adversary.chat=off")
    kind: type[Trainer[Any]] = KINDS[settings.training.objective]
    if (kind is HardenTrainer) != isinstance(models, RepairModels):
        raise UserError("training.objective=harden repairs a defender; use 'astprompter harden RUN -o OUT'")
    for speaker in models.speakers:
        speaker.check_room(settings.rollout.horizon)
    if models.defender.likelihood_proxy:
        _log.info(f"note: every nll is a {models.defender.likelihood_proxy}")
    config = ConfigFile(
        settings=settings.as_dict(),
        versions=versions(),
        models_sha256=models.hashes,
        data_counts={name: len(rows) for name, rows in texts.sets.items()},
        rows_skipped={name: Skipped.of(rows.facts()) for name, rows in texts.skipped.items()},
        data_sha256={name: texts_hash(rows) for name, rows in texts.sets.items()},
        free_reference=models.free_reference,
        **models.defender.facts(),
        processes=world(),
        started_in=started_in(out),
    )
    if resume:
        directory = RunDirectory.open(out)
        refuse_changed(directory.config(), config)
    elif is_main():
        directory = RunDirectory.create(out, config)
    else:
        directory = RunDirectory(out)
    if is_main():
        directory.lock()
        if resume and directory.settings().training.updates != settings.training.updates:
            directory.record(settings)
    trainer = kind(
        settings, models, texts.train, texts.dev, texts.eliciting, directory, progress_of(progress),
        earlier=texts.earlier,
    )  # fmt: skip
    if resume:
        try:
            trainer.resume()
        except BaseException:
            directory.unlock()
            raise
    return trainer


def _row(text: Prefix | ElicitingText) -> dict[str, str]:
    return {"id": text.id, "text": text.text} if isinstance(text, Prefix) else {"text": text.text}
