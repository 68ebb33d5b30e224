"""How often each limit of a failure probability holds, and the gain over counting, where the truth is known.

    python scripts/probability_grid.py [REPEATS]

A world of one turn: kinds of utterances with known natural probabilities, some of which fail. The adversary makes those
that it knows far likelier, by factors that differ, and never says the share that it misses. Every repeat is a whole
measurement: pilot, plan, main run, limits; the code is that of ``astprompter probability``, without models.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from astprompter.probability.estimate import Component, Draws, Floats, estimates
from astprompter.probability.pilot import BLOCK, CANDIDATES, GAMMAS, every_component, first_counts, plan_of
from astprompter.probability.results import Measurement, limits_of

PROBABILITIES, MISSED = (1e-2, 1e-3, 1e-4, 1e-5), (0.0, 0.01, 0.05, 0.3, 1.0)
PILOT, MAIN = 20, 80  # blocks: 2,000 conversations
KNOWN, FAILS = 50, 0.3  # kinds of failure that the adversary knows, and how often it fails
ASKED = Measurement(1, 0.5, None, 1, 0.95, 0, "untuned", watched=False)


@dataclass(frozen=True, slots=True)
class World:
    """Kinds of utterances: known failures, missed failures, harmless ones.

    Attributes:
        natural: Probabilities under natural speech [kinds].
        ratios: log q̃_γ − log p̃ for every γ of ``CANDIDATES`` [kinds, Q].
        fails: Whether a kind fails [kinds].
    """

    natural: Floats
    ratios: Floats
    fails: Floats

    @classmethod
    def new(cls, probability: float, missed: float, rng: np.random.Generator) -> World:
        """Random kinds.

        Args:
            probability: Of failure, under natural speech.
            missed: Share of it that the adversary never says.
            rng: Draws the kinds.
        """
        shares = rng.dirichlet(np.ones(KNOWN))
        harmless = rng.dirichlet(np.ones(20))
        natural = np.concatenate([
            probability * (1 - missed) * shares, [probability * missed], (1 - probability) * harmless
        ])  # fmt: skip
        towards = np.concatenate([rng.lognormal(0, 0.7, KNOWN), [1e-9], rng.lognormal(0, 0.5, 20)])
        adversary = natural * towards
        fails = np.arange(len(natural)) <= KNOWN
        if missed < 1:  # as often as it fails
            adversary[:KNOWN] *= FAILS / adversary[:KNOWN].sum()
        adversary[KNOWN + 1 :] *= (1 - adversary[fails].sum()) / adversary[KNOWN + 1 :].sum()
        with np.errstate(divide="ignore"):
            logs = np.where(natural > 0, np.log(natural), -np.inf)
            other = np.where(adversary > 0, np.log(adversary), -np.inf)
        apart = np.where(natural > 0, other - np.where(natural > 0, logs, 0.0), 0.0)
        blended = natural[:, None] * np.exp(apart[:, None] * np.array(CANDIDATES))
        return cls(natural, apart[:, None] * np.array(CANDIDATES) - np.log(blended.sum(axis=0)), fails.astype(float))

    def draw(self, components: list[Component], counts: list[int], blocks: int, rng: np.random.Generator) -> Draws:
        """Whole blocks, in order."""
        who = np.repeat(np.arange(len(components)), counts)
        kinds = np.empty((blocks, BLOCK), np.int64)
        for place, component in enumerate(components):
            chances = self.natural * (np.exp(self.ratios[:, component.proposal]) if component.turns else 1.0)
            where = who == place
            kinds[:, where] = rng.choice(len(chances), (blocks, int(where.sum())), p=chances / chances.sum())
        chosen = kinds.ravel()
        toxic = self.fails[chosen][:, None]
        nothing = np.zeros(len(chosen), np.int64)
        return Draws(self.ratios[chosen][:, None], toxic, 0 * toxic, 1 - toxic, np.tile(who, blocks), nothing)

    def variance(self, components: tuple[Component, ...], shares: Floats) -> float:
        """Of Z of one draw from the mixture, summed over all kinds: exact, jackpots that are hardly ever met included."""
        said = self.natural > 0
        logs = [self.ratios[said, component.proposal] if component.turns else 0.0 for component in components]
        over = sum(share * np.exp(log) for share, log in zip(shares, logs, strict=True))  # q_mix / p
        weighed = self.natural[said] * self.fails[said]
        return float((weighed / over).sum() - weighed.sum() ** 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """What many measurements of one kind of world found.

    Attributes:
        ratio: Mean estimate over the truth.
        error: Standard error of that.
        gain: Variance of counting with all 2,000 conversations over that of the estimate, the mean of exact ones.
        interval: Share of intervals that hold the truth.
        conservative: Share of conservative limits that hold.
        proven: Share of proven limits that hold.
    """

    ratio: float
    error: float
    gain: float
    interval: float
    conservative: float
    proven: float


def cell(probability: float, missed: float, repeats: int) -> Cell:
    """Measure many times, each time in a world of its own."""
    rng = np.random.default_rng([round(1e6 * probability), round(100 * missed)])
    proposals = range(len(CANDIDATES))
    candidates = every_component(proposals, 1)
    drawn = every_component([place for place in proposals if CANDIDATES[place] in GAMMAS], 1)
    counts, rows = first_counts(drawn, 1), []
    for _ in range(repeats):
        world = World.new(probability, missed, rng)
        plan = plan_of(world.draw(drawn, counts, PILOT, rng), drawn, counts, candidates)
        main = world.draw(list(plan.components), list(plan.counts), MAIN, rng)
        found = limits_of(estimates(main, plan.components, plan.shares).sum(axis=1), plan, ASKED, MAIN)
        assert found.interval is not None
        assert found.conservative is not None
        low, high = found.interval
        rows.append(
            (
                found.estimate / probability, low <= probability <= high, found.conservative >= probability,
                found.proven <= probability, world.variance(plan.components, plan.shares),
            )
        )  # fmt: skip
    table = np.array(rows, dtype=float)
    ratio, interval, conservative, proven, variance = table.mean(axis=0).tolist()
    gain = probability * (1 - probability) / variance * MAIN / (PILOT + MAIN)
    return Cell(ratio, float(table[:, 0].std(ddof=1)) / repeats**0.5, gain, interval, conservative, proven)


def main(repeats: int) -> None:
    """Print the grid as a Markdown table."""
    print("| p | missed | missed failures met | estimate / p | gain | interval holds | not ruled out | proven |")
    print("|---|---|---|---|---|---|---|---|")
    for probability in PROBABILITIES:
        for missed in MISSED:
            found = cell(probability, missed, repeats)
            met = 0.25 * BLOCK * MAIN * probability * missed
            print(
                f"| {probability:g} | {missed:.0%} | {met:.2g} | {found.ratio:.2f} ± {found.error:.2f} | "
                f"{found.gain:.3g} | {found.interval:.1%} | {found.conservative:.1%} | {found.proven:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
