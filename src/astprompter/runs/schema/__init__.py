"""What the files of a run hold, for those who read them (``docs/files.md``); fields that no reader needs are left out.

``NotRequired`` means that runs of earlier versions, or other kinds of runs, lack the field.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic cannot read typing's own before Python 3.12

_LARGEST = 1e300  # sums of a few must not overflow


def _moderate(value: float) -> float:
    if abs(value) > _LARGEST:
        raise PydanticCustomError("too_large", "Input is too large a number")
    return value


Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Real = Annotated[float, AfterValidator(_moderate)]
Number = Real | None
Interval = Annotated[list[Real], Field(min_length=2, max_length=2)] | None


class ConfigFile(TypedDict):
    """``config.json``."""

    settings: dict[str, Any]
    versions: NotRequired[dict[str, Any]]
    models_sha256: NotRequired[dict[str, str | None]]
    data_sha256: NotRequired[dict[str, str | None]]


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Progression(TypedDict, extra_items=Number):  # type: ignore[call-arg]  # mypy lacks PEP 728
    """Counters of a training; the others are numbers too."""

    updates: Whole


class CountedFile(TypedDict):
    """``checkpoint/state.json``, for those who only count."""

    progression: Progression


class StateFile(CountedFile):
    """``checkpoint/state.json``, for those who go on from it."""

    log_bytes: dict[str, Whole]


# --- rows ------------------------------------------------------------------------------------------------------------


class Rewards(TypedDict, extra_items=Number):  # type: ignore[call-arg]
    """Mean of the reward and of each of its terms."""

    mean: Number


class _Mean(TypedDict):
    mean: Number


class _Share(TypedDict):
    mean: Number
    share: Number


class LogRow(TypedDict):
    """A row of ``log.jsonl``; iterations of the SFT baseline have no turns, so no means."""

    type: str
    updates: Whole
    iteration: NotRequired[Whole]
    best: NotRequired[bool]
    margin: NotRequired[Number]
    loss: NotRequired[Number]
    rates: NotRequired[dict[str, Number]]
    reward: NotRequired[Rewards]
    nll: NotRequired[_Mean]
    tox_reply: NotRequired[_Share]


class PairRow(TypedDict):
    """A row of ``pairs.jsonl``."""

    iteration: Whole
    source: str
    depth: Whole
    margin: Number
    prompt_ids: list[Whole]
    chosen: str
    rejected: str


class _Scored(TypedDict):
    utterance: str
    reply: str
    nll: Number
    tox_reply: Number
    tox_turn: Number
    tox_utterance: Number
    reward: Number
    error: str | None


class Node(_Scored):
    """A node of a tree."""

    node: Whole
    parent: Whole | None
    depth: Whole
    choice: str | None


class TreeRow(TypedDict):
    """A row of ``trees.jsonl``."""

    iteration: Whole
    prefix: str
    nodes: list[Node]


class Turn(_Scored):
    """A turn of a trajectory."""

    turn: Whole
    token_logprobs: list[Real]
    tokens: NotRequired[list[str] | None]


class TrajectoryRow(TypedDict):
    """A row of ``trajectories.jsonl``."""

    adversary: str
    prefix_id: str
    prefix: str
    accumulated: NotRequired[bool]
    turns: list[Turn]


class FailureRow(TypedDict):
    """A row of ``failures.jsonl``."""

    rank: Whole
    adversary: str
    prefix_id: str
    turn: Whole
    path_nll: Real
    tox_reply: Real
    strategy: NotRequired[str | None]
    utterance: str
    reply: str


# --- figures ---------------------------------------------------------------------------------------------------------


class _Estimate(TypedDict):
    mean: Number
    ci95: Interval


_Turns = TypedDict("_Turns", {"mean": Number, "ci95": Interval, "share_above_0.5": Number, "share_ci95": Interval})


class Metric(_Turns):
    """Figures of one metric over all turns, and turn by turn."""

    perplexity: NotRequired[Number]
    per_turn: NotRequired[list[_Turns]]


class Failing(TypedDict):
    """Prefixes that fail within the horizon."""

    share: Number
    ci95: Interval
    unassessed: Whole


class Adversary(TypedDict):
    """Figures of one adversary."""

    nll: Metric
    tox_reply: Metric
    tox_turn: Metric
    failure_within_horizon: Failing
    diversity: NotRequired[dict[str, Number] | None]
    strategies: NotRequired[dict[str, Whole] | None]
    changes: NotRequired[dict[str, Any] | None]
    prefixes: Whole
    errors: Whole


class _Difference(TypedDict):
    difference: Number
    ci95: Interval


class _Times(_Difference):
    ratio: Number
    ratio_ci95: NotRequired[Interval]


_Shares = TypedDict("_Shares", {"tox_reply_share_above_0.5": _Times})


class Comparison(_Shares):
    """Paired figures of two adversaries."""

    a: str
    b: str
    nll: _Difference
    nll_relative: NotRequired[Number]


class _Prefixes(TypedDict):
    source: NotRequired[str]
    count: NotRequired[Whole]


class _Measured(TypedDict):
    settings: NotRequired[dict[str, dict[str, Any] | Whole | None]]
    prefixes: NotRequired[_Prefixes]
    targets: NotRequired[list[str]]
    kept_start: NotRequired[list[str]]


class _Settings(TypedDict):
    settings: dict[str, Any]


class RepeatableFile(TypedDict):
    """A ``summary.json`` that tells its settings."""

    config: _Settings


class _Diverse(TypedDict):
    diversity: dict[str, Any]


class _Hashed(TypedDict):
    sha256: NotRequired[str]


class _Inputs(TypedDict):
    prefixes: _Hashed
    likelihood: NotRequired[str]
    defender_sha256: NotRequired[str | None]


class DiverseFile(TypedDict):
    """A ``summary.json`` of adversaries whose diversity was measured, and what they were measured on."""

    adversaries: dict[str, _Diverse]
    config: _Inputs


class SummaryFile(TypedDict):
    """``summary.json``."""

    adversaries: dict[str, Adversary]
    comparisons: NotRequired[list[Comparison]]
    config: NotRequired[_Measured]


class _Pooled(Adversary):
    seeds: NotRequired[list[Whole]]


class _Models(TypedDict):
    defender: Any


class Case(TypedDict):
    """All adversaries against one defender."""

    defender: str
    models: _Models
    scorer: str
    test: str
    horizon: Whole
    level: NotRequired[Real]
    likelihood: NotRequired[str]
    adversaries: dict[str, _Pooled]
    comparisons: list[Comparison]


class ExperimentFile(TypedDict):
    """``experiment.json``."""

    experiment: str
    command: NotRequired[list[str]]
    cases: dict[str, Case]
