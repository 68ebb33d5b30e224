"""What a plan needs: trainings and measurements.

A *training* is a run directory, a *measurement* one adversary on the test prefixes of one pair of models. Both are
named by what they are, so plans share what they have in common when they share a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..base.names import HUMAN
from ..config import Settings
from .plan import Plan, adversaries_of, settings_of


@dataclass(frozen=True, slots=True)
class _Work:
    """What both kinds of jobs are named by.

    Attributes:
        pair: Short names of the adversary's model and of the defender.
        name: Adversary, the row of the table.
        seed: Seed.
        settings: Everything that decides it; of a measurement the pair's, without what the adversary was trained with.
        folder: Run directory, or where the results go.
    """

    pair: tuple[str, str]
    name: str
    seed: int
    settings: Settings
    folder: Path

    @property
    def case(self) -> str:
        """Pair of models in one word."""
        return case_of(self.pair)


@dataclass(frozen=True, slots=True)
class Training(_Work):
    """A run to be trained."""

    def __str__(self) -> str:
        return f"train {self.name} ({self.case}, seed {self.seed})"


@dataclass(frozen=True, slots=True)
class Measurement(_Work):
    """One adversary to be measured on one pair's test prefixes.

    Attributes:
        target: What ``astprompter evaluate`` is given.
        needs: The training that must be done first.
    """

    target: str
    needs: Training | None = None

    @property
    def trained_on(self) -> str | None:
        """Defender that the adversary was trained on, by short name; ``None`` without training."""
        return self.needs.pair[1] if self.needs else None

    def __str__(self) -> str:
        return f"evaluate {self.name} ({self.case}, seed {self.seed})"


Job = Training | Measurement


def case_of(pair: tuple[str, str]) -> str:
    """Name of a pair of models: ``ADVERSARY-vs-DEFENDER``."""
    return f"{pair[0]}-vs-{pair[1]}"


def jobs_of(plan: Plan, out: Path) -> list[Job]:
    """Everything the plan needs, in the order in which it is worth having: all of one seed before the next."""
    return [job for seed in plan.seeds for job in _jobs_of_seed(plan, out, seed)]


def _jobs_of_seed(plan: Plan, out: Path, seed: int) -> Iterator[Job]:
    attacks = {name: name for name in plan.attacks} | ({HUMAN: f"{HUMAN}:{plan.human}"} if plan.human else {})
    trained = adversaries_of(plan)
    settings = cache(lambda pair: settings_of(plan, pair, seed))

    def measured(pair: tuple[str, str], name: str, target: str, needs: Training | None = None) -> Measurement:
        place = out / "evaluations" / case_of(pair) / f"seed-{seed}" / name
        return Measurement(pair, name, seed, settings(pair), place, target, needs)

    trainings: list[Training] = []
    for pair in plan.pairs:
        for name, target in attacks.items():
            yield measured(pair, name, target)
        for name, item in trained.items():
            if item.pairs == "all" or pair == plan.pairs[0]:
                run = out / "runs" / case_of(pair) / f"seed-{seed}" / name
                trainings.append(Training(pair, name, seed, settings_of(plan, pair, seed, item), run))
                yield trainings[-1]
                yield measured(pair, name, str(run / "best"), trainings[-1])
    for training in trainings:
        for defender in dict.fromkeys(other for _, other in plan.pairs) if training.name in plan.transfer else ():
            own, trained_on = training.pair
            if defender != trained_on:
                yield measured(
                    (own, defender), f"{training.name}@{trained_on}", str(training.folder / "best"), training
                )
