"""The training loop: iterations, dev evaluations that choose the best adversary, checkpoints, the log."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from ..base.errors import RunError, UserError
from ..base.processes import barrier, is_main
from ..base.progress import Progress, Silent
from ..base.randomness import keys_of
from ..base.records import ElicitingText, Prefix, Turn
from ..config import Settings
from ..rollout.distinct import distinct_in
from ..rollout.grow import turns_of
from ..rollout.run import roll_out
from ..runs.directory import FROZEN, KEPT_START, LOG, TREES, RunDirectory
from ..runs.schema.common import Part
from ..runs.schema.learnt import TreeRow
from ..runs.schema.run import FrozenFile, Hashes, LogRow
from ..runs.schema.state import Counters, KeptPair, StateFile
from .best import save_best
from .checkpoint import load_checkpoint, save_checkpoint
from .metrics import mean, per_second, summary_line, turn_metrics
from .optimizer import Updater, learning_rate
from .state import Clock, TrainingModels

_log = logging.getLogger(__package__)
_BAD_UPDATES_IN_A_ROW = 10
Example = TypeVar("Example")


def minibatches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """The examples in their order, ``size`` at a time."""
    return (examples[start : start + size] for start in range(0, len(examples), size))


@dataclass(slots=True)
class Trainer(ABC, Generic[Example]):
    """Runs a training; :meth:`run` is the main loop, and what it learns from is for subclasses to say.

    Attributes:
        settings: All settings.
        models: Models and scorer.
        prefixes: Training prefixes.
        dev: Held-out prefixes that choose the best adversary.
        eliciting: Texts for weak supervision or SFT; may be empty where neither needs them.
        directory: Where everything is written.
        progress: Where progress is shown.
        watch: Called with every row of ``log.jsonl``, for trackers.
        earlier: Utterances that led to failures in earlier runs (``novelty.earlier``).
        state: How far the run is.
        updater: The optimizer.
        kept: Pairs that further iterations learn from.
        tree: Row of the first tree that the last iteration grew, if any.
        resumed: Whether it goes on from a checkpoint.
    """

    examples: ClassVar[str]
    """What an example is, in the log."""
    kept_start: ClassVar[str] = f"{KEPT_START}; train longer, or raise training.learning_rate"
    """What is said where no policy was better than the one at the start."""

    settings: Settings
    models: TrainingModels
    prefixes: Sequence[Prefix]
    dev: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    directory: RunDirectory
    progress: Progress = field(default_factory=Silent)
    watch: Callable[[LogRow], None] = lambda row: None
    earlier: Sequence[str] = ()
    state: Counters = field(default_factory=Counters)
    updater: Updater = field(init=False)
    kept: list[KeptPair] = field(init=False, default_factory=list)
    tree: TreeRow | None = field(init=False, default=None)
    resumed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.settings.needs_eliciting and not self.eliciting:
            raise UserError(
                "data.eliciting holds no text, and weak supervision or SFT needs some; add texts or set supervision.q=0"
            )
        self.updater = Updater(self.settings.training, self.models.adversary)

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
        if self.state.best_iteration == 0:
            _log.warning(self.kept_start)

    @property
    def done(self) -> bool:
        """Whether all updates are taken."""
        return self.state.updates >= self.settings.training.updates

    def _loop(self) -> None:
        training = self.settings.training
        if not self.resumed:
            self.measure_dev()  # the untuned policy is the first candidate
            self._save()
        with self.progress.task("training", training.updates, "updates") as advance:
            advance(self.state.updates)
            while not self.done:
                before = self.state.updates
                self._log(LOG, [row := self.iterate()])
                advance(self.state.updates - before)
                _log.info(summary_line(row))
                if self.done or self.state.iteration % training.dev_every == 0:
                    if self.tree is not None:
                        self._log(TREES, [self.tree])
                    self.measure_dev()
                self._save()

    def iterate(self) -> LogRow:
        """Collect examples with the current policy, and update once over them; returns the iteration's log row.

        Raises:
            RunError: Too many updates in a row changed nothing.
        """
        training, clock = self.settings.training, Clock()
        examples, facts = self.collect(clock)
        steps: list[dict[str, float]] = []
        skipped = 0
        with self.progress.task("updating", len(examples), "examples") as advance:
            for batch in minibatches(examples, training.batch_size):
                if self.done:
                    break
                step = self.update(batch)
                advance(len(batch))
                if step is None:
                    skipped += 1
                    self._count_skipped()
                    continue
                steps.append(step)
                self.state.updates += 1
                self.state.skipped_in_a_row = 0
        clock.lap("update")
        self.state.iteration += 1
        learned: dict[str, Any] = {key: mean([step[key] for step in steps]) for key in (steps[0] if steps else ())}
        rates = facts.pop("rates", {}) | {
            f"updated_{self.examples}_per_s": per_second(len(examples), clock.laps["update"])
        }
        return LogRow(
            type="iteration",
            iteration=self.state.iteration,
            updates=self.state.updates,
            **facts,
            **learned,
            learning_rate=learning_rate(training, self.state.updates),
            skipped_updates=skipped,
            seconds=clock.laps,
            rates=rates,
        )

    @abstractmethod
    def collect(self, clock: Clock) -> tuple[list[Example], dict[str, Any]]:
        """Examples of the next iteration, made with the current policy, and the log row's fields that tell of them."""

    @abstractmethod
    def update(self, batch: Sequence[Example]) -> dict[str, float] | None:
        """One optimizer step on a minibatch; returns its metrics, or ``None`` where it changed nothing."""

    def _count_skipped(self) -> None:
        """Count an update that changed nothing; the count goes on from one iteration to the next."""
        self.state.skipped_in_a_row += 1
        if self.state.skipped_in_a_row >= _BAD_UPDATES_IN_A_ROW:
            raise RunError(
                f"{self.state.skipped_in_a_row} updates in a row had a non-finite loss or gradient; the last "
                "checkpoint is good: lower training.learning_rate, or use adversary.dtype=float32"
            )

    def measure_dev(self) -> None:
        """Figures on held-out prefixes with fixed random keys; a new best is saved at once."""
        row = self.dev_row()
        row = row.model_copy(update={"best": self.is_best(row)})
        self._log(LOG, [row])
        _log.info(summary_line(row))
        if row.best:
            self.state.best_iteration = row.iteration
            self.keep(row)

    def dev_row(self) -> LogRow:
        """What a policy is chosen by, on the dev prefixes."""
        settings, models, state = self.settings, self.models, self.state
        prefixes = self.dev[: settings.training.dev_prefixes]
        with self.updater.placement.gathered():
            trees = roll_out(
                models.adversary, models.defender, models.scorer, prefixes,
                keys_of(settings.seed, "dev", 0, len(prefixes)), settings,
                branching=1, task="dev evaluation", progress=self.progress,
            )  # fmt: skip
        metrics = self._turn_metrics([turn for tree in trees for turn in turns_of(tree.children)])
        metrics["distinct_failures"] = distinct_in(trees, settings.evaluation.threshold)
        if state.iteration == 0:
            state.start_nll = metrics["nll"].mean
        return LogRow(type="dev", iteration=state.iteration, updates=state.updates, **metrics)

    def keep(self, row: LogRow) -> None:
        """Save the policy of a dev row, and remember what the next one must beat."""
        self.state.best_reward = row.reward.mean if row.reward else None
        self.state.best_distinct, self.state.best_within = row.distinct_failures or 0, self._likely(row)
        save_best(self.directory.best, self.models.adversary, self.settings, row)

    def is_best(self, row: LogRow) -> bool:
        """Whether the policy of a dev row is to be kept; never where no turn has a reward.

        What is too unlikely loses against anything else; then distinct failures count, where ``training.best_by`` says
        so, since by reward alone a policy wins that found one failure and says it everywhere; then reward.
        """
        reward = row.reward.mean if row.reward else None
        if reward is None or self.state.best_reward is None:
            return reward is not None
        counts = self.settings.training.best_by == "distinct"
        found = self._likely(row), (row.distinct_failures or 0) * counts, reward
        return found > (self.state.best_within, self.state.best_distinct * counts, self.state.best_reward)

    def _likely(self, row: LogRow) -> bool:
        """Whether the policy of a dev row keeps to ``training.best_nll``; also where that is not known."""
        most, start, nll = self.settings.training.best_nll, self.state.start_nll, row.nll.mean if row.nll else None
        return most is None or start is None or nll is None or nll <= start * (1 + most)

    def _turn_metrics(self, turns: Sequence[Turn]) -> dict[str, Any]:
        """Means over turns; where another model's likelihood stands in, the nll says whose it is."""
        return turn_metrics(turns, self.settings, self.models.defender.likelihood_proxy)

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
        self.state, self.kept, self.resumed = saved.counters, saved.kept or [], True

    def _save(self) -> None:
        state = StateFile(counters=self.state, log_bytes=self.directory.sizes(), kept=self.kept or None)
        save_checkpoint(self.directory.checkpoint, self.models.adversary.model, self.updater.optimizer, state)
        barrier()

    def _log(self, name: str, rows: Sequence[Part]) -> None:
        """Append rows; among several processes the first one writes for all."""
        if is_main():
            self.directory.append(name, rows)
            for row in rows:
                if isinstance(row, LogRow):
                    self.watch(row)

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
