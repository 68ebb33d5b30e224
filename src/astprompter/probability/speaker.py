"""A speaker that blends models in lock step, and knows what it said under natural speech and under every proposal.

The reference and the adversaries are one model to a session: their hidden states lie side by side, their caches go
along. So everything that conversations do (holes, branches, rows that leave) is done once, by
:class:`~astprompter.models.local.session.LMSession`; only the draw is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..base.errors import UserError
from ..base.randomness import uniform
from ..base.records import Keys, Speech
from ..models.local.base import same_vocabulary
from ..models.local.chat import ChatModel, ChatSession
from ..models.local.lm import LanguageModel
from ..models.local.sampling import draw
from ..models.local.session import LMSession
from .densities import Proposal, densities

NATURALLY = -1
"""Who speaks where no proposal does."""
Floats = npt.NDArray[np.float64]


class JointCache:
    """The caches of several models, which branch together."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)

    @classmethod
    def joined(cls, caches: Sequence[JointCache], *, wide: int) -> JointCache:
        """One of the rows of several, whose columns were computed apart; each part joins by itself."""
        together = zip(*(cache.parts for cache in caches), strict=True)
        return cls([parts[0].joined(parts, wide=wide) for parts in together])

    def select(self, rows: Tensor) -> JointCache:
        """Chosen rows of all, copied."""
        return JointCache([part.select(rows) for part in self.parts])

    def branch(self, repeats: int) -> JointCache:
        """Each row ``repeats`` times, columns so far shared."""
        return JointCache([part.branch(repeats) for part in self.parts])

    def extend(self, other: JointCache, rows: Tensor, new: int, count: int) -> None:
        """Take over the last ``new`` columns of chosen rows."""
        for part, source in zip(self.parts, other.parts, strict=True):
            part.extend(source, rows, new, count)


class BlendedModel(LanguageModel):
    """A reference with adversaries beside it; by itself it says what the reference says.

    Attributes:
        members: The reference, then the adversaries.
        proposals: Ways to speak other than naturally.
    """

    def __init__(
        self, reference: LanguageModel, adversaries: Sequence[LanguageModel], proposals: Sequence[Proposal]
    ) -> None:
        """Put models side by side.

        Args:
            reference: Speaks naturally; its sampling counts for all.
            adversaries: Whose logits proposals mix in.
            proposals: Each names its adversary by number.

        Raises:
            UserError: Temperature 0, or models that cannot speak in lock step.
        """
        self.__dict__.update(reference.__dict__)  # its tokenizer, sampling, bans, …; no other weights are loaded
        self.members, self.proposals, self.chat = (reference, *adversaries), tuple(proposals), reference.chat
        _check(reference, adversaries)
        self._widths = [member.logits_width for member in self.members]
        self.logits_width = sum(self._widths)
        self.shares_branches = all(member.shares_branches for member in self.members)

    def new_cache(self, rows: int) -> JointCache:
        """Empty caches of so many rows."""
        return JointCache([member.new_cache(rows) for member in self.members])

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any | None = None) -> Tensor:
        """Hidden states of all members side by side; see :meth:`LocalModel.forward`."""
        parts = [None] * len(self.members) if cache is None else cache.parts
        hidden = [member.forward(ids, mask, positions, part) for member, part in zip(self.members, parts, strict=True)]
        return torch.cat(hidden, dim=-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """The reference's logits."""
        return self.members[0].logits(hidden[..., : self._widths[0]])

    def every_logits(self, hidden: Tensor) -> list[Tensor]:
        """Logits of all members, float [rows, vocabulary] each."""
        parts = torch.split(hidden, self._widths, dim=-1)
        return [member.logits(part).float() for member, part in zip(self.members, parts, strict=True)]

    def start(self, prefixes: Sequence[str], *, turns: int) -> BlendedSession | BlendedChatSession:
        """Open one conversation per prefix; see :meth:`LanguageModel.start`."""
        return self.start_ids([self.prompt_of(self.encode_prefix(text, turns=turns)) for text in prefixes])

    def encode_prefix(self, text: str, *, turns: int) -> tuple[int, ...]:
        """As the reference hears it."""
        return self.members[0].encode_prefix(text, turns=turns)

    def tokens_of(self, speech: Speech) -> tuple[int, ...]:
        """As the reference hears it."""
        return self.members[0].tokens_of(speech)

    def prompt_of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Under the reference's chat template, if it has one: what all hear is framed alike."""
        return self.members[0].prompt_of(ids)

    def start_ids(self, rows: Sequence[Sequence[int]]) -> BlendedSession | BlendedChatSession:
        """Open one conversation per row of token ids."""
        session, reference = BlendedSession.open(self, rows), self.members[0]
        return BlendedChatSession(cast(ChatModel, reference), session, begun=True) if self.chat else session

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """Memory of all members together."""
        found: dict[str, int] = {}
        for member in self.members:
            for device, size in member.bytes_per_tree(horizon=horizon, branching=branching).items():
                found[device] = found.get(device, 0) + size
        return found


@dataclass(slots=True)
class _Said:
    """The speech under way, by the names of its rows.

    Attributes:
        voices: Proposal that speaks, or :data:`NATURALLY` [rows].
        ratios: log q̃ − log p̃ so far [rows, Q], double.
        natural: log p̃ so far [rows], double.
        going: Rows that have not ended [rows].
    """

    voices: Tensor
    ratios: Tensor
    natural: Tensor
    going: Tensor


class BlendedSession(LMSession):
    """Rows of a blended model."""

    _lm: BlendedModel
    _said: _Said | None = None

    def speak_as(self, keys: Keys, voices: npt.NDArray[np.int64]) -> tuple[list[Speech], Floats, Floats]:
        """Sample one utterance per row, and tell its densities from the logits of the draw.

        The step that ends an utterance counts, and where the limit cuts it there is none.

        Args:
            keys: Row r draws from ``keys[r]`` alone, the same numbers whoever speaks.
            voices: Proposal that speaks, or :data:`NATURALLY`, for every row.

        Returns:
            The utterances; log q̃ − log p̃ of each under every proposal [rows, Q]; and log p̃ [rows].
        """
        device, rows = self._ids.device, len(keys)
        self._said = said = _Said(
            torch.from_numpy(voices).to(device),
            torch.zeros(rows, len(self._lm.proposals), dtype=torch.float64, device=device),
            torch.zeros(rows, dtype=torch.float64, device=device),
            torch.ones(rows, dtype=torch.bool, device=device),
        )
        return self.speak(keys), said.ratios.cpu().numpy(), said.natural.cpu().numpy()

    def speak(self, keys: Keys) -> list[Speech]:
        """Sample one utterance per row: naturally, except within :meth:`speak_as`."""
        if self._said is None:
            return self.speak_as(keys, np.full(len(keys), NATURALLY))[0]
        speeches = super().speak(keys)
        self._said = None
        return speeches

    def _rows(self, rows: Tensor, cache: Any) -> BlendedSession:
        part = super()._rows(rows, cache)
        part._said = self._said
        return part

    def _next(self, keys: Keys, count: int, names: list[int]) -> tuple[Tensor, Tensor]:
        """As :meth:`LMSession._next`, by whoever speaks in each row; adds to what is known of the speech."""
        lm, said = self._lm, self._said
        assert said is not None  # noqa: S101 - set by speak_as
        reference, *adversaries = lm.every_logits(self._last)
        found = densities(
            reference, adversaries, self._ids, sampling=lm.sampling, proposals=lm.proposals,
            banned=lm.banned if count >= lm.sampling.min_new_tokens else lm.banned_early,
        )  # fmt: skip
        rows = torch.tensor(names, device=self._ids.device)
        voices, masses = said.voices[rows], found.masses
        if lm.proposals:
            chosen = voices.clamp(min=0)[:, None, None].expand(-1, 1, masses.size(1))
            masses = torch.where((voices < 0)[:, None], masses, found.proposals.gather(1, chosen).squeeze(1).exp())
        place = draw(masses, torch.from_numpy(uniform(keys, count)).to(masses.device))[:, None]
        tokens = found.tokens.gather(1, place).squeeze(1)
        counted = said.going[rows] & found.sound
        natural = found.natural.gather(1, place)
        ratios = found.proposals.gather(2, place[:, None].expand(-1, len(lm.proposals), 1)).squeeze(2) - natural
        said.natural[rows[counted]] += natural.squeeze(1)[counted]
        said.ratios[rows[counted]] += ratios[counted]
        ended = torch.isin(tokens, torch.tensor(lm.end_ids, device=tokens.device))
        said.going[rows] = counted & ~ended
        return tokens, found.sound


class BlendedChatSession(ChatSession):
    """Rows of a blended model whose utterances are messages; the densities are of the tokens of a message and its end.

    What stands around messages is nobody's choice, so it has no density.
    """

    _inner: BlendedSession

    def speak_as(self, keys: Keys, voices: npt.NDArray[np.int64]) -> tuple[list[Speech], Floats, Floats]:
        """See :meth:`BlendedSession.speak_as`."""
        speeches, ratios, natural = self._inner.speak_as(keys, voices)
        return [self.given_on(speech) for speech in speeches], ratios, natural


def _check(reference: LanguageModel, adversaries: Sequence[LanguageModel]) -> None:
    """Refuse models that cannot speak in lock step, and speech without chance.

    Raises:
        UserError: They cannot.
    """
    if reference.sampling.temperature == 0.0:
        raise UserError("at rollout.temperature=0 nothing is left to chance, so there is no probability to estimate")
    for adversary in adversaries:
        if not same_vocabulary(adversary, reference):
            raise UserError(
                f"'{adversary.name}' has another vocabulary than '{reference.name}', so they cannot blend; take an "
                "adversary that was tuned from the model that speaks naturally"
            )
        if adversary.context < reference.context:
            raise UserError(
                f"'{adversary.name}' holds {adversary.context} tokens, '{reference.name}' {reference.context}, so it "
                "does not hear all that the other does; take an adversary that was tuned from it"
            )
        if (adversary.device, adversary.model.dtype, adversary.autocast) != (
            reference.device, reference.model.dtype, reference.autocast,
        ):  # fmt: skip
            raise UserError(
                f"'{adversary.name}' and '{reference.name}' compute differently; give both the same device, dtype and "
                "autocast"
            )
