"""Figures of the distinct failures of adversaries, each by itself and as a part of what all found together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..base.protocols import Encoder
from ..base.randomness import generator
from ..base.vectors import HashedGrams
from ..rollout.distinct import ALIKE, LEAST_COPIED, ORDER, Failing, Numbers, Vectors, greedy, likeness, place_of
from ..rollout.diversity import MOST_FOR_VENDI, vendi
from ..runs.schema.distinct import DistinctAt, DistinctFailures, Variety
from .statistics import Options

SIMILARITIES = (0.6, ALIKE, 0.8)
"""Cosines from which on two texts are alike; the middle one makes the clusters of ``failures.jsonl``."""
_DRAWS = 20
"""Draws of failures that the Vendi score at a matched count is the mean of."""
_CURVE = 10
"""Points of a rarefaction curve."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of the failures of all adversaries together.

    Attributes:
        variety: Section ``variety`` of ``summary.json``.
        clusters: Adversary, prefix and turn (of seed 0) to the number of the cluster, from 1.
        places: The same to a place on the map of failures.
    """

    variety: Variety
    clusters: Mapping[tuple[str, int, int], int]
    places: Mapping[tuple[str, int, int], tuple[float, float]]


def expected_kinds(counts: Sequence[int] | Numbers, total: int, drawn: int) -> float:
    """Expected number of kinds among ``drawn`` of ``total`` units, drawn without replacement (Hurlbert 1971).

    Σ_k 1 − C(total − n_k, drawn) / C(total, drawn), where n_k units hold kind k.
    """
    if not 0 <= drawn <= total:
        raise ValueError(f"{drawn} of {total} units cannot be drawn")
    return math.fsum(1 - _absent(total, int(count), drawn) for count in counts)


def _absent(total: int, count: int, drawn: int) -> float:
    """Probability that none of ``count`` units is among those drawn."""
    if count > total - drawn:
        return 0.0
    log = math.lgamma
    return math.exp(log(total - count + 1) - log(total - count - drawn + 1) - log(total + 1) + log(total - drawn + 1))


def jackknife(groups: Sequence[set[int]]) -> float:
    """Standard error of the number of kinds, by leaving out one group at a time (Tukey 1958).

    Without a group those kinds are gone that only it holds, u_i of them, so that the variance is
    (n − 1)/n · Σ (u_i − ū)². A bootstrap will not do: a resample never holds more kinds than the sample.

    Args:
        groups: The kinds of each prefix, also of those without any; at least two.
    """
    held: dict[int, int] = {}
    for group in groups:
        for kind in group:
            held[kind] = held.get(kind, 0) + 1
    alone = np.array([sum(held[kind] == 1 for kind in group) for group in groups], np.float64)
    n = len(alone)
    return math.sqrt((n - 1) / n * float(((alone - alone.mean()) ** 2).sum()))


def distinct_failures(
    failing: Mapping[str, Sequence[Failing]],
    shape: Mapping[str, tuple[int, int]],
    options: Options,
    encoder: Encoder | None = None,
) -> Found:
    """Count the distinct failures of adversaries, each by itself and as a part of what all found together.

    Args:
        failing: Failing turns of each adversary, in the order that decides among equals.
        shape: Seeds and prefixes of each adversary.
        options: Level of the intervals, and the seed that names the draws.
        encoder: What makes vectors of texts; hashed n-grams when not given.
    """
    encoder = encoder or HashedGrams()
    rows = sorted(
        ((name, one) for name, found in failing.items() for one in found),
        key=lambda row: place_of(row[1]),
    )
    spoken, replied, similar = likeness([one for _, one in rows], encoder)
    unions = {least: greedy(similar, least) for least in SIMILARITIES}
    matched = min(map(len, failing.values()), default=0)
    adversaries = {}
    for name in failing:
        own = [i for i, (whose, _) in enumerate(rows) if whose == name]
        mine = [rows[i][1] for i in own]
        adversaries[name] = DistinctFailures(
            failures=len(own),
            conversations=math.prod(shape[name]),
            at=[
                _distinct_at(
                    least, greedy(similar[np.ix_(own, own)], least), mine, shape[name],
                    matched=matched, level=options.level, covered=_share(unions[least], own),
                )
                for least in SIMILARITIES
            ],
            vendi=_vendi_at(spoken[own], matched, options.seed),
        )  # fmt: skip
    main = unions[SIMILARITIES[1]]
    axes = two_axes(np.concatenate([spoken, replied], axis=1))
    names = [(whose, one.prefix, one.turn) for whose, one in rows]
    seeds = [one.seed for _, one in rows]
    return Found(
        Variety(
            encoder=encoder.name, order=ORDER, least_copied=LEAST_COPIED, matched_failures=matched,
            clusters={f"{least:g}": int(found.max(initial=-1)) + 1 for least, found in unions.items()},
            adversaries=adversaries,
        ),
        {name: int(kind) + 1 for name, kind, seed in zip(names, main, seeds, strict=True) if not seed},
        {name: (float(x), float(y)) for name, (x, y), seed in zip(names, axes, seeds, strict=True) if not seed},
    )  # fmt: skip


def _distinct_at(
    least: float,
    kinds: Numbers,
    failing: Sequence[Failing],
    shape: tuple[int, int],
    *,
    matched: int,
    level: float,
    covered: float | None,
) -> DistinctAt:
    """The clusters of one adversary's failures at one similarity."""
    seeds, prefixes = shape
    per_prefix: list[set[int]] = [set() for _ in range(prefixes)]
    per_conversation: dict[tuple[int, int], set[int]] = {}
    for kind, one in zip(kinds.tolist(), failing, strict=True):
        per_prefix[one.prefix].add(kind)
        per_conversation.setdefault((one.seed, one.prefix), set()).add(kind)
    count = int(kinds.max(initial=-1)) + 1
    in_conversations = np.zeros(count, np.int64)
    for held in per_conversation.values():
        in_conversations[list(held)] += 1
    total, reach = seeds * prefixes, NormalDist().inv_cdf((1 + level) / 2)
    error = jackknife(per_prefix) if prefixes > 1 else None
    return DistinctAt(
        similarity=least,
        distinct=count,
        ci=None if error is None else [max(0.0, count - reach * error), count + reach * error],
        among_matched=expected_kinds(np.bincount(kinds, minlength=count), len(failing), matched),
        curve=[expected_kinds(in_conversations, total, round(total * i / _CURVE)) for i in range(1, _CURVE + 1)],
        covered=covered,
    )


def two_axes(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Places [n, 2] of vectors [n, width] on their two principal axes; each axis points to its farther end.

    By a randomised range finder with two power iterations (Halko et al. 2011, arXiv 0909.4061), the same for the same
    vectors; zeros where there is nothing to tell apart.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2))
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    basis = centred @ generator("map", 0).standard_normal((centred.shape[1], min(10, len(vectors))))
    for _ in range(2):
        basis = centred @ (centred.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    left, sizes, _ = np.linalg.svd(basis.T @ centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    found = basis @ (left * sizes)[:, :2]
    places[:, : found.shape[1]] = found
    ends = np.abs(places).argmax(axis=0)
    return places * np.where(places[ends, [0, 1]] < 0, -1.0, 1.0)


def _vendi_at(vectors: Vectors, count: int, seed: int) -> float | None:
    """Mean Vendi score of ``count`` of the vectors, drawn without replacement."""
    count = min(count, MOST_FOR_VENDI)
    if not count:
        return None
    draws = 1 if count == len(vectors) else _DRAWS
    rng = generator("vendi at", seed)
    scores = [vendi(vectors[rng.choice(len(vectors), count, replace=False)].astype(np.float64)) for _ in range(draws)]
    return math.fsum(score or 0.0 for score in scores) / draws


def _share(union: Numbers, own: Sequence[int]) -> float | None:
    """Share of the clusters of all adversaries in which one has a failure."""
    return len(set(union[list(own)].tolist())) / (int(union.max()) + 1) if len(union) else None
