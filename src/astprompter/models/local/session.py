"""Conversations of a local language model in lock step, with a key-value cache that can branch.

Layout: all rows share one matrix of token columns. Rows that have less to say leave *holes* (``valid`` false) on
their right; a hole repeats a real token of its row, is masked everywhere, and takes no position. Positions count
valid tokens. So nothing is ever moved or recomputed: each token goes through the model once. Branches share the
columns before them (:mod:`.cache`), and rows that have ended leave the batch once they are half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ...base.protocols import Session
from ...base.randomness import uniform
from ...base.records import Keys, Speech
from .base import LocalModel
from .openings import together
from .sampling import penalise_repeats, sample

_SLAB_VALUES = 32_000_000
"""Most logits made at once (floats): bounds memory whatever the vocabulary."""


class LMSession(Session):
    """Rows of a local model."""

    def __init__(self, lm: LocalModel, ids: Tensor, valid: Tensor, *, cache: Any, cached: int, last: Tensor) -> None:
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
    @torch.no_grad()
    def open(cls, lm: LocalModel, rows: Sequence[Sequence[int]]) -> Self:
        """Start from token ids; every row needs at least one.

        Openings of a like length are computed together, so that a long one does not widen all others, and neighbouring
        rows with the same opening compute it once; where the cache cannot keep them apart, they are one group.
        """
        ids, valid = _pad(rows, lm.device)
        last = torch.zeros(len(rows), lm.logits_width, dtype=lm.model.dtype, device=lm.device)

        def begin(group: slice, columns: int) -> Any:  # of this class: mypy binds no Self in here
            part = ids[group, :columns]
            return cls(lm, part, valid[group, :columns], cache=lm.new_cache(len(part)), cached=0, last=last[group])

        groups = together(rows) if lm.shares_branches else []
        if sum(group.repeats for group in groups) <= 1:
            whole: Self = begin(slice(None), ids.size(1))
            return whole
        parts = [begin(group.computed, max(map(len, rows[group.computed]))) for group in groups]
        with lm.precision():
            for part in parts:
                part._advance()
        caches = [part._cache.branch(group.repeats) for part, group in zip(parts, groups, strict=True)]
        cache = caches[0].joined(caches, wide=ids.size(1))
        states = [part._last.repeat_interleave(group.repeats, 0) for part, group in zip(parts, groups, strict=True)]
        return cls(lm, ids, valid, cache=cache, cached=ids.size(1), last=torch.cat(states))

    @torch.no_grad()
    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row; see :meth:`astprompter.base.protocols.Session.hear`.

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
        before = self._last
        with self._lm.precision():
            hidden = self._advance()
        if not likelihood:
            return None
        # Token 0 is predicted by the last valid state before the speech, token j by the state of token j-1.
        states = torch.cat([before[:, None], hidden], dim=1)  # [rows, 1 + pending + heard, width]
        index = torch.arange(pending, pending + heard, device=ids.device).expand(len(rows), -1).clone()
        index[:, 0] = open_tokens
        chosen, places = valid.nonzero(as_tuple=True)
        with self._lm.precision():
            logprobs = self._logprobs(states[chosen, index[chosen, places]], ids[valid]).tolist()
        result, start = [], 0
        for row, complete in zip(fitted, whole, strict=True):
            result.append(tuple(logprobs[start : start + len(row)]) if complete else ())
            start += len(row)
        return result

    @torch.no_grad()
    def speak(self, keys: Keys) -> list[Speech]:
        """Sample one continuation per row and append it; end-of-text ends it and is not part of it."""
        spoken: list[list[int]] = [[] for _ in keys]
        faults: list[str | None] = [None] * len(keys)
        with self._lm.precision():
            if self._cached < self._ids.size(1):
                self._advance()
            self._speak(keys, 0, list(range(len(keys))), spoken, faults)
        return [
            Speech(self._lm.decode(row), tuple(row), self._lm.vocabulary, fault)
            for row, fault in zip(spoken, faults, strict=True)
        ]

    def _speak(
        self, keys: Keys, count: int, names: list[int], spoken: list[list[int]], faults: list[str | None]
    ) -> None:
        """Sample tokens ``count``, ``count + 1``, … of every row.

        Args:
            keys: Random keys of this session's rows.
            count: Tokens said before.
            names: Place of each row in ``spoken``.
            spoken: Where tokens are put.
            faults: Where it is put why a row could not go on, other than by its end or the limit.
        """
        settings = self._lm.sampling
        room = self._lm.context - self._valid.sum(dim=1)
        active = torch.ones_like(room, dtype=torch.bool)
        while count < settings.max_new_tokens:
            tokens, sound = self._next(keys, count, names)
            wanted = active
            for end in self._lm.end_ids:
                wanted = wanted & ~(sound & (tokens == end))
            active = wanted & sound & (room > 0)
            marks, stuck = torch.stack([active, wanted & ~active]).tolist()
            for row in (row for row, lost in enumerate(stuck) if lost):
                faults[names[row]] = "no room in the context" if sound[row] else "logits are not finite"
            live = [row for row, real in enumerate(marks) if real]
            if not live:
                return
            for row, token in zip(live, tokens[active].tolist(), strict=True):
                spoken[names[row]].append(token)
            self._append(torch.where(active, tokens, self._ids[:, 0])[:, None], active[:, None])
            count, room = count + 1, room - 1
            if count == settings.max_new_tokens:
                return
            if 2 * len(live) <= len(marks):
                self._speak_apart(keys, count, live, names, spoken, faults)
                return
            self._advance()

    def _speak_apart(
        self,
        keys: Keys,
        count: int,
        live: list[int],
        names: list[int],
        spoken: list[list[int]],
        faults: list[str | None],
    ) -> None:
        """Go on with the rows that have not ended; the others get holes for what these say."""
        rows = torch.tensor(live, device=self._ids.device)
        before, pending = self._cached, self._ids.size(1) - self._cached
        part = self._rows(rows, self._cache.select(rows))
        part._advance()
        part._speak(keys[live], count, [names[row] for row in live], spoken, faults)
        grown = part._ids.size(1) - before - pending
        if grown:
            filler = self._ids[:, :1].expand(-1, grown).clone()
            filler[rows] = part._ids[:, -grown:]
            marks = torch.zeros_like(filler, dtype=torch.bool)
            marks[rows] = part._valid[:, -grown:]
            self._append(filler, marks)
        self._cache.extend(part._cache, rows, part._cached - before, len(self._ids))
        self._cached = part._cached
        self._last[rows] = part._last

    def _rows(self, rows: Tensor, cache: Any) -> Self:
        """Chosen rows as a session of their own, with a cache of theirs."""
        return type(self)(
            self._lm, self._ids[rows], self._valid[rows], cache=cache, cached=self._cached, last=self._last[rows]
        )

    def _next(self, keys: Keys, count: int, names: list[int]) -> tuple[Tensor, Tensor]:
        """The next token of every row, and whether it could be drawn; arguments as for :meth:`_speak`."""
        del names
        lm, settings = self._lm, self._lm.sampling
        logits = self._head(self._last)
        penalise_repeats(logits, self._ids, settings.repetition_penalty)
        logits.index_fill_(1, lm.banned if count >= settings.min_new_tokens else lm.banned_early, -torch.inf)
        draws = torch.from_numpy(uniform(keys, count)).to(logits.device)
        return sample(logits, draws, temperature=settings.temperature, top_p=settings.top_p)

    @torch.no_grad()
    def branch(self, rows: Sequence[int]) -> Self:
        """Continue chosen rows, repeats allowed; what is pending is computed once, before it multiplies."""
        if self._cached < self._ids.size(1):
            with self._lm.precision():
                self._advance()
        index = torch.tensor(rows, dtype=torch.long, device=self._ids.device)
        repeats, rest = divmod(len(rows), len(self._ids))
        regular = not rest and list(rows) == [row for row in range(len(self._ids)) for _ in range(repeats)]
        share = regular and self._lm.shares_branches
        return self._rows(index, self._cache.branch(repeats) if share else self._cache.select(index))

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
