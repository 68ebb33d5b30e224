"""The training loop: iterations, dev evaluations that choose the best adversary, checkpoints, the log."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import RunError, UserError
from ..base.processes import barrier, is_main
from ..base.progress import Progress, Silent
from ..base.randomness import keys_of
from ..base.records import ElicitingText, Prefix, Turn
from ..config import Settings
from ..rollout.run import roll_out
from ..runs.directory import FROZEN, LOG, RunDirectory
from ..runs.schema.common import Part
from ..runs.schema.run import FrozenFile, Hashes, LogRow, Progression, StateFile
from .best import save_best
from .checkpoint import load_checkpoint, save_checkpoint
from .metrics import summary_line, turn_metrics, turns_of
from .optimizer import Updater
from .state import TrainingModels

_log = logging.getLogger(__package__)


@dataclass(slots=True)
class Trainer(ABC):
    """Runs a training; :meth:`run` is the main loop, and what an iteration is, is for subclasses to say.

    Attributes:
        settings: All settings.
        models: Models and scorer.
        prefixes: Training prefixes.
        dev: Held-out prefixes that choose the best adversary.
        eliciting: Texts for weak supervision or SFT; may be empty where neither needs them.
        directory: Where everything is written.
        progress: Where progress is shown.
        watch: Called with every row of ``log.jsonl``, for trackers.
        state: Counters of the run.
        updater: Optimizer and updates.
        resumed: Whether it goes on from a checkpoint.
    """

    settings: Settings
    models: TrainingModels
    prefixes: Sequence[Prefix]
    dev: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    directory: RunDirectory
    progress: Progress = field(default_factory=Silent)
    watch: Callable[[LogRow], None] = lambda row: None
    state: Progression = field(default_factory=Progression)
    updater: Updater = field(init=False)
    resumed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.settings.needs_eliciting and not self.eliciting:
            raise UserError(
                "data.eliciting holds no text, and weak supervision or SFT needs some; add texts or set supervision.q=0"
            )
        self.updater = Updater(self.settings.training, self.models.adversary, self.state, self.progress)

    def run(self) -> None:
        """Train until ``training.updates``; saves every iteration, evaluates every ``training.dev_every`` ones."""
        for lm in {id(speaker): speaker for speaker in (self.models.adversary, self.models.reference)}.values():
            if not lm.packs:
                _log.info(
                    f"model '{lm.name}' refuses a mask of ancestors: its log-probabilities are computed from separate "
                    "sequences, with the same result and more work"
                )
        try:
            self._loop()
            self._prove_frozen()
        finally:
            self.directory.unlock()

    def _loop(self) -> None:
        training = self.settings.training
        if not self.resumed:
            self._evaluate_dev()  # the untuned policy is the first candidate
            self._save()
        with self.progress.task("training", training.updates, "updates") as advance:
            advance(self.state.updates)
            while self.state.updates < training.updates:
                before = self.state.updates
                row = self.iterate()
                advance(self.state.updates - before)
                self._log(LOG, [row])
                _log.info(summary_line(row))
                if self._dev_due():
                    self._evaluate_dev()
                self._save()

    def _prove_frozen(self) -> None:
        """Write down that defender and reference are what they were when the run began (``frozen.json``).

        Raises:
            RunError: One of them is not; then no figure of the run means anything.
        """
        before = {"defender": self.models.defender_sha256, "reference": self.models.adversary_sha256}
        defender, reference = self.models.defender, self.models.reference
        found: dict[str, str | None] = {"reference": reference.weights_sha256()}
        found["defender"] = found["reference"] if defender is reference else defender.weights_sha256()
        after = {name: found[name] if before[name] else None for name in before}
        if is_main():
            FrozenFile(before=Hashes(**before), after=Hashes(**after)).write(self.directory.path / FROZEN)
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            raise RunError(f"training changed the weights of the {' and the '.join(changed)}; this should not happen")

    def resume(self) -> None:
        """Continue from the run's checkpoint; what was logged after it is dropped and made again.

        A run that stopped before its first checkpoint begins again.
        """
        if not self.directory.begun():
            _log.info("the run stopped before its first checkpoint; it begins again")
            barrier()
            if is_main():
                self.directory.cut_logs({})
            return
        saved = load_checkpoint(self.directory.checkpoint, self.models.adversary.model, self.updater.optimizer)
        barrier()
        if is_main():
            self.directory.cut_logs(saved.log_bytes)
        self.resumed = True
        for name, value in saved.progression:
            setattr(self.state, name, value)  # in place: updater and collector count on the same one

    @abstractmethod
    def iterate(self) -> LogRow:
        """Get data and update once over; returns the iteration's log row."""

    def _dev_due(self) -> bool:
        training = self.settings.training
        return self.state.updates >= training.updates or self.state.iteration % training.dev_every == 0

    def _evaluate_dev(self) -> None:
        """Mean reward on held-out prefixes with fixed random keys; a new best is saved at once."""
        settings, models = self.settings, self.models
        prefixes = self.dev[: settings.training.dev_prefixes]
        with self.updater.placement.gathered():
            trees = roll_out(
                models.adversary, models.defender, models.scorer, prefixes,
                keys_of(settings.seed, "dev", 0, len(prefixes)), settings,
                branching=1, task="dev evaluation", progress=self.progress,
            )  # fmt: skip
        metrics = self._turn_metrics([turn for tree in trees for turn in turns_of(tree.children)])
        reward = metrics["reward"].mean
        best = self._is_best(reward)
        row = LogRow(type="dev", iteration=self.state.iteration, updates=self.state.updates, best=best, **metrics)
        self._log(LOG, [row])
        _log.info(summary_line(row))
        if best:
            self.state.best_iteration = self.state.iteration
            self.state.best_reward = reward
            save_best(self.directory.best, self.models.adversary, self.settings, row)

    def _is_best(self, reward: float | None) -> bool:
        """Whether a policy of this mean dev reward (``None``: every turn was an error) is to be kept."""
        return reward is not None and (self.state.best_reward is None or reward > self.state.best_reward)

    def _turn_metrics(self, turns: Sequence[Turn]) -> dict[str, Any]:
        """Means over turns; where another model's likelihood stands in, the nll says whose it is."""
        return turn_metrics(turns, self.settings.reward, self.models.defender.likelihood_proxy)

    def _save(self) -> None:
        state = StateFile(progression=self.state, log_bytes=self.directory.sizes())
        save_checkpoint(self.directory.checkpoint, self.models.adversary.model, self.updater.optimizer, state)
        barrier()

    def _log(self, name: str, rows: Sequence[Part]) -> None:
        """Append rows; among several processes the first one writes for all."""
        if is_main():
            self.directory.append(name, rows)
            for row in rows:
                if isinstance(row, LogRow):
                    self.watch(row)
