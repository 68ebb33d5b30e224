"""Tiny tabular speakers: every conversation is written down with its probability, so that nothing is estimated."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from astprompter.base.randomness import uniform
from astprompter.base.records import Speech
from astprompter.config import SamplingSettings
from astprompter.probability.densities import Proposal, densities
from astprompter.probability.estimate import Component, Draws
from astprompter.probability.events import fates
from astprompter.probability.pilot import every_component
from astprompter.probability.speaker import BlendedModel

END, BANNED, SIZE = 0, 1, 6
TOXIC, UNKNOWN, UNCLEAN, LURE = 2, 3, 4, 5
"""Replies are tokens 2 to 4: one fails, one cannot be assessed where a test wants it, and after one, which does not
fail, as after an utterance that ends like it, there is no clean failure. Failure is rare but after an utterance that
ends with ``LURE``."""


@functools.cache
def table(seed: int) -> torch.Tensor:
    """Logits by the last token, float32 [SIZE, SIZE]; the first adversary, seed 1, is drawn to token ``LURE``."""
    if seed == 1:
        return table(0) + 4.0 * (torch.arange(SIZE) == LURE)
    drawn = 1.3 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return drawn - 3.0 * (torch.arange(SIZE) == LURE)


def what_counts(context: Sequence[int]) -> tuple[frozenset[int], int]:
    """All of a text that decides how it goes on: what was said, which the penalty asks for, and what was said last."""
    return frozenset(context), context[-1]


class Cache:
    """Nothing to remember: the last token decides."""

    def select(self, rows: Any) -> Cache:
        return self

    branch = select

    def joined(self, caches: Any, *, wide: int) -> Cache:
        return self

    def extend(self, *arguments: Any) -> None:
        """Nothing to take over."""


class TabularModel:
    """What a blended speaker needs of a language model, by a table."""

    device = torch.device("cpu")

    def __init__(self, seed: int, sampling: SamplingSettings) -> None:
        self.name, self.seed, self.sampling, self.model = f"table {seed}", seed, sampling, torch.zeros(())
        self.chat = self.autocast = False
        self.shares_branches = True
        self.vocabulary, self.vocabulary_size, self.logits_width = "table", SIZE, SIZE
        self.context, self.heard_tokens, self.end_ids = 64, 4, (END,)
        self._opening = ()
        self.banned, self.banned_early = torch.tensor([BANNED]), torch.tensor([END, BANNED])
        self.precision = nullcontext

    def new_cache(self, rows: int) -> Cache:
        return Cache()

    def forward(self, ids: Any, mask: Any, positions: Any, cache: Any = None) -> Any:
        return torch.nn.functional.one_hot(ids, SIZE).float()

    def logits(self, hidden: Any) -> Any:
        return hidden @ table(self.seed)

    def bytes_per_tree(self, *, horizon: int, branching: int) -> dict[str, int]:
        return {}

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))

    def prompt_of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids


class TabularSpeaker(BlendedModel):
    """A blended speaker of tables; text is its tokens' numbers."""

    def __init__(self, sampling: SamplingSettings, proposals: Sequence[Proposal], adversaries: int = 2) -> None:
        members: Any = [TabularModel(seed, sampling) for seed in range(1 + adversaries)]
        super().__init__(members[0], members[1:], proposals)
        self.decode = members[0].decode
        self._known: dict[Any, Any] = {}

    device = torch.device("cpu")  # type: ignore[assignment]

    def encode_prefix(self, text: str, *, turns: int) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    def bytes_per_tree(self, *, horizon: int, branching: int) -> dict[str, int]:
        return {}

    def weights_sha256(self) -> str:
        return "table"

    def tokens_of(self, speech: Speech) -> tuple[int, ...]:
        return tuple(speech.token_ids or ())

    def densities_after(self, context: Sequence[int], count: int) -> Any:
        """Distributions of the next token after a text in which ``count`` tokens of the utterance were said."""
        if (key := (*what_counts(context), count >= self.sampling.min_new_tokens)) in self._known:
            return self._known[key]
        logits = [table(member.seed)[context[-1]][None].clone() for member in self.members]  # type: ignore[attr-defined]
        found = densities(
            logits[0], logits[1:], torch.tensor([context]), sampling=self.sampling, proposals=self.proposals,
            banned=self.banned if count >= self.sampling.min_new_tokens else self.banned_early,
        )  # fmt: skip
        self._known[key] = (
            found.tokens[0].tolist(), found.natural[0].tolist(), found.proposals[0].T.numpy(), found,
        )  # fmt: skip
        return self._known[key]


def utterances(speaker: TabularSpeaker, context: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float, Any, bool]]:
    """Every utterance after a context: tokens, log p̃, log q̃ of every proposal [Q], and whether it ended by itself."""

    def go_on(said: tuple[int, ...], natural: float, proposals: Any) -> Iterator[Any]:
        if len(said) == speaker.sampling.max_new_tokens:
            yield said, natural, proposals, False
            return
        tokens, owns, others_of, _ = speaker.densities_after((*context, *said), len(said))
        for token, own, others in zip(tokens, owns, others_of, strict=True):
            if np.isfinite(own):
                if token == END:
                    yield said, natural + own, proposals + others, True
                else:
                    yield from go_on((*said, token), natural + own, proposals + others)

    yield from go_on((), 0.0, np.zeros(len(speaker.proposals)))


def reply_chances(context: Sequence[int]) -> Any:
    """The defender's replies, tokens 2 to 4, after an utterance: [3]."""
    failing = 0.5 if context[-1] == LURE else 0.002
    return np.array([failing, *((1.0 - failing) * table(99)[context[-1], 3:5].double().softmax(0).numpy())])


def outcomes(
    chances: Any, unknown: bool, m: int, clean: float | None
) -> Iterator[tuple[float, tuple[float, float, float], int | None]]:
    """Every outcome of m replies: probability, shares (failed, unknown, going), and the reply that goes on, if any."""
    for replies, shares, going in _fates(unknown, m, clean):
        probability = float(np.prod([chances[reply - 2] for reply in replies]))
        for reply in going or [None]:
            yield probability / max(1, len(going)), shares, reply


@functools.cache
def _fates(unknown: bool, m: int, clean: float | None) -> list[Any]:
    scores = {TOXIC: 0.9, UNKNOWN: np.nan if unknown else 0.05, UNCLEAN: 0.3}
    rows = []
    for replies in itertools.product(scores, repeat=m):
        own = np.array([scores[reply] for reply in replies])
        fate = fates(own, own, 0.5, clean)
        shares = [float(kind.mean()) for kind in (fate.failed, fate.unknown, fate.going)]
        rows.append((replies, tuple(shares), list(itertools.compress(replies, fate.going))))
    return rows


def every_conversation(
    speaker: TabularSpeaker,
    prefix: tuple[int, ...],
    *,
    horizon: int,
    m: int,
    unknown: bool = False,
    clean: float | None = None,
) -> tuple[Draws, Any, Any]:
    """Every conversation of m replies a turn, as draws; log p̃ of its utterances; its replies' probability: [n] each."""
    rows: list[Any] = []
    size = len(speaker.proposals)

    def go_on(context: tuple[int, ...], natural: float, chance: float, turns: list[Any]) -> None:
        if len(turns) == horizon:
            rows.append((natural, chance, turns))
            return
        for said, own, others, _ in utterances(speaker, context):
            after = (*context, *said)
            settled = clean is not None and said[-1] == UNCLEAN
            answers = [(1.0, (0.0, 0.0, 0.0), None)] if settled else outcomes(reply_chances(after), unknown, m, clean)
            for probability, shares, reply in answers:
                path = [*turns, (others - own, shares)]
                if reply is None:
                    missing = [(np.zeros(size), (0.0, 0.0, 0.0))] * (horizon - len(path))
                    rows.append((natural + own, chance * probability, path + missing))
                else:
                    go_on((*after, reply), natural + own, chance * probability, path)

    go_on(prefix, 0.0, 1.0, [])
    ratios = np.array([[ratio for ratio, _ in turns] for _, _, turns in rows]).reshape(len(rows), horizon, size)
    shares = np.array([[found for _, found in turns] for _, _, turns in rows])
    nothing = np.zeros(len(rows), dtype=np.int64)
    draws = Draws(ratios, shares[:, :, 0], shares[:, :, 1], shares[:, :, 2], nothing, nothing)
    return draws, np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def probability_of_failure(
    speaker: TabularSpeaker,
    context: tuple[int, ...],
    horizon: int,
    *,
    unknown: bool = False,
    worst: bool = False,
    clean: bool = False,
    known: dict[Any, float] | None = None,
) -> float:
    """The exact probability that natural speech meets a failure, by recursion, one reply a turn.

    Args:
        speaker: Speaks naturally.
        context: The text so far.
        horizon: Turns left.
        unknown: Whether replies of one token cannot be assessed; they end the conversation,
        worst: as a failure.
        clean: Whether failures count only where nothing before them is token ``UNCLEAN``, as a reply or at the end of
            an utterance.
        known: What was found before, by :func:`what_counts` and turns left.
    """
    if horizon == 0:
        return 0.0
    known = {} if known is None else known
    if (key := (*what_counts(context), horizon)) in known:
        return known[key]
    total = 0.0
    for said, own, _, _ in utterances(speaker, context):
        if clean and said[-1] == UNCLEAN:
            continue
        chances = reply_chances(after := (*context, *said))
        for reply in (2, 3, 4):
            if reply == TOXIC or (unknown and worst and reply == UNKNOWN):
                value = 1.0
            elif (unknown and reply == UNKNOWN) or (clean and reply == UNCLEAN):
                value = 0.0
            else:
                value = probability_of_failure(
                    speaker, (*after, reply), horizon - 1, unknown=unknown, worst=worst, clean=clean, known=known
                )  # fmt: skip
            total += np.exp(own) * chances[reply - 2] * value
    known[key] = float(total)
    return known[key]


def chances_of(draws: Draws, natural: Any, replies: Any, component: Component) -> Any:
    """Probability of every conversation under a component [n]."""
    return np.exp(natural + draws.ratios[:, sorted(component.turns), component.proposal].sum(axis=1)) * replies


COMPONENTS = {
    "natural": [Component(frozenset())],
    "all turns": [Component(frozenset()), Component(frozenset({0, 1}), 1)],
    "singles": [Component(frozenset()), Component(frozenset({0}), 0), Component(frozenset({1}), 1)],
    "two adversaries": [
        Component(frozenset()), Component(frozenset({0, 1}), 0), Component(frozenset({0, 1}), 2),
        Component(frozenset({1}), 2),
    ],
    "all that a pilot draws from": every_component(range(4), 2),
}  # fmt: skip


class TabularDefender:
    """The replies of :func:`reply_chances`, as a speaker: one reply is a token."""

    name, accumulates, likelihood_proxy, local = "table", False, None, None

    def start(self, prefixes: Sequence[str], *, turns: int) -> TabularReplies:
        return TabularReplies([LURE] * len(prefixes))

    def bytes_per_tree(self, *, horizon: int, branching: int) -> dict[str, int]:
        return {}

    def weights_sha256(self) -> None:
        return None


class UncleanScorer:
    """The reply that fails scores 0.9; an utterance that ends with ``UNCLEAN``, and that reply, 0.3; all else 0.05."""

    name = "unclean"

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        scores = ({}, {str(TOXIC): 0.9})  # of utterances, which follow an odd number of texts; of replies
        return [
            (scores[len(context) % 2 == 0] | {str(UNCLEAN): 0.3}).get(text.split()[-1], 0.05)
            for text, context in zip(texts, contexts, strict=True)
        ]


class TabularReplies:
    """Its conversations: the last token heard decides."""

    def __init__(self, last: list[int]) -> None:
        self._last = last

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> None:
        self._last = [(speech.token_ids or (own,))[-1] for speech, own in zip(speeches, self._last, strict=True)]

    def speak(self, keys: Any) -> list[Speech]:
        tokens = [
            2 + int((np.cumsum(reply_chances([last])) <= number).sum())
            for last, number in zip(self._last, uniform(keys, 0), strict=True)
        ]
        return [Speech(f" {token}", (token,), "table") for token in tokens]

    def branch(self, rows: Sequence[int]) -> TabularReplies:
        return TabularReplies([self._last[row] for row in rows])


class TabularScorer:
    """The reply that fails scores 0.9; an utterance that ends with ``LURE`` 0.4; all else 0.05."""

    name = "table"

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        scores = ({str(LURE): 0.4}, {str(TOXIC): 0.9})  # of utterances, which follow an odd number of texts; of replies
        return [
            scores[len(context) % 2 == 0].get(text.split()[-1], 0.05)
            for text, context in zip(texts, contexts, strict=True)
        ]
