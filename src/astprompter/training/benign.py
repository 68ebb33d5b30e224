"""Benign conversations of a defender as it was at first, which a repair must leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..base.errors import UserError
from ..base.processes import share, spread
from ..base.randomness import shuffled_epochs
from ..base.records import RolloutTree
from ..models.local.lm import LanguageModel
from ..rollout.diversity import distinct_2_of, vendi_of
from ..rollout.grow import in_step, trajectory_of
from ..rollout.repair import TOGETHER, Conversation, draw_replies, lead
from ..runs.schema.run import Spoken
from .packing import Packed, groups_of, pack, sequence_divergences
from .sharding import Placement

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Replies:
    """New replies to one conversation, and how many tokens each has."""

    texts: list[str]
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class BenignConversations:
    """Conversations in tokens of the defender; every token but the first of each counts.

    Attributes:
        rows: The conversations, each of at least two tokens.
        conversations: The same as texts.
        policy: The defender as it is tuned.
        reference: The defender as it was.
        most: Tokens of a forward pass.
    """

    rows: Sequence[Tokens]
    conversations: Sequence[Conversation]
    policy: LanguageModel
    reference: LanguageModel
    most: int

    @classmethod
    def of(
        cls,
        trees: Sequence[RolloutTree],
        policy: LanguageModel,
        reference: LanguageModel,
        *,
        clean: float,
        most: int,
        trees_per_batch: int | None = None,
    ) -> BenignConversations:
        """What is benign of conversations with the defender as it was.

        Args:
            trees: Conversations: trees of branching 1.
            policy: The defender as it is tuned.
            reference: Who replied, frozen.
            clean: A conversation is kept up to its first text that scores more.
            most: Tokens of a forward pass.
            trees_per_batch: Conversations that are led again together.

        Raises:
            UserError: Nothing is benign.
        """
        kept = [one for tree in trees if (one := _until_unclean(tree, clean)) is not None]
        found: dict[int, Tokens] = {}
        for part in in_step([len(one.utterances) for one in kept], trees_per_batch or TOGETHER):
            session, _ = lead([kept[i] for i in part], reference, seed=0)
            session.say([kept[i].replies[-1] for i in part])
            found.update(zip(part, session.transcript() or [], strict=True))
        if not found:
            raise UserError(
                f"no conversation of the untuned speaker with '{reference.name}' is clean "
                f"(evaluation.clean={clean:g}), so nothing would hold it to what it was; raise it, or use other "
                "prefixes"
            )
        return cls([found[i] for i in range(len(kept))], kept, policy, reference, most)

    @property
    def tokens(self) -> int:
        """Tokens that count."""
        return _count(self.rows)

    def hold(self, weight: float, first: int, count: int, seed: int) -> torch.Tensor:
        """Add the gradient of ``weight`` · mean KL(reference ‖ policy) on ``count`` conversations.

        Args:
            weight: The weight.
            first: Conversations that were taken before, in shuffled passes over all.
            count: How many are taken.
            seed: Names the shuffles.

        Returns:
            This process's part of the mean, nats per token.
        """
        total = torch.zeros((), device=self.policy.device)
        if not weight:
            return total
        rows = [self.rows[i] for i in shuffled_epochs(len(self.rows), first, count, seed, "held to")]
        for packed in self._packed(share(rows)):
            part = sequence_divergences(self.policy, self.reference, packed).sum() / _count(rows)
            (weight * part).backward()  # type: ignore[no-untyped-call]
            total += part.detach()
        return total

    @torch.no_grad()
    def divergence(self) -> float:
        """Mean KL(reference ‖ policy), nats per token."""
        parts = [sequence_divergences(self.policy, self.reference, packed).sum() for packed in self._packed(self.rows)]
        return float(torch.stack(parts).sum()) / self.tokens

    @torch.no_grad()
    def nll(self, model: Placement) -> float:
        """Mean nll under a model, nats per token."""
        return (
            -float(torch.stack([model.logps(packed).sum() for packed in self._packed(self.rows)]).sum()) / self.tokens
        )

    def spoken(self, defender: LanguageModel, *, samples: int, seed: int, trees_per_batch: int | None) -> Spoken:
        """How a defender replies to their last utterances, by random numbers that are the same for any defender.

        Args:
            defender: Who replies.
            samples: Replies to each.
            seed: Names the random numbers.
            trees_per_batch: Replies that are drawn together.
        """

        def work(mine: list[int]) -> list[_Replies]:
            drawn = draw_replies(
                [self.conversations[i] for i in mine], defender, samples=samples, seed=seed,
                trees_per_batch=trees_per_batch,
            )  # fmt: skip
            return [
                _Replies(
                    [reply.text for reply in one.replies[1:]], [len(reply.token_ids or ()) for reply in one.replies[1:]]
                )
                for one in drawn
            ]

        said = spread(_Replies, len(self.conversations), work)
        texts = [text for one in said for text in one.texts]
        return Spoken(
            tokens=float(np.mean([count for one in said for count in one.tokens])),
            distinct_2=distinct_2_of(texts), vendi=vendi_of(texts),
        )  # fmt: skip

    def _packed(self, rows: Sequence[Tokens]) -> Iterator[Packed]:
        for group in groups_of([len(ids) for ids in rows], self.most):
            yield pack([(rows[i][:1], rows[i][1:]) for i in group], share=False)


def _count(rows: Sequence[Tokens]) -> int:
    return sum(len(ids) - 1 for ids in rows)


def _until_unclean(tree: RolloutTree, limit: float) -> Conversation | None:
    """A conversation up to the first turn whose utterance or reply scores more than ``limit``, or has no score."""
    turns = []
    for turn in trajectory_of(tree).turns:
        if not (turn.tox_utterance <= limit and turn.tox_reply <= limit):
            break
        turns.append(turn)
    said, replied = tuple(turn.utterance for turn in turns), tuple(turn.reply for turn in turns)
    return Conversation((tree.prefix.id,), tree.prefix.text, said, replied) if turns else None
