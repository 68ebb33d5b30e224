"""How often intervals hold the true share: the scorer's own, and the one corrected by a hundred labels.

    python scripts/simulate_labels.py [REPEATS] [LABELS]

Replies of one prefix are alike, in what they are and in how the scorer errs; the scorer misses some and flags others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from astprompter.evaluation.labels import Judged, allocation, corrected, strata_of
from astprompter.evaluation.statistics import Floats, Options, overall


@dataclass(frozen=True, slots=True)
class World:
    """How conversations and a scorer behave; everything is a log-odds.

    Attributes:
        toxic: Of a reply that is toxic.
        alike: Standard deviation between prefixes.
        tells: What a toxic reply adds to a score.
        lenient: What every score lacks.
        errs: Standard deviation of the scorer's error between prefixes.
        noise: Its standard deviation within a prefix.
    """

    toxic: float = -2.2
    alike: float = 1.2
    tells: float = 5.0
    lenient: float = 3.0
    errs: float = 1.2
    noise: float = 1.2

    def draw(self, rng: np.random.Generator, prefixes: int, turns: int) -> tuple[Floats, Floats]:
        """What people would say, 0 or 1, and scores: [prefixes, turns] both."""
        between = rng.normal(0, self.alike, (prefixes, 1))
        said = (rng.random((prefixes, turns)) < _share(self.toxic + between)).astype(np.float64)
        error = rng.normal(0, self.errs, (prefixes, 1)) + rng.normal(0, self.noise, (prefixes, turns))
        return said, _share(self.tells * said - self.lenient + error)


def _share(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-odds))


def sample(scores: Floats, labels: int, rng: np.random.Generator, *, stratified: bool = True) -> tuple[Floats, Floats]:
    """Strata of scores [replies], and which replies are judged."""
    strata = strata_of(scores) if stratified else np.zeros(len(scores), np.int64)
    found = np.unique(strata)
    sizes, rates = [int((strata == s).sum()) for s in found], [float(scores[strata == s].mean()) for s in found]
    asked = np.zeros(len(scores), bool)
    for stratum, count in zip(found, allocation(sizes, rates, labels), strict=True):
        asked[rng.choice(np.flatnonzero(strata == stratum), count, replace=False)] = True
    return strata, asked


def coverage(
    world: World, repeats: int, *, labels: int = 100, prefixes: int = 200, turns: int = 3, stratified: bool = True
) -> dict[str, float]:
    """Share of repeats whose 95 % interval holds the true share, and mean widths of the intervals."""
    rng = np.random.default_rng(0)
    truth = float(world.draw(rng, 1_000_000, 1)[0].mean())
    held: list[list[float]] = []
    for repeat in range(repeats):
        said, scores = world.draw(rng, prefixes, turns)
        strata, asked = sample(scores.ravel(), labels, rng, stratified=stratified)
        flagged = (scores > 0.5).astype(np.float64)
        options = Options(seed=repeat, resamples=400, level=0.95, threshold=0.5)
        judged = Judged(
            np.repeat(np.arange(prefixes), turns), strata, flagged.ravel(), np.where(asked, said.ravel(), np.nan)
        )
        found = corrected(judged, prefixes, options)
        assert found is not None
        row = [found.share.value or 0.0]
        for ends in (overall(scores, options).share_ci, found.share.ci):
            assert ends is not None
            row += [float(ends[0] <= truth <= ends[1]), ends[1] - ends[0]]
        held.append(row)
    mean, raw, raw_width, own, own_width = np.mean(held, axis=0).tolist()
    return {
        "truth": truth, "corrected": mean, "raw_coverage": raw, "raw_width": raw_width, "coverage": own,
        "width": own_width,
    }  # fmt: skip


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    repeats, labels = [*given, *(1000, 100)[len(given) :]]
    for name, world in (
        ("a lenient scorer", World(lenient=5.0)),
        ("a strict scorer", World(lenient=1.8)),
        ("rare failures, a lenient scorer", World(toxic=-3.2, lenient=5.0)),
        ("rare failures, a strict scorer", World(toxic=-3.2, lenient=1.8)),
    ):
        for stratified in (True, False):
            found = coverage(world, repeats, labels=labels, stratified=stratified)
            print(f"{name}, {'by strata' if stratified else 'drawn without strata'}: ", end="")
            print(", ".join(f"{key} {value:.3f}" for key, value in found.items()), flush=True)
