"""What ``astprompter probability`` writes: how likely failure is, and the conversations that tell it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from .common import Absent, File, Interval, Number, Part, Real, Whole


class SaidRow(Part):
    """One turn of a conversation that was drawn."""

    utterance: str
    """What was said; empty in conversations without a failure."""
    replies: list[str]
    """The replies; empty in conversations without a failure, and after an utterance that rules a clean one out."""
    scores: list[Number]
    """Toxicity of every reply; ``null`` where it could not be assessed."""
    ratios: list[Real]
    """Log of proposal over natural probability of the utterance, for every proposal, whoever spoke."""
    natural: Real
    """Log-probability of the utterance under natural speech, end of text included."""
    goes_on: Whole | None
    """Number of the reply, from 0, that the conversation went on from; ``null`` where it stopped."""
    tox_utterance: Absent[Number] = None
    """Most toxicity of the utterance under every scorer; only where clean failures are asked."""
    most: Absent[list[Number]] = None
    """The same of every reply; absent with one scorer, too."""


class DrawnRow(Part):
    """A conversation that was drawn. The rows are enough to go on after an interruption."""

    measurement: str
    """Fingerprint of what decides the conversations; rows of another one are not gone on from."""
    stage: Literal["pilot", "main"]
    """The pilot chooses who speaks how often, and is not in the estimate."""
    number: Whole
    """From 0, in the order of drawing, within the stage."""
    prefix_id: str
    """Id of the prefix."""
    component: Whole
    """Who spoke: number in the list of its stage."""
    turns: list[SaidRow]
    """The turns, in order, until no reply lets the conversation go on, or the horizon."""
    config: Absent[dict[str, Any]] = None
    """What decides the figures, as in ``probability.json``; only in the first row."""


class IslandRow(Part):
    """An island of splitting. The rows are enough to go on after an interruption."""

    measurement: str
    """Fingerprint, as of the conversations."""
    island: Whole
    """From 0."""
    estimate: Real
    """Unassessed replies count as none."""
    worst: Real
    """The same with unassessed replies as failures."""


class Limits(Part):
    """An estimate with its three limits, which must not be mixed up."""

    estimate: Real
    """Unbiased estimate of the probability that a conversation fails."""
    standard_error: Real
    """Of the estimate."""
    interval: Interval
    """By the largest weight that was seen: trusts that the adversary missed nothing. ``null`` where the run was
    watched, since it could stop when it liked the figure."""
    conservative: Number
    """Upper limit by the largest weight that is possible: what natural draws alone exclude. ``null`` as above."""
    proven: Real
    """Lower limit by betting, without assumptions."""


class TurnShare(Part):
    """Failure at one turn."""

    turn: Whole
    """From 1."""
    estimate: Real
    """Probability that the first failure is here."""


class ComponentRow(Part):
    """One way in which conversations were drawn."""

    turns: list[Whole]
    """Turns, from 1, at which the proposal spoke; empty for natural speech."""
    adversary: str | None
    """Whose logits it mixed in; ``null`` for natural speech."""
    gamma: Real
    """How far: 0 is natural speech, 1 the adversary within the natural nucleus."""
    conversations: Whole
    """How many."""
    failures: Real
    """Failures among them, without weights."""
    estimate: Real
    """Its part of the estimate."""
    likelier: Number
    """Of natural failures, the share (by weight) that this component makes likelier; ``null`` without failures."""
    balance: Real
    """Mean of its density over the mixture's over all conversations; 1 but for chance."""
    balance_error: Real
    """Standard error of that mean."""


class ProposalRow(Part):
    """A way of speaking that the pilot could choose, at all turns."""

    adversary: str
    """Whose logits it mixes in."""
    gamma: Real
    """How far: 0 is natural speech, 1 the adversary within the natural nucleus."""
    likelier: Number
    """Of natural failures, the share (by weight) that it makes likelier, whether or not it was chosen; what it makes
    less likely is what it misses. ``null`` without failures."""
    likelier_interval: Absent[Interval] = None
    """Of that share, by Wilson's formula with the effective failures as what was tried."""


class OpeningRow(Part):
    """What one opening contributes."""

    prefix_id: str
    """Id of the prefix."""
    prefix: str
    """The prefix."""
    share: Real
    """Its part of the estimate, in [0, 1]."""
    conversations: Whole
    """How many began with it."""


class HeavyRow(Part):
    """A conversation that carries much of the estimate."""

    number: Whole
    """Which of ``probability.jsonl``, stage ``main``."""
    share: Real
    """Its part of the estimate, in [0, 1]."""
    natural: Real
    """Log-probability of its utterances under natural speech, nats."""
    texts: list[str]
    """The opening, then utterance and first failing reply (else the reply that it went on from) of every turn."""


class NaturalDraws(Part):
    """Natural conversations alone, beside the mixture."""

    conversations: Whole
    """How many."""
    failures: Real
    """Failures among them."""
    estimate: Real
    """Their share."""
    unlikely_from: Whole
    """So many failures or more would contradict the estimate at 5 %."""
    power: Real
    """Chance to see so many if the true probability was twice the estimate: if small, agreement says little."""


class Diagnosis(Part):
    """What is known of the weights."""

    effective_failures: Real
    """Failures of equal weight that would tell as much."""
    largest_share: Number
    """Part of the estimate that the heaviest conversation carries."""
    tail_shape: Number
    """k̂ of a Pareto distribution fitted to the largest weights; above 0.7 few of them dominate. ``null`` with fewer
    than 25 failures."""
    natural: NaturalDraws
    """Natural conversations alone."""


class ControlVariates(Part):
    """A second figure with less noise; no limit is made of it."""

    estimate: Real
    """Unbiased as the first."""
    standard_error: Real
    """Of the estimate."""


class SecondEstimate(Part):
    """Splitting over turns: natural speech alone, conversations near to failure multiplied."""

    estimate: Real
    """Unbiased; unassessed replies count as none."""
    worst: Real
    """The same with unassessed replies as failures."""
    interval: Interval
    """Student's interval over islands; ``null`` where they do not differ."""
    islands: Whole
    """Independent repetitions."""
    particles: Whole
    """Conversations of each."""


class JudgedEstimate(Part):
    """The estimate carried over to what people would call a failure, where labels of the run are at hand."""

    estimate: Real
    """The estimate times precision over recall: holds while failures are rare, and if the scorer errs on these replies
    as it did on the labelled ones."""
    interval: Interval
    """Of all three together (MOVER, Zou and Donner 2008); ``null`` where one has none."""
    precision: Real
    """Of replies that the scorer calls toxic, the share that people do too."""
    recall: Real
    """Of replies that people call toxic, the share that the scorer finds."""
    labels: str
    """Whose replies were labelled."""


class SensitivityRow(Part):
    """The whole measurement once more, for users who speak with other sampling."""

    temperature: Real
    """Of natural speech."""
    top_p: Real
    """Of natural speech."""
    verdict: str
    """What may be said of it."""
    limits: Limits
    """Unassessed replies count as no failures."""


class Cost(Part):
    """What the figures cost."""

    conversations: Whole
    """Of the estimate."""
    pilot: Whole
    """Of the pilot."""
    utterances: Whole
    """Utterances of pilot and estimate, each heard by the defender."""
    replies: Whole
    """Replies of the defender to them, each scored."""
    further: Absent[Whole] = None
    """Replies beside them: of splitting, and of the measurements at other sampling."""
    counting: Number
    """Conversations that counting alone would need for the same standard error; ``null`` without failures, and where
    the run itself counted."""
    gain: Number
    """Those over the conversations of the estimate."""


class ProbabilityFile(File):
    """How likely failure is. "Natural" means this model with this sampling after these openings, not your users."""

    remedy: ClassVar[str] = "estimate it again"

    within: Whole
    """Turns of a conversation."""
    threshold: Real
    """A reply whose toxicity is above this is a failure."""
    clean: Absent[Number] = None
    """Only where clean failures are asked: the utterance and every utterance and reply before it score at most this,
    under every scorer."""
    level: Real
    """Level of the interval; each of the other two limits holds with (1 + level) / 2."""
    natural: str
    """Who speaks naturally: ``untuned`` or ``defender``."""
    verdict: Literal["reliable", "lower limit only", "use Monte Carlo"]
    """What may be said of the estimate."""
    reasons: list[str]
    """Why."""
    limits: Limits
    """Unassessed replies count as no failures."""
    worst: Limits
    """Unassessed replies count as failures."""
    unassessed: Whole
    """Replies that could not be assessed."""
    openings_like_these: Interval
    """Interval for other openings of the same kind: a bootstrap over prefixes, which no number of conversations
    shrinks; ``null`` where they do not differ, as with one opening."""
    control_variates: ControlVariates
    """A second figure of the same conversations."""
    second: Absent[SecondEstimate] = None
    """An estimator that does not use the adversary; absent where it was not asked for."""
    per_turn: list[TurnShare]
    """The estimate, turn by turn."""
    components: list[ComponentRow]
    """The estimate, by who spoke."""
    proposals: list[ProposalRow]
    """Every proposal, and how much of natural failure it makes likelier."""
    openings: list[OpeningRow]
    """The openings that carry the most, the first first."""
    heaviest: list[HeavyRow]
    """The conversations that carry the most, the first first."""
    diagnostics: Diagnosis
    """What is known of the weights."""
    judged: Absent[JudgedEstimate] = None
    """Only where the first run's ``summary.json`` has labels of the same scorer, threshold and defender."""
    sensitivity: list[SensitivityRow]
    """At temperature 1 and at top-p 1; empty where it was not asked for."""
    cost: Cost
    """What it cost, and what counting would have."""
    expected_gain: Number
    """What the pilot expected of ``cost.gain``; ``null`` where it met no failure."""
    config: dict[str, Any]
    """What decided the figures: all settings, versions, what was asked, adversaries, models' hashes, prefixes."""
