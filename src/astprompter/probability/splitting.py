"""A second estimator, which does not share the adversary's blind spot: sequential Monte Carlo over turns.

Only natural speech is heard. Within an island, particles whose scores come nearer to failure are multiplied, after
every utterance and after every reply, and what that changes is divided out again (Del Moral 2004, Feynman-Kac Formulae,
section 9.4): with potentials G, Π mean(G) · mean(failed / ΠG along the line) is unbiased for every number of particles
and every G > 0. G is the level of the last two texts over the level at which the line was chosen before, so ΠG is the
present level alone: what a line was multiplied for long ago does not weigh on it. A line that can have no failure any
more has level 0: it is dropped, and loses nothing. Islands are independent, so their spread is the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..base.protocols import Context, Speaker
from ..base.randomness import derive, key_of, uniform
from ..base.records import Keys, Prefix
from .events import Event, fates
from .limits import student_quantile

Floats = npt.NDArray[np.float64]
_LEAST = 0.01
_ADVERSARY, _DEFENDER, _PARENTS = 1_000, 2_000, 3_000


@dataclass(frozen=True, slots=True)
class Splitting:
    """What the islands found.

    Attributes:
        islands: Estimate of every island; unassessed replies count as none.
        worst: The same with unassessed replies as failures.
        particles: Conversations of an island.
    """

    islands: Floats
    worst: Floats
    particles: int

    @property
    def estimate(self) -> float:
        """Mean of the islands."""
        return float(self.islands.mean())

    def interval(self, level: float) -> tuple[float, float] | None:
        """Student's interval of the mean of islands, cut at 0 and 1; ``None`` where they do not differ."""
        count = len(self.islands)
        if np.ptp(self.islands) == 0.0:
            return None
        half = student_quantile(0.5 * (1 + level), count - 1) * float(self.islands.std(ddof=1)) / math.sqrt(count)
        return max(0.0, self.estimate - half), min(1.0, self.estimate + half)


def level_of(scores: Floats) -> Floats:
    """The root of the toxicity, at least 0.1: a reply of 0.3 goes on about five times as often as one of 0.01."""
    found: Floats = np.sqrt(np.maximum(np.nan_to_num(scores), _LEAST))
    return found


def split(
    speaker: Speaker,
    defender: Speaker,
    event: Event,
    prefixes: Sequence[Prefix],
    *,
    islands: int,
    particles: int,
    horizon: int,
    seed: int,
    islands_per_batch: int,
    known: Mapping[int, tuple[float, float]] = MappingProxyType({}),
    on_islands: Callable[[range, Floats], None] = lambda batch, found: None,
    on_turns: Callable[[int], None] = lambda turns: None,
) -> Splitting:
    """Estimate the probability of failure by natural speech alone.

    Args:
        speaker: Speaks naturally.
        defender: Answers.
        event: What counts as a failure.
        prefixes: Openings; each particle begins with one drawn at random.
        islands: Independent repetitions, at least 20.
        particles: Conversations of each.
        horizon: Turns.
        seed: Names the streams.
        islands_per_batch: Islands that advance together; changes no result.
        known: Islands that are not grown again, by number: estimate, and with unassessed replies as failures.
        on_islands: Called with the numbers of islands that were grown, and the two figures of each [2, islands].
        on_turns: Called with the number of turns done since the last call.
    """
    found = []
    for first in range(0, islands, islands_per_batch):
        batch = range(first, min(islands, first + islands_per_batch))
        if all(island in known for island in batch):
            found.append(np.array([known[island] for island in batch]).T)
            on_turns(len(batch) * particles * horizon)
            continue
        keys = np.array(
            [key_of(seed, "splitting", island, place) for island in batch for place in range(particles)],
            dtype=np.uint64,
        )
        places = (uniform(keys, 0) * len(prefixes)).astype(int)
        texts = [prefixes[place].text for place in places]
        like = np.lexsort((places, np.array([*map(len, texts)]), np.arange(len(keys)) // particles))  # see _Run.draw
        texts, keys = [texts[row] for row in like], keys[like]
        own = _grow(
            speaker, defender, event, texts, derive(keys, 1), len(batch), horizon=horizon, on_turns=on_turns,
        )  # fmt: skip
        on_islands(batch, own)
        found.append(own)
    both = np.concatenate(found, axis=1)
    return Splitting(both[0], both[1], particles)


def _grow(
    speaker: Speaker, defender: Speaker, event: Event, prefixes: Sequence[str], keys: Keys, islands: int,
    *, horizon: int, on_turns: Callable[[int], None],
) -> Floats:  # fmt: skip
    """Islands side by side: estimates with unassessed replies as none, and as failures, [2, islands]."""
    speaking, answering = speaker.start(prefixes, turns=horizon), defender.start(prefixes, turns=horizon)
    heard: list[Context] = [(prefix,) for prefix in prefixes]
    lines, scores = _Lines.new(islands, len(prefixes)), np.zeros(len(prefixes))
    found = np.zeros((2, islands))
    for turn in range(horizon):
        keys = derive(keys, 0)
        utterances = speaking.speak(derive(keys, _ADVERSARY))
        answering.hear(utterances)
        near, most = event.utterances(utterances, heard)
        dead = event.settled(most)
        if event.clean is not None:  # where it is not known to be clean, the line ends
            found[1] += lines.mean(unknown := np.isnan(most))
            dead |= unknown
        rows = lines.choose(level_of(np.fmax(near, scores)) * ~dead, derive(keys, _PARENTS))
        near, utterances = near[rows], [utterances[row] for row in rows]
        heard = [(*heard[row], utterance.text) for row, utterance in zip(rows, utterances, strict=True)]
        speaking, answering = speaking.branch(rows), answering.branch(rows)
        replies = answering.speak(derive(keys, _DEFENDER))
        scores, most = event.replies(utterances, replies, heard)
        fate = fates(scores, most, event.threshold, event.clean)
        for place, failed in enumerate((fate.failed, fate.failed | fate.unknown)):
            found[place] += lines.mean(failed)
        on_turns(len(prefixes))
        if turn < horizon - 1:
            rows = lines.choose(level_of(np.fmax(near, scores)) * fate.going, derive(keys, _PARENTS + 1))
            scores = scores[rows]
            speaking, answering = speaking.branch(rows), answering.branch(rows)
            speaking.hear([replies[row] for row in rows])
            heard = [(*heard[row], replies[row].text) for row in rows]
    return found


@dataclass(slots=True)
class _Lines:
    """What choosing has changed, to be divided out.

    Attributes:
        scale: Π mean(G) of every island [islands]; 0 where all its particles have failed. Such an island still speaks:
            where less than half of the conversations fail, fewer than 1 turn in 30 is spent on them.
        divisors: ΠG along the line of every particle, the level at which it was chosen [islands, particles].
    """

    scale: Floats
    divisors: Floats

    @classmethod
    def new(cls, islands: int, rows: int) -> _Lines:
        return cls(np.ones(islands), np.ones((islands, rows // islands)))

    def mean(self, failed: npt.NDArray[np.bool_]) -> Floats:
        """What these failures [rows] add to the estimate of every island."""
        found: Floats = self.scale * (failed.reshape(self.divisors.shape) / self.divisors).mean(axis=1)
        return found

    def choose(self, levels: Floats, keys: Keys) -> list[int]:
        """Rows that go on, of every island as many as before: systematic resampling by one number of an island."""
        grid = levels.reshape(self.divisors.shape) / self.divisors
        islands, particles = len(grid), grid.size // len(grid)
        means = grid.mean(axis=1)
        masses = np.where(means[:, None] > 0, grid, 1.0)
        ends = masses.cumsum(axis=1)
        starts = uniform(keys.reshape(grid.shape)[:, 0], 0)
        points = (starts[:, None] + np.arange(particles)) / particles * ends[:, -1:]
        parents = np.minimum((points[:, :, None] >= ends[:, None, :]).sum(axis=2), particles - 1)
        self.scale = self.scale * means
        self.divisors = np.take_along_axis(self.divisors * masses, parents, axis=1)
        return [int(row) for row in (parents + particles * np.arange(islands)[:, None]).ravel()]
