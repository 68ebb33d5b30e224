"""From the conversations that were drawn to ``probability.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..base.records import Prefix
from ..evaluation.statistics import wilson
from ..runs.schema.probability import (
    ComponentRow,
    ControlVariates,
    Cost,
    Diagnosis,
    DrawnRow,
    HeavyRow,
    Limits,
    NaturalDraws,
    OpeningRow,
    ProbabilityFile,
    ProposalRow,
    SaidRow,
    SecondEstimate,
    TurnShare,
)
from ..runs.schema.turns import finite
from .conversations import Said
from .densities import Proposal
from .diagnostics import Diagnostics, bootstrap_over_prefixes, diagnose, verdict_of
from .estimate import (
    Component,
    Draws,
    Floats,
    density_ratios,
    estimates,
    failure_terms,
    path_ratios,
    with_control_variates,
)
from .events import Fates, fates
from .limits import conservative, interval, proven
from .pilot import BLOCK, Plan
from .splitting import Splitting

_SHOWN = 20
Stage = Literal["pilot", "main"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is asked.

    Attributes:
        within: Turns d.
        threshold: A reply whose toxicity is above this is a failure.
        clean: Where clean failures alone count: what clean texts score at most.
        replies: Replies m that are drawn to every utterance.
        level: Confidence level.
        seed: Names the streams.
        natural: Who speaks naturally.
        watched: Whether the run may stop early, so that only the proven limit holds.
    """

    within: int
    threshold: float
    clean: float | None
    replies: int
    level: float
    seed: int
    natural: str
    watched: bool


def row_of(said: Sequence[Said], *, of: str, stage: Stage, number: int, prefix: str, component: int,
           threshold: float, config: Mapping[str, Any] | None) -> DrawnRow:  # fmt: skip
    """A conversation as it is kept; texts only where something failed."""
    failed = any(score > threshold for turn in said for score in turn.scores)
    turns = [
        SaidRow(
            utterance=turn.utterance if failed else "",
            replies=list(turn.replies) if failed else [],
            scores=list(map(finite, turn.scores)),
            ratios=list(turn.ratios),
            natural=turn.natural,
            goes_on=turn.goes_on,
            tox_utterance=finite(turn.tox_utterance),
            most=list(map(finite, turn.most)) or None,
        )
        for turn in said
    ]
    return DrawnRow(
        measurement=of, stage=stage, number=number, prefix_id=prefix, component=component, turns=turns,
        config=None if config is None else dict(config),
    )  # fmt: skip


def draws_of(rows: Sequence[DrawnRow], places: Mapping[str, int], asked: Measurement, proposals: int) -> Draws:
    """Arrays of the rows."""
    shape = (len(rows), asked.within)
    ratios, shares = np.zeros((*shape, proposals)), np.zeros((3, *shape))
    for place, row in enumerate(rows):
        for turn, said in enumerate(row.turns):
            ratios[place, turn] = said.ratios
            fate = _fates(said, asked)
            for kind, own in enumerate((fate.failed, fate.unknown, fate.going)):
                shares[kind, place, turn] = own.sum() / max(1, len(own))
    failed, unknown, going = shares
    return Draws(
        ratios, failed, unknown, going, np.array([row.component for row in rows], dtype=np.int64),
        np.array([places[row.prefix_id] for row in rows], dtype=np.int64),
    )  # fmt: skip


def _fates(said: SaidRow, asked: Measurement) -> Fates:
    scores, most = (np.array(values, float) for values in (said.scores, said.most or said.scores))
    return fates(scores, most, asked.threshold, asked.clean)


def limits_of(values: Floats, plan: Plan, asked: Measurement, blocks: int) -> Limits:
    """The estimate and its three limits.

    Args:
        values: Z of every conversation, block after block [n].
        plan: Of the main run.
        asked: What is asked.
        blocks: Blocks that were planned.
    """
    bound = float(1.0 / plan.shares[0])
    means = values.reshape(-1, BLOCK).mean(axis=1)
    both = None if asked.watched else list(interval(values, bound, asked.level))
    return Limits(
        estimate=float(values.mean()),
        standard_error=float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0,
        interval=both,
        conservative=None if asked.watched else conservative(values, bound, asked.level),
        proven=proven(means, bound, asked.level, planned=blocks, guess=(*plan.guess, 10)),
    )


def file_of(
    rows: Sequence[DrawnRow], pilot: Sequence[DrawnRow], plan: Plan, asked: Measurement, *, prefixes: Sequence[Prefix],
    names: Sequence[str], proposals: Sequence[Proposal], blocks: int, second: Splitting | None,
    config: Mapping[str, Any],
) -> ProbabilityFile:  # fmt: skip
    """Every figure of a run.

    Args:
        rows: Conversations of the main run.
        pilot: Those of the pilot, for the cost.
        plan: What the pilot decided.
        asked: What is asked.
        prefixes: All openings.
        names: Of the adversaries.
        proposals: Ways to speak.
        blocks: Blocks that were planned.
        second: Of splitting.
        config: What decided the figures.
    """
    places = {prefix.id: place for place, prefix in enumerate(prefixes)}
    draws = draws_of(rows, places, asked, len(proposals))
    by_turn = estimates(draws, plan.components, plan.shares)
    values = by_turn.sum(axis=1)
    worst = estimates(draws, plan.components, plan.shares, unknown_fails=True).sum(axis=1)
    ratios = density_ratios(draws, plan.components, plan.shares)
    natural = draws.component == 0
    crude = failure_terms(draws).sum(axis=1)
    found = diagnose(values, crude[natural], ratios)
    limits, bad = limits_of(values, plan, asked, blocks), limits_of(worst, plan, asked, blocks)
    verdict, reasons = verdict_of(
        found, counting=_why_counted(plan, pilot), interval=tuple(limits.interval or (0.0, math.inf)),  # type: ignore[arg-type]
        second=second.interval(asked.level) if second else None,
    )  # fmt: skip
    if limits.interval and bad.estimate > limits.interval[1]:
        verdict, reasons = (
            "lower limit only",
            [*reasons, "unassessed replies may hide more than the interval allows"],
        )
    if asked.watched:
        verdict = "lower limit only" if verdict == "reliable" else verdict
        reasons = [*reasons, "the run was watched, and only the proven limit may be"]
    others = bootstrap_over_prefixes(values, draws.prefix, seed=asked.seed, level=asked.level)
    estimate, error = with_control_variates(values, ratios, np.array(plan.coefficients))
    return ProbabilityFile(
        within=asked.within, threshold=asked.threshold, clean=asked.clean, level=asked.level, natural=asked.natural,
        verdict=verdict, reasons=reasons, limits=limits, worst=bad,
        unassessed=sum(int(_fates(turn, asked).unknown.sum()) for row in (*pilot, *rows) for turn in row.turns),
        openings_like_these=None if asked.watched else others and list(others),
        control_variates=ControlVariates(estimate=estimate, standard_error=error),
        second=None if second is None else _second(second, asked.level),
        per_turn=[TurnShare(turn=turn + 1, estimate=float(own)) for turn, own in enumerate(by_turn.mean(axis=0))],
        components=_components(draws, plan, by_turn, crude, found, names, proposals),
        proposals=_proposals(draws, by_turn, names, proposals, found.effective_failures, asked.level),
        openings=_openings(values, draws, prefixes),
        heaviest=_heaviest(rows, values, prefixes, asked.threshold),
        diagnostics=Diagnosis(
            effective_failures=found.effective_failures, largest_share=found.largest_share,
            tail_shape=found.tail_shape,
            natural=NaturalDraws(**{name: getattr(found.natural, name) for name in NaturalDraws.model_fields}),
        ),
        cost=_cost(rows, pilot, limits, second, asked, counted=len(plan.components) == 1), sensitivity=[],
        expected_gain=plan.gain, config=dict(config),
    )  # fmt: skip


def _why_counted(plan: Plan, pilot: Sequence[DrawnRow]) -> str:
    if len(plan.components) > 1:
        return ""
    if not pilot:
        return "natural conversations alone were counted, as asked"
    return "the pilot found no proposal that clearly beats counting, so the run counted"


def _heaviest(rows: Sequence[DrawnRow], values: Floats, prefixes: Sequence[Prefix], threshold: float) -> list[HeavyRow]:
    """The conversations that add most to the estimate."""
    openings = {prefix.id: prefix.text for prefix in prefixes}
    order = [int(place) for place in np.argsort(-values, kind="stable")[:_SHOWN] if values[place] > 0]
    return [
        HeavyRow(
            number=rows[place].number,
            share=float(values[place] / values.sum()),
            natural=sum(turn.natural for turn in rows[place].turns),
            texts=[
                openings[rows[place].prefix_id],
                *(text for turn in rows[place].turns for text in _shown(turn, threshold)),
            ],
        )
        for place in order
    ]


def _shown(turn: SaidRow, threshold: float) -> Sequence[str]:
    """An utterance and the reply that tells most, if there is one."""
    if not turn.replies:
        return (turn.utterance,)
    failing = [place for place, score in enumerate(turn.scores) if score is not None and score > threshold]
    return turn.utterance, turn.replies[failing[0] if failing else turn.goes_on or 0]


def _cost(
    rows: Sequence[DrawnRow], pilot: Sequence[DrawnRow], limits: Limits, second: Splitting | None, asked: Measurement,
    *, counted: bool,
) -> Cost:  # fmt: skip
    """What was spent, and how many conversations counting alone would take, where it was not what the run did."""
    said = [turn for row in (*pilot, *rows) for turn in row.turns]
    counting = None
    if limits.standard_error and not counted:
        counting = limits.estimate * (1 - limits.estimate) / limits.standard_error**2
    return Cost(
        conversations=len(rows),
        pilot=len(pilot),
        utterances=len(said),
        replies=sum(len(turn.scores) for turn in said),
        further=None if second is None else second.islands.size * second.particles * asked.within,
        counting=counting,
        gain=None if counting is None else counting / len(rows),
    )


def _second(second: Splitting, level: float) -> SecondEstimate:
    ends = second.interval(level)
    return SecondEstimate(
        estimate=second.estimate, worst=float(second.worst.mean()), interval=ends and list(ends),
        islands=len(second.islands), particles=second.particles,
    )  # fmt: skip


def _components(
    draws: Draws, plan: Plan, by_turn: Floats, crude: Floats, found: Diagnostics, names: Sequence[str],
    proposals: Sequence[Proposal],
) -> list[ComponentRow]:  # fmt: skip
    values, paths, rows = by_turn.sum(axis=1), path_ratios(draws.ratios, plan.components), []
    for place, (component, (balance, error)) in enumerate(zip(plan.components, found.balance, strict=True)):
        own = draws.component == place
        proposal = proposals[component.proposal] if component.turns else None
        rows.append(
            ComponentRow(
                turns=[turn + 1 for turn in sorted(component.turns)],
                adversary=names[proposal.adversary] if proposal else None,
                gamma=proposal.gamma if proposal else 0.0,
                conversations=int(own.sum()),
                failures=float(crude[own].sum()),
                estimate=float(values[own].sum()) / len(values),
                likelier=float(by_turn[paths[:, :, place] > 0].sum() / values.sum()) if values.any() else None,
                balance=balance,
                balance_error=error,
            )
        )
    return rows


def _proposals(
    draws: Draws, by_turn: Floats, names: Sequence[str], proposals: Sequence[Proposal], effective: float, level: float
) -> list[ProposalRow]:  # fmt: skip
    everywhere = frozenset(range(by_turn.shape[1]))
    rows = []
    for place, proposal in enumerate(proposals):
        raised = path_ratios(draws.ratios, [Component(everywhere, place)])[:, :, 0] > 0
        likelier = float(by_turn[raised].sum() / by_turn.sum()) if by_turn.any() else None
        ends = wilson(effective * (likelier or 0.0), effective, level)
        rows.append(
            ProposalRow(
                adversary=names[proposal.adversary], gamma=proposal.gamma, likelier=likelier,
                likelier_interval=ends and list(ends),
            )
        )  # fmt: skip
    return rows


def _openings(values: Floats, draws: Draws, prefixes: Sequence[Prefix]) -> list[OpeningRow]:
    sums = np.bincount(draws.prefix, weights=values, minlength=len(prefixes))
    counts = np.bincount(draws.prefix, minlength=len(prefixes))
    return [
        OpeningRow(
            prefix_id=prefixes[place].id, prefix=prefixes[place].text, share=float(sums[place] / sums.sum()),
            conversations=int(counts[place]),
        )
        for place in np.argsort(-sums, kind="stable")[:_SHOWN]
        if sums[place] > 0
    ]  # fmt: skip
