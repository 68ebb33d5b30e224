"""Start or resume a training run: texts, models and run directory, checked before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import UserError
from ..base.processes import is_main, world
from ..base.progress import Progress, Silent
from ..base.records import ElicitingText, Prefix
from ..config import Settings
from ..data import BadRows, load_prefixes, overlap, read_eliciting
from ..runs.directory import RunDirectory, versions
from ..runs.schema.run import ConfigFile, Skipped
from ..training.preference import PreferenceTrainer
from ..training.sft import SFTTrainer
from ..training.sharding import check_shard
from ..training.trainer import Trainer
from .load import load_training_models
from .resume import refuse_changed, texts_hash

_log = logging.getLogger(__package__)


def load_texts(
    settings: Settings, bad: Mapping[str, BadRows] | None = None
) -> tuple[list[Prefix], list[Prefix], list[ElicitingText]]:
    """Training prefixes, dev prefixes and eliciting texts.

    Args:
        settings: ``data.*`` name them.
        bad: Where bad rows of ``train``, ``dev`` and ``eliciting`` are counted.

    Raises:
        UserError: A file is missing or malformed.
    """
    bad = bad or bad_rows(settings)
    prefixes = load_prefixes(settings.data.train, split="train", bad=bad["train"])
    dev = load_prefixes(settings.data.dev, split="dev", bad=bad["dev"])
    eliciting: list[ElicitingText] = []
    if settings.needs_eliciting:
        found = read_eliciting(settings.data.eliciting, bad=bad["eliciting"])
        eliciting = found.texts
        if found.mild or found.unscored:
            _log.info(
                f"{len(found.texts):,} eliciting texts; left out: {found.mild:,} with a continuation at or below 0.5, "
                f"{found.unscored:,} without a score"
            )
    for name, rows in bad.items():
        if rows.count:
            _log.warning(f"data.{name}: {rows}")
    return prefixes, dev, eliciting


def bad_rows(settings: Settings) -> dict[str, BadRows]:
    """What becomes of rows that cannot be read, by the set that they stand in."""
    return {name: BadRows(settings.data.skip_bad_rows) for name in ("train", "dev", "eliciting")}


def new_trainer(settings: Settings, out: Path, *, resume: bool, progress: Progress | None = None) -> Trainer:
    """Load everything for a run, new or resumed; input is checked before anything is written.

    Raises:
        UserError: Bad input, or an output folder in use.
    """
    progress = progress or Silent()
    check_shard(settings)
    bad = bad_rows(settings)
    prefixes, dev, eliciting = load_texts(settings, bad)
    shared = overlap(prefixes, dev)
    if shared:
        _log.warning(f"{len(shared)} prefixes stand in both training and dev; dev figures will flatter")
    models = load_training_models(settings)
    if settings.training.objective == "sft" and models.adversary.chat:
        raise UserError("training.objective=sft tunes on plain text; use adversary.chat=off")
    for speaker in (models.adversary, models.defender):
        speaker.check_room(settings.rollout.horizon)
    if models.defender.likelihood_proxy:
        _log.info(f"note: every nll is a {models.defender.likelihood_proxy}")
    texts: dict[str, Sequence[Prefix] | Sequence[ElicitingText]] = {
        "train": prefixes,
        "dev": dev,
        "eliciting": eliciting,
    }
    config = ConfigFile(
        settings=settings.as_dict(),
        versions=versions(),
        models_sha256={"adversary": models.adversary_sha256, "defender": models.defender_sha256},
        data_counts={name: len(rows) for name, rows in texts.items()},
        rows_skipped={name: Skipped.of(rows.facts()) for name, rows in bad.items()},
        data_sha256={name: texts_hash(rows) for name, rows in texts.items()},
        free_reference=models.free_reference,
        **models.defender.facts(),
        processes=world(),
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
    kind = SFTTrainer if settings.training.objective == "sft" else PreferenceTrainer
    trainer = kind(settings, models, prefixes, dev, eliciting, directory, progress)
    if resume:
        try:
            trainer.resume()
        except BaseException:
            directory.unlock()
            raise
    return trainer
