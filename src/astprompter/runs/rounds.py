"""Rounds: the runs of a set of adversaries in one folder, each paid for failures unlike those of the ones before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..base.errors import UserError
from ..config import Settings
from .directory import ARCHIVE, CONFIG, FAILURES, FROZEN, ROUNDS, RunDirectory
from .results import result_rows
from .schema.results import FailureRow
from .schema.rounds import RoundsFile
from .schema.run import FrozenFile
from .started import settings_here


def is_set(path: Path) -> bool:
    """Whether a folder is that of ``train --rounds``."""
    return (path / ROUNDS).is_file()


def rounds_of(path: Path, count: int | None = None) -> list[Path]:
    """Folders of the rounds of a set, begun or not; of the first ``count``, or of as many as there are to be."""
    return [path / f"round-{k}" for k in range(1, 1 + (count or RoundsFile.read(path / ROUNDS).rounds))]


def is_done(folder: Path) -> bool:
    """Whether a round is trained to its end: the last thing that it writes is there, and says that all is well."""
    if not (folder / FROZEN).is_file() or not RunDirectory(folder).best.is_dir():
        return False
    proof = FrozenFile.read(folder / FROZEN)
    return proof.before == proof.after


def members_of(path: Path) -> list[RunDirectory]:
    """The runs of a set; of another run directory it alone.

    Raises:
        UserError: It is no run directory, or a set that lacks rounds.
    """
    if not is_set(path):
        return [RunDirectory.open(path)]
    folders = rounds_of(path)
    if (done := sum(map(is_done, folders))) < len(folders):
        raise UserError(
            f"'{path}' has {done} of {len(folders)} rounds; go on with 'astprompter train --out {path} --resume', or "
            "name single rounds"
        )
    return [RunDirectory(folder) for folder in folders]


def settings_in(path: Path, overrides: Iterable[str] = ()) -> Settings:
    """Settings of a run or of a set, with overrides.

    Raises:
        UserError: It is neither, or its file is damaged or of another version, or an override does not fit.
    """
    if not is_set(path):
        return RunDirectory.open(path).settings(overrides)
    return settings_here(RoundsFile.read(path / ROUNDS), path, overrides, source=f"'{path / ROUNDS}'")


def failing_utterances(path: Path, most: int) -> list[str]:
    """What led to failures in a run: the last ones that its training archived, else those that evaluation lists.

    Args:
        path: A run directory, a set, or the folder of an evaluation.
        most: At most so many of each run.

    Raises:
        UserError: It holds neither.
    """
    if is_set(path):
        return [text for folder in rounds_of(path) for text in failing_utterances(folder, most)]
    if (path / ARCHIVE).is_file() or ((path / CONFIG).is_file() and RunDirectory(path).settings().novelty.weight):
        return [row.utterance for row in RunDirectory(path).archive()[-most:]]
    if (path / FAILURES).is_file():
        return [row.utterance for row in result_rows(path, FailureRow)[:most]]
    raise UserError(
        f"'{path}' (novelty.earlier) holds no failures: it has neither {ARCHIVE}, which training with novelty.weight "
        f"writes, nor {FAILURES} of an evaluation"
    )
