"""Online preference optimisation of the adversary (docs/method.md sections 3 to 5).

Each iteration collects rollout trees with the current policy, turns them into preference pairs, swaps some for
supervised ones, takes one pass of minibatch updates, and forgets the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.errors import RunError
from ..base.processes import rank, share, sum_over_processes, world
from ..base.records import PreferencePair
from ..runs.directory import PAIRS, TREES
from ..runs.schema.run import LogRow, PairRow, Pairs
from .collection import Collector
from .loss import dpo_loss, ipo_loss, log_ratio_difference
from .metrics import mean, rates, tree_row, turns_of
from .packing import forward_groups, pack, sequences_of
from .sharding import Placement
from .state import Clock
from .trainer import Trainer

_IDLE_ITERATIONS_IN_A_ROW = 20


class PreferenceTrainer(Trainer):
    """Tunes by IPO or DPO on preference pairs; an iteration collects, pairs and updates.

    Attributes:
        collector: Collects trees and pairs.
        idle: Iterations in a row that gave no pair.
        reference: Where the reference's weights are.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.collector = Collector(self.settings, self.models, self.prefixes, self.eliciting, self.state, self.progress)
        self.idle = 0
        apart = self.models.reference is not self.models.defender  # a copy of its own, which can be in shards too
        self.reference = Placement(self.models.reference, shard=apart and self.settings.training.shard)

    def iterate(self) -> LogRow:
        """Collect, pair, update once over; returns the iteration's log row."""
        clock = Clock()
        with self.updater.placement.gathered():
            trees, pairs = self.collector.collect(clock)
        turns = [turn for tree in trees for turn in turns_of(tree.children)]
        self.idle = 0 if pairs else self.idle + 1
        if self.idle == _IDLE_ITERATIONS_IN_A_ROW:
            raise RunError(
                f"{self.idle} iterations in a row gave no preference pair: turns have equal rewards or are errors "
                f"(last errors: {self._turn_metrics(turns)['errors']}); lower training.min_margin, use livelier "
                "data.train, reward.lambda above 0, or supervision.unit=episode"
            )
        if self.settings.training.save_pairs:
            self._log(PAIRS, [PairRow.of_pair(self.state.iteration, pair) for pair in pairs])
        references = self._reference_logps(pairs)
        clock.lap("reference")
        learned = self.updater.over(len(pairs), lambda part: self._step(pairs[part], references[part]))
        clock.lap("update")
        self.state.iteration += 1
        if trees and self._dev_due():
            margin = self.settings.training.min_margin
            self._log(TREES, [tree_row(self.state.iteration, trees[0], min_margin=margin)])
        supervised = sum(pair.source == "supervised" for pair in pairs)
        return LogRow(
            type="iteration",
            iteration=self.state.iteration,
            updates=self.state.updates,
            trees=len(trees),
            pairs=Pairs(on_policy=len(pairs) - supervised, supervised=supervised),
            margin=mean([pair.margin for pair in pairs if pair.source == "on_policy"]),
            **self._turn_metrics(turns),
            **learned,
            seconds=clock.laps,
            rates=rates(turns, pairs, clock.laps),
        )

    @torch.no_grad()
    def _reference_logps(self, pairs: Sequence[PreferencePair]) -> Tensor:
        """Log π_ref of chosen and rejected, float [pairs, 2]: from collection where known, else one forward."""
        average = self.settings.loss.reduction == "mean"
        result = torch.empty(len(pairs), 2)
        unknown = []
        for i, pair in enumerate(pairs):
            if pair.ref_chosen_logp is None or pair.ref_rejected_logp is None:
                unknown.append(i)
                continue
            scale = (len(pair.chosen_ids), len(pair.rejected_ids)) if average else (1, 1)
            result[i, 0], result[i, 1] = pair.ref_chosen_logp / scale[0], pair.ref_rejected_logp / scale[1]
        for group in forward_groups([pairs[i] for i in unknown], self.settings.training.max_tokens_per_batch):
            part = [unknown[i] for i in group]
            packed = pack(sequences_of([pairs[i] for i in part]), share=self.models.reference.packs)
            result[part] = self.reference.logps(packed, average=average).view(-1, 2).cpu()
        return result

    def _step(self, pairs: Sequence[PreferencePair], references: Tensor) -> dict[str, float] | None:
        """One optimizer step; ``None`` when the loss or gradient is not finite (nothing is changed)."""
        policy, loss_settings, placement = self.models.adversary, self.settings.loss, self.updater.placement
        own, references, count = share(pairs), references[rank() :: world()].to(policy.device), len(pairs)
        sums = torch.zeros(5, device=policy.device)  # of loss, h, h > 0, and the two log-ratios
        for part in placement.in_step(forward_groups(own, self.settings.training.max_tokens_per_batch)):
            packed = pack(sequences_of([own[i] for i in part] or pairs[:1]), share=policy.packs)
            logps = placement.logps(packed, average=loss_settings.reduction == "mean").view(-1, 2)[: len(part)]
            sides = (logps[:, 0], logps[:, 1], references[part, 0], references[part, 1])
            if loss_settings.kind == "ipo":
                loss = ipo_loss(*sides, tau=loss_settings.tau)
            else:
                loss = dpo_loss(*sides, tau=loss_settings.tau, label_smoothing=loss_settings.label_smoothing)
            (loss.sum() / count).backward()  # type: ignore[no-untyped-call]
            h, ratio = log_ratio_difference(*sides), logps - references[part]
            sums += torch.stack([loss.sum(), h.sum(), (h > 0).sum(), ratio[:, 0].sum(), ratio[:, 1].sum()]).detach()
        mean_loss, h_mean, accuracy, chosen, rejected = (sum_over_processes(sums) / count).tolist()
        norm = self.updater.apply(mean_loss)
        if norm is None:
            return None
        return {
            "loss": mean_loss,
            "h": h_mean,
            "implicit_accuracy": accuracy,
            "implicit_chosen": loss_settings.tau * chosen,
            "implicit_rejected": loss_settings.tau * rejected,
            "gradient_norm": norm,
        }
