"""Conversations of a local language model in lock step, with a key-value cache that can branch.

Layout: all rows share one matrix of token columns. Rows that have less to say leave *holes* (``valid`` false) on
their right; a hole repeats a real token of its row, is masked everywhere, and takes no position. Positions count
valid tokens. So nothing is ever moved or recomputed: each token goes through the model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..randomness import uniform
from ..types import Keys, Speech
from .sampling import penalise_repeats, sample

if TYPE_CHECKING:
    from .lm import LanguageModel

_SLAB_VALUES = 32_000_000
"""Most logits made at once (floats): bounds memory whatever the vocabulary."""


class LMSession:
    """Rows of a local model; see :class:`astprompter.types.Session`."""

    def __init__(self, lm: LanguageModel, ids: Tensor, valid: Tensor, *, cache: Any, cached: int, last: Tensor) -> None:
        """Hold the state of a batch of conversations.

        Args:
            lm: The model.
            ids: Tokens, int64 [rows, time].
            valid: Which of them are real, bool [rows, time].
            cache: Key-value cache of the first ``cached`` columns.
            cached: How many columns the model has seen.
            last: Hidden state of each row's last seen token [rows, width].
        """
        self._lm, self._ids, self._valid = lm, ids, valid
        self._cache, self._cached, self._last = cache, cached, last

    @classmethod
    def open(cls, lm: LanguageModel, rows: Sequence[Sequence[int]], *, turns: int) -> LMSession:
        """Start from token ids; every row needs at least one. ``turns`` sizes the cache, which grows if need be."""
        from .cache import GrowingCache

        width = lm.logits_width
        ids, valid = _pad(rows, lm.device)
        cache = GrowingCache.empty(lm.layers, ids.size(1) + turns * (lm.sampling.max_new_tokens + lm.heard_tokens))
        last = torch.zeros(len(rows), width, dtype=lm.model.dtype, device=lm.device)
        return cls(lm, ids, valid, cache=cache, cached=0, last=last)

    @torch.no_grad()
    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row; see :meth:`astprompter.types.Session.hear`.

        A speech that does not fit in the context is cut on the right and gets no log-probabilities.
        """
        rows = [self._lm.tokens_of(speech) for speech in speeches]
        room = (self._lm.context - self._valid.sum(dim=1)).tolist()
        whole = [len(row) <= free for row, free in zip(rows, room, strict=True)]
        fitted = [row[: max(0, free)] for row, free in zip(rows, room, strict=True)]
        heard = max(map(len, fitted), default=0)
        if heard == 0:
            return [() for _ in rows] if likelihood else None
        pending = self._valid.size(1) - self._cached
        open_tokens = self._valid[:, self._cached :].sum(dim=1)
        ids, valid = _pad(fitted, self._lm.device, fill=self._ids[:, :1])
        self._append(ids, valid)
        before, hidden = self._last, self._advance()
        if not likelihood:
            return None
        # Token 0 is predicted by the last valid state before the speech, token j by the state of token j-1.
        states = torch.cat([before[:, None], hidden], dim=1)  # [rows, 1 + pending + heard, width]
        index = torch.arange(pending, pending + heard, device=ids.device).expand(len(rows), -1).clone()
        index[:, 0] = open_tokens
        chosen, places = valid.nonzero(as_tuple=True)
        logprobs = self._logprobs(states[chosen, index[chosen, places]], ids[valid]).tolist()
        result, start = [], 0
        for row, complete in zip(fitted, whole, strict=True):
            result.append(tuple(logprobs[start : start + len(row)]) if complete else ())
            start += len(row)
        return result

    @torch.no_grad()
    def speak(self, keys: Keys) -> list[Speech]:
        """Sample one continuation per row and append it; end-of-text ends it and is not part of it."""
        lm, settings = self._lm, self._lm.sampling
        if self._cached < self._ids.size(1):
            self._advance()
        begin = self._ids.size(1)
        room = lm.context - self._valid.sum(dim=1)
        active = room > 0
        for count in range(settings.max_new_tokens):
            logits = penalise_repeats(self._head(self._last), self._ids, settings.repetition_penalty)
            logits[:, lm.banned_ids] = -torch.inf
            if count < settings.min_new_tokens:
                logits[:, list(lm.end_ids)] = -torch.inf
            active = active & logits.isfinite().any(dim=1) & ~logits.isnan().any(dim=1)
            logits = torch.where(active[:, None], logits, 0.0)
            draws = torch.from_numpy(uniform(keys, count)).to(logits.device)
            tokens = sample(logits, draws, temperature=settings.temperature, top_p=settings.top_p)
            for end in lm.end_ids:
                active = active & (tokens != end)
            active = active & (room > count)
            if not bool(active.any()):
                break
            tokens = torch.where(active, tokens, self._ids[:, 0])
            self._append(tokens[:, None], active[:, None])
            if count + 1 < settings.max_new_tokens:
                self._advance()
        ids, valid = self._ids[:, begin:].tolist(), self._valid[:, begin:].tolist()
        spoken = [
            tuple(t for t, real in zip(row, marks, strict=True) if real) for row, marks in zip(ids, valid, strict=True)
        ]
        return [Speech(lm.decode(row), row, lm.vocabulary) for row in spoken]

    @torch.no_grad()
    def branch(self, rows: Sequence[int]) -> LMSession:
        """Continue chosen rows, repeats allowed; what is pending is computed once, before it multiplies."""
        if self._cached < self._ids.size(1):
            self._advance()
        index = torch.tensor(rows, dtype=torch.long, device=self._ids.device)
        cache = self._cache.select(index)
        return LMSession(
            self._lm, self._ids[index], self._valid[index],
            cache=cache, cached=self._cached, last=self._last[index],
        )  # fmt: skip

    def transcript(self) -> list[tuple[int, ...]]:
        """Token ids of every row so far, holes left out."""
        ids, valid = self._ids.tolist(), self._valid.tolist()
        return [
            tuple(t for t, real in zip(row, marks, strict=True) if real) for row, marks in zip(ids, valid, strict=True)
        ]

    def _append(self, ids: Tensor, valid: Tensor) -> None:
        self._ids = torch.cat([self._ids, ids], dim=1)
        self._valid = torch.cat([self._valid, valid], dim=1)

    def _advance(self) -> Tensor:
        """Run all columns the model has not seen; returns their hidden states [rows, new, width]."""
        positions = (self._valid.cumsum(dim=1) - 1).clamp(min=0)[:, self._cached :]
        fresh = self._valid[:, self._cached :]
        hidden = self._lm.forward(self._ids[:, self._cached :], self._valid, positions, self._cache)
        states = torch.cat([self._last[:, None], hidden], dim=1)
        places = torch.arange(1, states.size(1), device=fresh.device)
        newest = (places * fresh).amax(dim=1)  # 0 keeps the old state of rows that got only holes
        self._last = states[torch.arange(len(states), device=fresh.device), newest]
        self._cached = self._ids.size(1)
        return hidden

    def _head(self, hidden: Tensor) -> Tensor:
        return self._lm.logits(hidden).float()

    def _logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of each target under its state: [n, width], [n] -> [n], in slabs of rows."""
        size = self._lm.vocabulary_size
        slab = max(1, _SLAB_VALUES // size)
        parts = []
        for start in range(0, len(hidden), slab):
            logits = self._head(hidden[start : start + slab])
            picked = logits.gather(1, targets[start : start + slab, None]).squeeze(1)
            parts.append(picked - logits.logsumexp(dim=1))
        return torch.cat(parts)


def _pad(rows: Sequence[Sequence[int]], device: torch.device, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Right-pad token rows: ids int64 [rows, longest], valid bool; holes repeat ``fill`` or the row's first id."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[0] if row else 0] * (longest - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    valid = torch.arange(longest) < lengths[:, None]
    ids, valid = ids.to(device), valid.to(device)
    return (ids if fill is None else torch.where(valid, ids, fill)), valid
