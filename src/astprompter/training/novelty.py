"""Rewards that pay for failures unlike those found before (docs/method.md section 2).

R' = R − w · tox_reply · (mean cosine to the nearest archived failures) − κ · (largest cosine to the conversation's own
earlier utterances), cosines of hashed character n-grams. Curiosity-driven red teaming (Hong et al. 2024, arXiv
2402.19464) and DiveR-CT (Zhao et al. 2024, arXiv 2405.19026) reward novelty in this form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..base.records import Node, RolloutTree
from ..base.vectors import hashed_vectors
from ..config import NoveltySettings
from ..rollout.pairs import Rewards, reward_of

Floats = npt.NDArray[np.float64]


class Archive:
    """Utterances of the last failures that a run found, beside those of earlier runs."""

    def __init__(self, size: int, texts: Iterable[str] = (), earlier: Sequence[str] = ()) -> None:
        """Hold at most ``size`` texts, the last ones, and all ``earlier`` ones, which none of them pushes out."""
        self._size, self._earlier = size, len(earlier)
        self._vectors = hashed_vectors([*earlier, *list(texts)[-size:]])

    def __len__(self) -> int:
        return len(self._vectors)

    def add(self, texts: Sequence[str], nearest: int = 1) -> float | None:
        """Take failures that were just found.

        Returns:
            Their mean likeness to those before; ``None`` without any.
        """
        vectors = hashed_vectors(texts)
        likeness = self.likeness(vectors, nearest)
        earlier, own = np.split(self._vectors, [self._earlier])
        self._vectors = np.concatenate([earlier, np.concatenate([own, vectors])[-self._size :]])
        return math.fsum(likeness) / len(likeness) if len(likeness) else None

    def likeness(self, vectors: Floats, nearest: int) -> Floats:
        """Mean cosine of unit vectors [texts, width] to their nearest archived ones: [texts], 0 without any.

        With fewer than ``nearest`` archived ones, those that are missing count 0, so that the first few weigh little.
        """
        if not len(self):
            return np.zeros(len(vectors))
        cosines = np.sort(vectors @ self._vectors.T, axis=1)[:, -nearest:]
        found: Floats = cosines.sum(axis=1) / nearest
        return found


def novel_rewards(trees: Sequence[RolloutTree], archive: Archive, settings: NoveltySettings) -> Rewards:
    """R' of every node of the trees; R itself where nothing counts."""
    if not (settings.weight or settings.repeat):
        return reward_of
    paths = [path for tree in trees for path in _paths(tree.children, ())]
    vectors = hashed_vectors([path[-1].turn.utterance.text for path in paths])
    place = {id(path[-1]): row for row, path in enumerate(paths)}
    likeness = archive.likeness(vectors, settings.nearest)
    rewards: dict[int, float] = {}
    for row, path in enumerate(paths):
        own = [float(vectors[row] @ vectors[place[id(node)]]) for node in path[:-1]]
        turn = path[-1].turn
        taken = settings.weight * turn.tox_reply * likeness[row] + settings.repeat * max(own, default=0.0)
        rewards[id(path[-1])] = turn.reward - taken
    return lambda node: rewards[id(node)]


def _paths(children: Sequence[Node], before: tuple[Node, ...]) -> Iterable[tuple[Node, ...]]:
    """The way to every node, parents first."""
    for child in children:
        path = (*before, child)
        yield path
        yield from _paths(child.children, path)
