"""Online preference optimisation of the adversary (METHOD sections 3 to 5).

Each iteration collects rollout trees with the current policy, turns them into preference pairs, swaps some for
supervised ones, takes one pass of minibatch updates, and forgets the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Settings
from ..errors import UserError
from ..models.lm import LanguageModel
from ..models.memory import trees_per_wave
from ..pairs import pairs_of_tree, supervised_pairs, swap_per_pair
from ..processes import barrier, is_main, rank, share, sum_gradients, sum_over_processes, world
from ..progress import Progress, Silent
from ..randomness import generator, keys_of, shuffled_epochs
from ..reward import RewardWeights
from ..rollout import grow_trajectories, grow_trees
from ..runlog import LOG, PAIRS, TREES, RunDirectory
from ..types import ElicitingText, PreferencePair, Prefix, RolloutTree, Scorer, Speaker, Turn
from .best import save_best
from .checkpoint import load_checkpoint, save_checkpoint
from .loss import dpo_loss, ipo_loss, log_ratio_difference
from .metrics import mean, pair_row, rates, summary_line, tree_row, turn_metrics, turns_of
from .packing import forward_groups, pack, sequence_logps, sequences_of, trees_together

_BAD_UPDATES_IN_A_ROW = 10
_IDLE_ITERATIONS_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a training run.

    Attributes:
        adversary: Policy π_θ; its parameters are tuned in place.
        reference: Frozen π_ref with the weights the adversary started from.
        defender: Frozen model under test, local or served.
        scorer: Toxicity R_φ.
        free_reference: The defender has the reference's weights, so its likelihoods serve twice.
        adversary_sha256: Hash of the weights that the adversary started from.
    """

    adversary: LanguageModel
    reference: LanguageModel
    defender: Speaker
    scorer: Scorer
    free_reference: bool
    adversary_sha256: str | None = None


@dataclass(slots=True)
class Progression:
    """Counters of a run, saved in every checkpoint."""

    iteration: int = 0
    updates: int = 0
    best_reward: float = -math.inf
    best_iteration: int = -1
    trees: int = 0
    eliciting: int = 0


@dataclass(slots=True)
class Trainer:
    """Runs a training; :meth:`run` is the main loop.

    Attributes:
        settings: All settings.
        cast: Models and scorer.
        prefixes: Training prefixes.
        dev: Held-out prefixes that choose the best adversary.
        eliciting: Texts for weak supervision; may be empty when q is 0.
        directory: Where everything is written.
        progress: Where progress is shown.
        watch: Called with every row of ``log.jsonl``, for trackers.
    """

    settings: Settings
    cast: Cast
    prefixes: Sequence[Prefix]
    dev: Sequence[Prefix]
    eliciting: Sequence[ElicitingText]
    directory: RunDirectory
    progress: Progress = field(default_factory=Silent)
    watch: Callable[[dict[str, Any]], None] = lambda row: None
    state: Progression = field(default_factory=Progression)
    optimizer: torch.optim.AdamW = field(init=False)
    weights: RewardWeights = field(init=False)
    idle: int = field(default=0, init=False)
    resumed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        training, reward = self.settings.training, self.settings.reward
        if self.settings.needs_eliciting and not self.eliciting:
            raise UserError(
                "data.eliciting holds no text, and weak supervision or SFT needs some; add texts or set supervision.q=0"
            )
        tuned = [parameter for parameter in self.cast.adversary.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(tuned, lr=training.learning_rate, weight_decay=training.weight_decay)
        self.weights = RewardWeights(reward.alpha, reward.beta, reward.lambda_)

    def run(self) -> None:
        """Train until ``training.updates``; saves every iteration, evaluates every ``training.dev_every`` ones."""
        for lm in {id(speaker): speaker for speaker in (self.cast.adversary, self.cast.reference)}.values():
            if not lm.packs:
                self.progress.note(
                    f"model '{lm.name}' refuses a mask of ancestors: its log-probabilities are computed from separate "
                    "sequences, with the same result and more work"
                )
        try:
            self._loop()
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
                self.progress.note(summary_line(row))
                if self._dev_due():
                    self._evaluate_dev()
                self._save()

    def resume(self) -> None:
        """Continue from the run's checkpoint; what was logged after it is dropped and made again."""
        saved = load_checkpoint(
            self.directory.checkpoint, self.cast.adversary.model, self.optimizer, note=self.progress.note
        )
        barrier()
        if is_main():
            self.directory.cut_logs(saved["log_bytes"])
        self.resumed = True
        if saved["progression"]["best_reward"] is None:
            saved["progression"]["best_reward"] = -math.inf
        self.state = Progression(**saved["progression"])

    def iterate(self) -> dict[str, Any]:
        """Collect, pair, update once over; returns the iteration's log row."""
        clock = _Clock()
        trees, pairs = self.collect(clock)
        turns = [turn for tree in trees for turn in turns_of(tree.children)]
        self.idle = 0 if pairs else self.idle + 1
        if self.idle == _IDLE_ITERATIONS_IN_A_ROW:
            raise UserError(
                f"{self.idle} iterations in a row gave no preference pair: turns have equal rewards or are errors "
                f"(last errors: {self._turn_metrics(turns)['errors']}); use livelier data.train, "
                "supervision.q above 0, or reward.lambda above 0"
            )
        if self.settings.training.save_pairs:
            self._log(PAIRS, [pair_row(self.state.iteration, pair) for pair in pairs])
        references = self._reference_logps(pairs)
        clock.lap("reference")
        learned = self._update(len(pairs), lambda part: self._step(pairs[part], references[part]))
        clock.lap("update")
        self.state.iteration += 1
        if trees and self._dev_due():
            margin = self.settings.training.min_margin
            self._log(TREES, [tree_row(self.state.iteration, trees[0], min_margin=margin)])
        supervised = sum(pair.source == "supervised" for pair in pairs)
        return {
            "type": "iteration",
            "iteration": self.state.iteration,
            "updates": self.state.updates,
            "trees": len(trees),
            "pairs": {"on_policy": len(pairs) - supervised, "supervised": supervised},
            "margin": mean([pair.margin for pair in pairs if pair.source == "on_policy"]),
            **self._turn_metrics(turns),
            **learned,
            "seconds": clock.laps,
            "rates": rates(turns, pairs, clock.laps),
        }

    def _dev_due(self) -> bool:
        training = self.settings.training
        return self.state.updates >= training.updates or self.state.iteration % training.dev_every == 0

    def collect(self, clock: _Clock) -> tuple[list[RolloutTree], list[PreferencePair]]:
        """Rollout trees of this iteration, and its shuffled pairs with the supervised ones swapped in."""
        settings, horizon = self.settings, self.settings.rollout.horizon
        wanted, full = settings.training.pairs_per_iteration, 2**horizon - 1
        rng = generator(settings.seed, "iteration", self.state.iteration)
        per_episode = settings.supervision.unit == "episode"
        count, swaps = self._episodes(rng, wanted, full) if per_episode else (math.ceil(wanted / full), 0)
        trees = self._grow(count)
        clock.lap("collect")
        pairs = [
            pair
            for tree in trees
            for pair in pairs_of_tree(
                tree, min_margin=settings.training.min_margin, free_reference=self.cast.free_reference
            )
        ]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))][:wanted]
        mask = [] if per_episode else (rng.random(len(pairs)) < settings.supervision.q).tolist()
        supervised = self._supervised(swaps if per_episode else sum(mask), rng)
        clock.lap("supervise")
        pairs = pairs + supervised if per_episode else swap_per_pair(pairs, iter(supervised), mask)
        together = settings.training.batching == "trees"
        order = trees_together(pairs, rng) if together else rng.permutation(len(pairs)).tolist()
        return trees, [pairs[i] for i in order][:wanted]

    def _episodes(self, rng: np.random.Generator, wanted: int, full: int) -> tuple[int, int]:
        """Trees to grow and supervised pairs to make when q swaps whole episodes."""
        trees, swaps = 0, 0
        while trees * full + swaps < wanted:
            swap = rng.random() < self.settings.supervision.q
            trees, swaps = trees + (not swap), swaps + swap
        return trees, swaps

    def _grow(self, count: int) -> list[RolloutTree]:
        settings, rollout = self.settings, self.settings.rollout
        first = self.state.trees
        chosen = [
            self.prefixes[i] for i in shuffled_epochs(len(self.prefixes), first, count, settings.seed, "prefixes")
        ]
        self.state.trees += count
        with self.progress.task("collecting", count * (2 ** (rollout.horizon + 1) - 2), "turns") as advance:
            return grow_trees(
                self.cast.adversary, self.cast.defender, self.cast.scorer, chosen,
                keys_of(settings.seed, "tree", first, count),
                horizon=rollout.horizon, branching=2, weights=self.weights, wave=self._wave(branching=2),
                on_turns=advance,
            )  # fmt: skip

    def _wave(self, *, branching: int) -> int:
        rollout = self.settings.rollout
        speakers = (self.cast.adversary, self.cast.defender)
        return rollout.wave or trees_per_wave(speakers, horizon=rollout.horizon, branching=branching)

    def _supervised(self, count: int, rng: np.random.Generator) -> list[PreferencePair]:
        if count == 0:
            return []
        first = self.state.eliciting
        order = shuffled_epochs(len(self.eliciting), first, count, self.settings.seed, "eliciting")
        self.state.eliciting += count
        keys = keys_of(self.settings.seed, "eliciting", first, count)
        return supervised_pairs(self.cast.adversary, [self.eliciting[i] for i in order], keys, rng)

    @torch.no_grad()
    def _reference_logps(self, pairs: Sequence[PreferencePair]) -> Tensor:
        """Log π_ref of chosen and rejected, float [pairs, 2]: from collection where known, else one forward."""
        average = self.settings.loss.logp == "mean"
        result = torch.empty(len(pairs), 2)
        unknown = []
        for i, pair in enumerate(pairs):
            if pair.ref_chosen_logp is None or pair.ref_rejected_logp is None:
                unknown.append(i)
                continue
            scale = (len(pair.chosen_ids), len(pair.rejected_ids)) if average else (1, 1)
            result[i, 0], result[i, 1] = pair.ref_chosen_logp / scale[0], pair.ref_rejected_logp / scale[1]
        for group in forward_groups([pairs[i] for i in unknown], self.settings.training.tokens_per_forward):
            part = [unknown[i] for i in group]
            packed = pack(sequences_of([pairs[i] for i in part]), share=self.cast.reference.packs)
            result[part] = sequence_logps(self.cast.reference, packed, average=average).view(-1, 2).cpu()
        return result

    def _update(self, count: int, step: Callable[[slice], dict[str, float] | None]) -> dict[str, Any]:
        """One pass of minibatch updates over ``count`` examples; returns its metrics."""
        training = self.settings.training
        rows: list[dict[str, float]] = []
        skipped, in_a_row = 0, 0
        with self.progress.task("updating", count, "examples") as advance:
            for start in range(0, count, training.batch_size):
                if self.state.updates >= training.updates:
                    break
                part = slice(start, min(count, start + training.batch_size))
                row = step(part)
                advance(part.stop - part.start)
                if row is None:
                    skipped, in_a_row = skipped + 1, in_a_row + 1
                    if in_a_row == _BAD_UPDATES_IN_A_ROW:
                        raise UserError(
                            f"{in_a_row} updates in a row had a non-finite loss or gradient; the last checkpoint is "
                            "good: lower training.learning_rate, or use adversary.dtype=float32"
                        )
                    continue
                in_a_row = 0
                rows.append(row)
        means = {key: mean([row[key] for row in rows]) for key in (rows[0] if rows else ())}
        return {**means, "learning_rate": self._learning_rate(), "skipped_updates": skipped}

    def _step(self, pairs: Sequence[PreferencePair], references: Tensor) -> dict[str, float] | None:
        """One optimizer step; ``None`` when the loss or gradient is not finite (nothing is changed)."""
        policy, loss_settings, whole = self.cast.adversary, self.settings.loss, len(pairs)
        pairs, references = share(pairs), references[rank() :: world()].to(policy.device)
        sums = torch.zeros(5, device=policy.device)  # of loss, h, h > 0, and the two log-ratios
        for part in forward_groups(pairs, self.settings.training.tokens_per_forward):
            packed = pack(sequences_of([pairs[i] for i in part]), share=policy.packs)
            logps = sequence_logps(policy, packed, average=loss_settings.logp == "mean").view(-1, 2)
            sides = (logps[:, 0], logps[:, 1], references[part, 0], references[part, 1])
            if loss_settings.kind == "ipo":
                loss = ipo_loss(*sides, tau=loss_settings.tau)
            else:
                loss = dpo_loss(*sides, tau=loss_settings.tau, label_smoothing=loss_settings.label_smoothing)
            (loss.sum() / whole).backward()  # type: ignore[no-untyped-call]
            h, ratio = log_ratio_difference(*sides), logps - references[part]
            sums += torch.stack([loss.sum(), h.sum(), (h > 0).sum(), ratio[:, 0].sum(), ratio[:, 1].sum()]).detach()
        mean_loss, h_mean, accuracy, chosen, rejected = (sum_over_processes(sums) / whole).tolist()
        norm = self._apply(mean_loss)
        if norm is None:
            return None
        return {
            "loss": mean_loss,
            "h": h_mean,
            "implicit/accuracy": accuracy,
            "implicit/chosen": loss_settings.tau * chosen,
            "implicit/rejected": loss_settings.tau * rejected,
            "gradient_norm": norm,
        }

    def _apply(self, loss: float) -> float | None:
        """Clip the gradients and take the optimizer step; returns their norm.

        ``None`` when loss or gradients are not finite: then nothing is changed.
        """
        parameters = list(self.cast.adversary.model.parameters())
        sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.training.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad()
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.updates += 1
        return norm

    def _learning_rate(self) -> float:
        """Rate of the next update: linear warm-up, then constant or linearly down to zero."""
        training, done = self.settings.training, self.state.updates
        rate = training.learning_rate
        if done < training.warmup_updates:
            return rate * (done + 1) / training.warmup_updates
        if training.schedule == "linear":
            return rate * max(0, training.updates - done) / max(1, training.updates - training.warmup_updates)
        return rate

    def _evaluate_dev(self) -> None:
        """Mean reward on held-out prefixes with fixed random keys; a new best is saved at once."""
        settings, rollout = self.settings, self.settings.rollout
        prefixes = self.dev[: settings.training.dev_prefixes]
        with self.progress.task("dev evaluation", len(prefixes) * rollout.horizon, "turns") as advance:
            trajectories = grow_trajectories(
                self.cast.adversary, self.cast.defender, self.cast.scorer, prefixes,
                keys_of(settings.seed, "dev", 0, len(prefixes)),
                horizon=rollout.horizon, weights=self.weights, wave=self._wave(branching=1), on_turns=advance,
            )  # fmt: skip
        metrics = self._turn_metrics([turn for trajectory in trajectories for turn in trajectory.turns])
        reward = metrics["reward"]["mean"]
        best = self._is_best(reward)
        row = {"type": "dev", "iteration": self.state.iteration, "updates": self.state.updates, "best": best, **metrics}
        self._log(LOG, [row])
        self.progress.note(summary_line(row))
        if best:
            self.state.best_iteration = self.state.iteration
            self.state.best_reward = -math.inf if reward is None else reward
        if best and is_main():
            save_best(self.directory.best, self.cast.adversary, self.settings, row)

    def _is_best(self, reward: float | None) -> bool:
        """Whether a policy of this mean dev reward (``None``: every turn was an error) is to be kept."""
        return reward is not None and reward > self.state.best_reward

    def _turn_metrics(self, turns: Sequence[Turn]) -> dict[str, Any]:
        """Means over turns; where another model's likelihood stands in, the nll says whose it is."""
        metrics = turn_metrics(turns, self.weights)
        likelihood = getattr(self.cast.defender, "likelihood", None)
        if likelihood is not None:
            metrics["nll"]["likelihood"] = likelihood
        return metrics

    def _save(self) -> None:
        progression = {name: getattr(self.state, name) for name in Progression.__dataclass_fields__}
        if not math.isfinite(self.state.best_reward):
            progression["best_reward"] = None
        if is_main():
            state = {"progression": progression, "log_bytes": self.directory.sizes()}
            save_checkpoint(self.directory.checkpoint, self.cast.adversary.model, self.optimizer, state)
        barrier()

    def _log(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows; among several processes the first one writes for all."""
        if is_main():
            self.directory.append(name, rows)
            for row in rows if name == LOG else ():
                self.watch(row)


class _Clock:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
