"""The SFT baseline: the base policy tuned to write eliciting texts (docs/method.md section 7).

Same start, optimizer, warm-up, clipping, batch and number of updates as the preference-tuned adversary; what differs is
the loss: likelihood of the eliciting texts instead of preferences. Nothing looks at rewards, so nothing may choose by
them: ``best/`` is the last policy. Dev evaluations are logged for comparison only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..base.processes import share, sum_over_processes
from ..base.randomness import shuffled_epochs
from ..runs.schema.run import LogRow
from .packing import groups_of, pack
from .state import Clock
from .trainer import Trainer

Tokens = tuple[int, ...]


class SFTTrainer(Trainer[Tokens]):
    """Tunes on eliciting texts; an iteration is ``training.pairs_per_iteration`` texts."""

    examples = "texts"

    def collect(self, clock: Clock) -> tuple[list[Tokens], dict[str, Any]]:
        """The next eliciting texts, as tokens."""
        del clock
        count, first = self.settings.training.pairs_per_iteration, self.state.eliciting
        order = shuffled_epochs(len(self.eliciting), first, count, self.settings.seed, "eliciting")
        texts = [self.models.adversary.encode_prefix(self.eliciting[i].text, turns=1) for i in order]
        self.state.eliciting += count
        return texts, {"texts": count}

    def update(self, batch: Sequence[Tokens]) -> dict[str, float] | None:
        """One optimizer step on L = mean over all tokens of −log π_θ(token | text before it), nats.

        The whole text counts, prompt and continuation; its first token has nothing before it and is not scored.
        ``None`` when there is nothing to learn, or loss or gradient is not finite.
        """
        texts = [ids for ids in batch if len(ids) > 1]
        placement, tokens = self.updater.placement, sum(len(ids) - 1 for ids in texts)
        if not tokens:
            return None
        own = share(texts)
        total = torch.zeros((), device=self.models.adversary.device)
        groups = groups_of([len(ids) for ids in own], self.settings.training.max_tokens_per_batch)
        for group in placement.in_step(groups):
            packed = pack([(ids[:1], ids[1:]) for ids in ([own[i] for i in group] or texts[:1])], share=False)
            part = -placement.logps(packed)[: len(group)].sum() / tokens
            part.backward()  # type: ignore[no-untyped-call]
            total += part.detach()
        loss = float(sum_over_processes(total))
        norm = self.updater.step(loss, self.state.updates)
        return None if norm is None else {"loss": loss, "gradient_norm": norm}

    def is_best(self, row: LogRow) -> bool:
        """The last policy is kept, whatever its figures."""
        del row
        return self.done
