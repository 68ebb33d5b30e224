"""What of a plan is done, told by files alone: what is complete, and was made as the plan and its texts are now."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ..base.errors import UserError
from ..base.names import dialogues_of
from ..data import BadRows, load_dialogues, load_prefixes, read_eliciting
from ..runs.directory import CONFIG, FROZEN, SUMMARY, RunDirectory
from ..runs.schema.run import FrozenFile
from ..runs.schema.summary import Summary
from ..runs.started import settings_here
from ..workflows.resume import check_resumable, texts_hash
from .jobs import Job, Measurement, Training


def is_done(job: Job) -> bool:
    """Whether a job's files are complete and were made under its settings and from its texts.

    Raises:
        UserError: A run in the folder has other settings or texts than the plan, or is no good.
    """
    if isinstance(job, Training):
        run = recorded(job)
        trained = run is not None and (run.updates() or 0) >= job.settings.training.updates and run.best.is_dir()
        return run is not None and trained and _proved_frozen(run)
    if job.needs is not None and not is_done(job.needs):
        return False
    try:
        return _is_measured(job, Summary.read(job.folder / SUMMARY))
    except UserError:
        return False


def recorded(job: Training) -> RunDirectory | None:
    """The run in a training's folder, if there is one.

    Raises:
        UserError: It has other settings or texts than the plan, or its checkpoints are gone.
    """
    if not (job.folder / CONFIG).is_file():
        return None
    run = RunDirectory.open(job.folder)
    config, settings = run.config(), run.settings()
    try:
        check_resumable(job.settings, settings)
    except UserError as error:
        reason = str(error).removeprefix("cannot resume under other settings ")
        raise UserError(f"'{job.folder}' was trained under other settings than the plan's {reason}") from None
    if run.updates() is None and run.begun():
        raise UserError(
            f"'{job.folder}' holds a run whose checkpoints are gone or damaged; restore them, or move the run away to "
            "train it anew"
        )
    data, before = job.settings.data, config.data_sha256
    for kind in ("train", "dev", *(["eliciting"] if job.settings.needs_eliciting else [])):
        clean = job.settings.supervision.clean if kind == "eliciting" else None
        now = _hash_of(kind, getattr(data, kind), data.skip_bad_rows, clean=clean)
        if _differ(before.get(kind), now):
            raise UserError(
                f"'{job.folder}' was trained on other texts than '{getattr(data, kind)}' (data.{kind}) holds now; "
                "restore them, or use another --out"
            )
    return run


def _proved_frozen(run: RunDirectory) -> bool:
    """Whether the run's last act, its proof that defender and reference stayed what they were, is there.

    Raises:
        UserError: They did not.
    """
    try:
        proof = FrozenFile.read(run.path / FROZEN)
    except UserError:
        return False
    if proof.before != proof.after:
        raise UserError(f"'{run.path}' changed its defender or reference ({FROZEN}), so it means nothing; move it away")
    return True


def _is_measured(job: Measurement, summary: Summary) -> bool:
    config, data, rows = summary.config, job.settings.data, list(summary.adversaries.values())
    if len(rows) != 1 or not rows[0].tox_reply.valid:
        return False  # nothing could be assessed, so it is measured again
    prefixes = _hash_of("test", data.test, data.skip_bad_rows, job.settings.evaluation.prefixes)
    if _differ(config.prefixes.sha256 if config.prefixes else None, prefixes):
        return False
    if job.needs is None:  # a trained adversary is known by its folder, which may have moved
        if config.targets != [job.target]:
            return False
        if (source := dialogues_of(job.target)) is not None:
            known = (config.dialogues or {}).get(job.target)
            if _differ(known.sha256 if known else None, _hash_of("dialogues", source, data.skip_bad_rows)):
                return False
    return settings_here(config, job.folder) == job.settings


def _differ(recorded: str | None, now: str | None) -> bool:
    """Whether texts changed, as far as both hashes are known: files of earlier versions hold none."""
    return recorded is not None and now is not None and recorded != now


def _hash_of(kind: str, source: str, skip: bool, count: int | None = None, *, clean: float | None = None) -> str | None:
    """Hash of the texts that a setting names; ``None`` where they are not at hand, which is no change."""
    try:
        file = Path(source.partition("#")[0]).stat()
        stamp = (file.st_mtime_ns, file.st_size)
    except (OSError, ValueError):  # no file, but a name such as 'embedded'
        stamp = (0, 0)
    try:
        return _hash_of_stamped(kind, source, skip, count, clean, stamp)
    except UserError:
        return None


@lru_cache
def _hash_of_stamped(
    kind: str, source: str, skip: bool, count: int | None, clean: float | None, stamp: tuple[int, int]
) -> str:
    """As above; read again when the file's time or size changes."""
    del stamp
    bad = BadRows(skip)
    if kind == "eliciting":
        return texts_hash(read_eliciting(source, clean=clean, bad=bad).texts)
    if kind == "dialogues":
        return texts_hash(load_dialogues(source, bad=bad))
    return texts_hash(load_prefixes(source, split=kind, bad=bad)[:count])
