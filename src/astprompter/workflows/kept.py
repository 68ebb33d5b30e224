"""Conversations of an evaluation that outlive its process: after an interruption it goes on, to the same digit.

Beside the results, ``unfinished/RANK.jsonl`` takes every batch that is done, and is gone once nothing in it can be of
use. Where replies failed it stays, for ``--retry-errors``. What it holds is the process's own records, not a file for
others: a line that is torn, damaged or of other settings counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import RunError, UserError
from ..base.processes import barrier, from_json, is_main, rank, to_json
from ..base.protocols import Speaker
from ..base.records import Prefix, RolloutTree, Turn
from ..config import Settings, dotted
from ..rollout.grow import turns_of
from ..rollout.run import Keeper
from .resume import MAY_CHANGE

_log = logging.getLogger(__package__)
_FOLDER, _COMPLETE = "unfinished", "complete"
_SECTIONS = ("seed", "adversary", "defender", "likelihood", "remote", "scorer", "rollout", "reward")
"""Settings that decide what is said and how it is scored."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Conversations that grew together: whose, how many at most, after which prefixes, and they themselves."""

    adversary: str
    size: int
    prefixes: list[Prefix]
    trees: list[RolloutTree]


class NothingLeftError(UserError):
    """An evaluation in which nothing is left to ask for again: its results are final."""


class Kept:
    """The conversations in an evaluation's folder."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, retry: bool = False) -> None:
        """Look what an earlier process left.

        Args:
            folder: Where the results go.
            facts: What else decides them, beside settings and the adversaries' weights.
            retry: Whether those of an evaluation that is complete are to be taken, but for failed ones.

        Raises:
            UserError: There is none to retry.
        """
        self._folder, self._facts = folder / _FOLDER, facts
        self._keys: set[str] = set()
        self._total = self._failed = self._lost = self._before = 0
        complete = (self._folder / _COMPLETE).exists()
        if retry and not self.waiting(folder):
            raise UserError(
                f"--retry-errors: no evaluation in '{folder}' has failed replies to ask for again; leave it out"
            )
        self._batches = [] if complete and not retry else list(_read(self._folder))
        barrier()
        if is_main() and complete:
            (self._folder / _COMPLETE).unlink()
            if not retry:
                shutil.rmtree(self._folder)

    @staticmethod
    def waiting(folder: Path) -> bool:
        """Whether a folder has conversations that are to be gone on with, or to be asked for again."""
        return (folder / _FOLDER).is_dir()

    def keepers(
        self, adversaries: Mapping[str, Speaker], settings: Settings, prefixes: Sequence[Prefix]
    ) -> dict[str, Keeper]:
        """A keeper for each adversary; tells how many of its conversations are known."""
        decides = deciding(settings.as_dict())
        found: dict[str, Keeper] = {}
        for name, adversary in adversaries.items():
            what = [name, adversary.name, adversary.weights_sha256(), decides, self._facts]
            key = hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()
            keeper = found[name] = _Keeper(self, key)
            known = sum(prefix in keeper.known for prefix in prefixes)
            self._keys.add(key)
            self._total += len(prefixes)
            self._before += keeper.failed
            if known:
                _log.info(f"{name}: {known} of {len(prefixes)} conversations are kept from an unfinished evaluation")
        return found

    def batches(self, adversary: str) -> Iterator[_Batch]:
        """What is kept of an adversary, by its key."""
        return (batch for batch in self._batches if batch.adversary == adversary)

    def add(self, batch: _Batch) -> None:
        """Keep a batch, on disk before this returns.

        Raises:
            RunError: It cannot be written.
        """
        path = self._folder / f"{rank()}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(b"\n" + to_json(_Batch, [batch]))  # after a line that may be torn
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write '{path}': {error.strerror or error}") from None

    def remedy(self, again: str) -> str:
        """What is kept, and how to go on."""
        mine = [batch for batch in _read(self._folder) if batch.adversary in self._keys]
        done = len({(batch.adversary, prefix) for batch in mine for prefix in batch.prefixes})
        if not done:
            return "run the command again"
        return f"{done} of {self._total} conversations are kept in '{self._folder.parent}'; go on with {again}"

    def count(self, turns: Iterable[Turn]) -> None:
        """Take notice of what failed in the results."""
        found = list(turns)
        self._failed, self._lost = sum(map(_failed, found)), sum(map(_lost, found))

    @staticmethod
    def close(every: Sequence[Kept]) -> None:
        """All results are written: forget the conversations, unless there is something to retry in any of them.

        A score that is missing is asked for again once; where that gave none, the scorer has none to give.
        """
        failed, before = sum(kept._failed for kept in every), sum(kept._before for kept in every)
        retry = failed > 0 and (failed != before or any(kept._lost for kept in every))
        for kept in every:
            if retry:
                (kept._folder / _COMPLETE).touch()
            else:
                shutil.rmtree(kept._folder, ignore_errors=True)
        if retry and any(kept._lost for kept in every):
            _log.warning(f"{failed} turns failed; --retry-errors asks for their conversations again, for no others")
        elif retry:
            _log.warning(
                f"{failed} turns have no score; where a server was down, --retry-errors asks for them again, else name "
                "another scorer"
            )
        elif failed:
            _log.warning(f"{failed} turns have no score, though it was asked for again, so nothing is kept")


class _Keeper:
    """What is known of one adversary; see :class:`~astprompter.rollout.run.Keeper`."""

    def __init__(self, kept: Kept, adversary: str) -> None:
        self._kept, self._adversary = kept, adversary
        self.size: int | None = None
        latest: dict[Prefix, RolloutTree] = {}
        for batch in kept.batches(adversary):
            latest |= zip(batch.prefixes, batch.trees, strict=True)
            self.size = batch.size
        failed = {prefix: sum(map(_failed, turns_of(tree.children))) for prefix, tree in latest.items()}
        self.failed = sum(failed.values())
        self.known: Mapping[Prefix, RolloutTree] = {
            prefix: tree for prefix, tree in latest.items() if not failed[prefix]
        }

    def keep(self, prefixes: Sequence[Prefix], trees: Sequence[RolloutTree], size: int) -> None:
        """Keep a batch."""
        self._kept.add(_Batch(self._adversary, size, list(prefixes), list(trees)))


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide conversations and their scores, by dotted keys."""
    flat = dotted(settings)
    return {key: flat[key] for key in flat if key.partition(".")[0] in _SECTIONS and key not in MAY_CHANGE}


def _read(folder: Path) -> Iterator[_Batch]:
    """Batches of all processes in the order in which each kept them; lines that cannot be read are left out."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                yield from from_json(_Batch, line)
            except ValueError:
                continue


def _failed(turn: Turn) -> bool:
    """Whether a turn lacks what asking again may give: a speech that a server did not give, or a score."""
    scores = (turn.tox_utterance, turn.tox_reply, turn.tox_turn)
    unscored = turn.reply.assessable and not all(map(math.isfinite, scores))
    return _lost(turn) or unscored


def _lost(turn: Turn) -> bool:
    """Whether a server did not give a speech."""
    return turn.utterance.error is not None or turn.reply.kind == "failed"
