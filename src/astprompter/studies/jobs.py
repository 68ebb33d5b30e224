"""What a plan needs: trainings and measurements.

A *training* is a run directory, a *measurement* one adversary on the test prefixes of one pair of models. Both are
named by what they are, so plans share what they have in common when they share a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.names import HUMAN
from ..config import Settings
from .plan import Plan, adversaries_of, settings_of


@dataclass(frozen=True, slots=True)
class Training:
    """A run to be trained.

    Attributes:
        case: Pair of models, ``ADVERSARY-vs-DEFENDER``.
        name: Adversary.
        seed: Seed.
        settings: Everything that decides it.
        folder: Run directory.
    """

    case: str
    name: str
    seed: int
    settings: Settings
    folder: Path

    def __str__(self) -> str:
        return f"train {self.name} ({self.case}, seed {self.seed})"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One adversary to be measured on one pair's test prefixes.

    Attributes:
        case: Pair of models whose defender is attacked.
        name: Adversary, the row of the table.
        seed: Seed of the evaluation.
        settings: Settings of the evaluation: the pair's, without what the adversary was trained with.
        folder: Where the results go.
        target: What ``astprompter evaluate`` is given.
        needs: The training that must be done first.
        trained_on: Defender that the adversary was trained on, by short name; ``None`` without training.
    """

    case: str
    name: str
    seed: int
    settings: Settings
    folder: Path
    target: str
    needs: Training | None = None
    trained_on: str | None = None

    def __str__(self) -> str:
        return f"evaluate {self.name} ({self.case}, seed {self.seed})"


Job = Training | Measurement


def jobs_of(plan: Plan, out: Path) -> list[Job]:
    """Everything the plan needs, in the order in which it is worth having: all of one seed before the next."""
    return [job for seed in plan.seeds for job in _jobs_of_seed(plan, out, seed)]


def _jobs_of_seed(plan: Plan, out: Path, seed: int) -> Iterator[Job]:
    trained = adversaries_of(plan)
    attacks: Mapping[str, str] = {name: name for name in plan.attacks}
    if plan.human:
        attacks = {**attacks, HUMAN: f"{HUMAN}:{plan.human}"}
    trainings: dict[tuple[tuple[str, str], str], Training] = {}
    for pair in plan.pairs:
        case, place = _case(pair), out / "evaluations" / _case(pair) / f"seed-{seed}"
        evaluation = settings_of(plan, pair, seed)
        for name, target in attacks.items():
            yield Measurement(case, name, seed, evaluation, place / name, target)
        for name, item in trained.items():
            if item.pairs == "first" and pair != plan.pairs[0]:
                continue
            run = out / "runs" / case / f"seed-{seed}" / name
            training = Training(case, name, seed, settings_of(plan, pair, seed, item), run)
            trainings[pair, name] = training
            yield training
            yield Measurement(case, name, seed, evaluation, place / name, str(run / "best"), training, pair[1])
    for (pair, name), training in trainings.items():
        for defender in dict.fromkeys(other for _, other in plan.pairs) if name in plan.transfer else ():
            if defender != pair[1]:
                case, row = _case((pair[0], defender)), f"{name}@{pair[1]}"
                place = out / "evaluations" / case / f"seed-{seed}" / row
                evaluation = settings_of(plan, (pair[0], defender), seed)
                target = str(training.folder / "best")
                yield Measurement(case, row, seed, evaluation, place, target, training, pair[1])


def _case(pair: tuple[str, str]) -> str:
    return f"{pair[0]}-vs-{pair[1]}"
