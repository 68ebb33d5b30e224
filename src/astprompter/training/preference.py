"""Online preference optimisation of the adversary (docs/method.md sections 3 to 5).

Each iteration collects rollout trees with the current policy, turns them into preference pairs, swaps some for
supervised ones, takes one pass of minibatch updates, and forgets the data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..base.errors import RunError
from ..base.formats import beginning_lost
from ..base.processes import barrier, share, sum_over_processes
from ..base.randomness import generator
from ..base.records import PreferencePair, RolloutTree, Turn
from ..config import LossSettings, Settings
from ..rollout.grow import turns_of
from ..runs.directory import ARCHIVE, PAIRS
from ..runs.schema.learnt import ArchiveRow, PairRow
from ..runs.schema.run import Pairs
from ..runs.schema.state import KeptPair
from .collection import Collector, shuffled
from .loss import dpo_loss, ipo_loss, log_ratio_difference, margin_loss
from .metrics import mean, speaking_rates, tree_row, why_no_pairs
from .novelty import Archive
from .packing import forward_groups, pack, sequences_of
from .sharding import Placement
from .state import Clock
from .trainer import Trainer

_log = logging.getLogger(__package__)
_IDLE_ITERATIONS_IN_A_ROW = 20


class PreferenceTrainer(Trainer[PreferencePair]):
    """Tunes by IPO, DPO or regression on the margin, on preference pairs.

    Attributes:
        archive: Failures found so far, where novelty counts.
        collector: Collects trees and pairs.
        idle: Iterations in a row that gave no pair.
        reference: Where the reference's weights are.
    """

    examples = "pairs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.archive = Archive(self.settings.novelty.archive, earlier=self.earlier)
        self.collector = Collector(
            self.settings, self.models, self.prefixes, self.eliciting, self.progress, self.archive
        )
        self.idle, self._told, self._told_of_cut = 0, False, False
        apart = self.models.reference is not self.models.defender  # a copy of its own, which can be in shards too
        self.reference = Placement(self.models.reference, shard=apart and self.settings.training.shard)

    def collect(self, clock: Clock) -> tuple[list[PreferencePair], dict[str, Any]]:
        """Grow trees, pair, swap supervised pairs in, and look up log π_ref."""
        with self.updater.placement.gathered():
            collected = self.collector.collect(self.state, clock)
        trees, pairs = collected.trees, collected.pairs
        self.state.trees += len(trees)
        self.state.eliciting += collected.eliciting
        self.tree = tree_row(self.state.iteration + 1, trees[0], self.settings, collected.reward) if trees else None
        turns = [turn for tree in trees for turn in turns_of(tree.children)]
        metrics = self._turn_metrics(turns)
        self.idle = 0 if pairs else self.idle + 1
        if self.idle:
            self._heed_no_pair(trees, metrics["errors"])
        if self.settings.training.save_pairs:
            self._log(PAIRS, [PairRow.of_pair(self.state.iteration, pair) for pair in pairs])
        pairs = with_references(pairs, self.reference, self.settings)
        clock.lap("reference")
        supervised, again = sum(pair.source == "supervised" for pair in pairs), self._again(pairs)
        rng = generator(self.settings.seed, "reuse", self.state.iteration)
        return shuffled([*pairs, *again], rng, self.settings) if again else pairs, {
            "trees": len(trees),
            "prefixes_cut": self._heed_cut(trees),
            "pairs": Pairs(
                on_policy=len(pairs) - supervised,
                supervised=supervised,
                reused=len(again) if self.settings.training.reuse else None,
            ),
            "margin": mean([pair.margin for pair in pairs if pair.source == "on_policy"]),
            "likeness": self._remember(turns),
            **metrics,
            "rates": speaking_rates(turns, clock.laps["collect"]),
        }

    def resume(self) -> None:
        """Continue from the run's checkpoint, and with the failures that were found until then."""
        super().resume()
        barrier()  # the logs are cut
        self.archive.add([row.utterance for row in self.directory.archive()])

    def _again(self, pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
        """The pairs that earlier iterations kept; those of this one that differ enough are kept too."""
        training, now = self.settings.training, self.state.iteration
        again = [row.pair for row in self.kept]
        self.kept = [row for row in self.kept if row.iteration > now - training.reuse]
        if training.reuse:
            self.kept += [
                KeptPair(
                    iteration=now, depth=pair.depth, margin=pair.margin,
                    prompt_ids=list(pair.prompt_ids),
                    chosen_ids=list(pair.chosen_ids), rejected_ids=list(pair.rejected_ids),
                    ref_chosen_logp=chosen, ref_rejected_logp=rejected,
                )
                for pair in pairs
                if pair.source == "on_policy" and pair.margin >= training.reuse_margin
                and math.isfinite(chosen := pair.ref_chosen_logp or 0.0)
                and math.isfinite(rejected := pair.ref_rejected_logp or 0.0)
            ]  # fmt: skip
        return again

    def _heed_cut(self, trees: Sequence[RolloutTree]) -> int | None:
        """How many prefixes lost their beginning, if any; the first time it is told."""
        cut = sum(tree.prefix.shortened for tree in trees)
        if cut and not self._told_of_cut:
            told = beginning_lost(cut, len(trees), f" of iteration {self.state.iteration + 1}")
            _log.info(f"note: {told}; log.jsonl counts them")
            self._told_of_cut = True
        return cut or None

    def _remember(self, turns: Sequence[Turn]) -> float | None:
        """Archive the failures of an iteration; returns how like the ones before they are."""
        settings = self.settings
        if not settings.novelty.weight:
            return None
        failing = [turn for turn in turns if turn.tox_reply > settings.evaluation.threshold]
        rows = [
            ArchiveRow(
                iteration=self.state.iteration + 1, utterance=turn.utterance.text, reply=turn.reply.text,
                tox_reply=turn.tox_reply,
            )
            for turn in failing
        ]  # fmt: skip
        self._log(ARCHIVE, rows)
        return self.archive.add([row.utterance for row in rows], settings.novelty.nearest)

    def _heed_no_pair(self, trees: Sequence[RolloutTree], errors: Mapping[str, int]) -> None:
        """Say why an iteration gave no pair, the first time.

        Raises:
            RunError: Many iterations in a row gave none.
        """
        ties = self.settings.loss.kind == "margin"
        why = why_no_pairs(trees, self.settings.training.min_margin, errors, ties=ties)
        if self.idle == _IDLE_ITERATIONS_IN_A_ROW:
            raise RunError(f"{self.idle} iterations in a row gave no preference pair: {why}")
        if not self._told:
            _log.warning(f"iteration {self.state.iteration + 1} gave no preference pair: {why}")
            self._told = True

    def update(self, batch: Sequence[PreferencePair]) -> dict[str, float] | None:
        """One optimizer step; ``None`` when the loss or gradient is not finite (nothing is changed)."""
        policy, loss_settings, placement = self.models.adversary, self.settings.loss, self.updater.placement
        own, count = share(batch), len(batch)
        known = [(pair.ref_chosen_logp, pair.ref_rejected_logp) for pair in own]
        references = torch.tensor(known, device=policy.device).reshape(len(own), 2)
        margins = torch.tensor([pair.margin for pair in own], device=policy.device)
        sums = torch.zeros(5, device=policy.device)  # of loss, h, h > 0, and the two log-ratios
        for part in placement.in_step(forward_groups(own, self.settings.training.max_tokens_per_batch)):
            packed = pack(sequences_of([own[i] for i in part] or batch[:1]), share=policy.packs)
            logps = placement.logps(packed, average=loss_settings.reduction == "mean").view(-1, 2)[: len(part)]
            loss, its_sums = pair_losses(logps, references[part], margins[part], loss_settings)
            (loss.sum() / count).backward()  # type: ignore[no-untyped-call]
            sums += its_sums
        facts = facts_of((sum_over_processes(sums) / count).tolist(), loss_settings)
        norm = self.updater.step(facts["loss"], self.state.updates)
        return None if norm is None else {**facts, "gradient_norm": norm}


@torch.no_grad()
def with_references(pairs: Sequence[PreferencePair], reference: Placement, settings: Settings) -> list[PreferencePair]:
    """The pairs with log π_ref as the loss takes it: from collection where known, else by one forward pass."""
    average, most = settings.loss.reduction == "mean", settings.training.max_tokens_per_batch
    known, unknown = list(pairs), []
    for i, pair in enumerate(pairs):
        if pair.ref_chosen_logp is None or pair.ref_rejected_logp is None:
            unknown.append(i)
        elif average:
            known[i] = replace(
                pair,
                ref_chosen_logp=pair.ref_chosen_logp / len(pair.chosen_ids),
                ref_rejected_logp=pair.ref_rejected_logp / len(pair.rejected_ids),
            )
    for group in forward_groups([pairs[i] for i in unknown], most):
        part = [unknown[i] for i in group]
        packed = pack(sequences_of([pairs[i] for i in part]), share=reference.lm.packs)
        logps = reference.logps(packed, average=average).view(-1, 2).tolist()
        for i, (chosen, rejected) in zip(part, logps, strict=True):
            known[i] = replace(pairs[i], ref_chosen_logp=chosen, ref_rejected_logp=rejected)
    return known


def pair_losses(logps: Tensor, references: Tensor, margins: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Loss of every pair, and sums over the pairs for :func:`facts_of`.

    Args:
        logps: Log π_θ of chosen and rejected, [pairs, 2].
        references: The same of the reference.
        margins: Difference of rewards, [pairs].
        settings: Which loss.

    Returns:
        The losses [pairs]; and sums of loss, h, h > 0 and the two log-ratios, [5], without gradient.
    """
    sides = (logps[:, 0], logps[:, 1], references[:, 0], references[:, 1])
    if settings.kind == "ipo":
        loss = ipo_loss(*sides, tau=settings.tau)
    elif settings.kind == "margin":
        loss = margin_loss(*sides, margins=margins, eta=settings.eta)
    else:
        loss = dpo_loss(*sides, tau=settings.tau, label_smoothing=settings.label_smoothing)
    h, ratio = log_ratio_difference(*sides), logps - references
    return loss, torch.stack([loss.sum(), h.sum(), (h > 0).sum(), ratio[:, 0].sum(), ratio[:, 1].sum()]).detach()


def facts_of(means: Sequence[float], settings: LossSettings) -> dict[str, float]:
    """Fields of the log from the means over pairs of what :func:`pair_losses` sums."""
    loss, h, accuracy, chosen, rejected = means
    return {
        "loss": loss,
        "h": h,
        "implicit_accuracy": accuracy,
        "implicit_chosen": settings.tau * chosen,
        "implicit_rejected": settings.tau * rejected,
    }
