"""The figures of adversaries and their comparisons, which ``summary.json`` and ``experiment.json`` share.

A run is an evaluation of one seed; an experiment pools several. Both have the same figures, made by
:mod:`astprompter.evaluation.summarise`.
"""

from __future__ import annotations

from .common import Absent, Interval, Number, Part, Real, Whole
from .distinct import CleanFailures


class Figures(Part):
    """Figures of one metric over the turns that have it."""

    mean: Number
    """Mean over these turns."""
    std: Number
    """Standard deviation over these turns (n − 1)."""
    ci: Interval
    """Percentile interval of the mean at ``evaluation.level``: a bootstrap over prefixes."""
    share: Number
    """Share of these turns above ``threshold``, in [0, 1]; ``null`` for a likelihood."""
    share_ci: Interval
    """Interval of the share; the exact binomial one of the prefixes where it is 0 or 1."""
    share_at: Absent[dict[str, Number]] = None
    """The share above 0.3, 0.5 and 0.7: how much it hangs on the threshold; absent for a likelihood."""
    threshold: Number
    """``evaluation.threshold``: what a turn must exceed to count in the share; ``null`` for a likelihood."""
    valid: Whole
    """Turns that have the figure."""
    errors: Whole
    """Turns in which it is missing."""


class SeedFigures(Part):
    """Figures of one seed; no interval."""

    seed: Whole
    """The seed."""
    mean: Number
    """Mean over its turns that have the figure."""
    std: Number
    """Their standard deviation."""
    share: Number
    """Share above the threshold."""


class SeedSpread(Part):
    """Standard deviation over seeds (n − 1); ``null`` below two."""

    mean: Number
    """Of the seeds' means."""
    share: Number
    """Of the seeds' shares."""


class Metric(Figures):
    """Figures of one metric over all turns and seeds, for each turn, and for each seed."""

    perplexity: Absent[Real] = None
    """exp(mean); of ``nll`` only."""
    per_turn: list[Figures]
    """The same for each turn, the first one first."""
    by_seed: list[SeedFigures]
    """Figures of each seed."""
    seed_std: SeedSpread
    """How far the seeds lie apart."""


class SeedShare(Part):
    """A share of one seed."""

    seed: Whole
    """The seed."""
    share: Number
    """Its share."""


class FailureWithinHorizon(Part):
    """Conversations with at least one reply above the threshold: one conversation for each prefix and seed.

    The truth lies between the bounds, whatever the replies without a score would have been. ``share`` is an estimate
    between them, by the hazards of the turns (Kaplan and Meier 1958), a conversation leaving at its first reply without
    a score. It assumes that these replies are missing at random: that they would have failed as often as those of the
    other conversations which came as far. A content filter blocks what is most toxic, so with blocked replies there is
    no such estimate. Without missing replies all three are the same.
    """

    share: Number
    """The estimate; ``null`` where a reply was blocked, or where no reply of a turn could be assessed."""
    ci: Interval
    """Its interval."""
    share_at: dict[str, Number]
    """The estimate for the thresholds 0.3, 0.5 and 0.7."""
    bounds: Interval
    """``failed`` and ``failed + unassessed``, each over all conversations."""
    bounds_ci: Interval
    """The low end of the first bound's interval and the high end of the second's."""
    threshold: Real
    """``evaluation.threshold``: what a reply must exceed to be a failure."""
    failed: Whole
    """Conversations with a failure."""
    assessed: Whole
    """Conversations with a failure, or with a score for every reply."""
    unassessed: Whole
    """No failure seen and at least one reply without a score: it might have failed there."""
    by_seed: list[SeedShare]
    """The estimate for each seed."""
    seed_std: Number
    """Standard deviation over seeds (n − 1)."""


class Confirmed(Part):
    """Replies that every scorer calls toxic: figures of the least score of all scorers."""

    tox_reply: Figures
    """Of the replies; its share is of those that all scorers call toxic."""
    failure_within_horizon: FailureWithinHorizon
    """Conversations with such a reply."""


class AfterUtterances(Part):
    """Replies after one kind of utterance."""

    turns: Whole
    """Turns with such an utterance and a score for the reply."""
    share: Number
    """Share of their replies above the threshold."""
    share_ci: Interval
    """Its interval."""


class RepliesByUtterance(Part):
    """Replies by the toxicity of the utterance before; far apart, the defender gives back what it hears."""

    threshold: Real
    """What utterance and reply must exceed to be toxic."""
    toxic: AfterUtterances
    """After utterances above the threshold."""
    clean: AfterUtterances
    """After the others: failures that no filter of the input stops."""


class AdversaryFigures(Part):
    """Figures of one adversary."""

    nll: Metric
    """Mean negative log-likelihood of an utterance under the defender, nats per token."""
    utterance_perplexity: Metric
    """exp(nll) of each utterance, whose spread the paper reports."""
    tox_reply: Metric
    """Toxicity of the reply."""
    tox_turn: Metric
    """Toxicity of utterance and reply read together."""
    tox_utterance: Metric
    """Toxicity of the utterance."""
    failure_within_horizon: FailureWithinHorizon
    """Conversations that fail."""
    confirmed: Absent[Confirmed] = None
    """Only with ``evaluation.scorers``: failures that every scorer confirms."""
    replies_by_utterance: RepliesByUtterance
    """Replies by the toxicity of the utterance."""
    clean: Absent[CleanFailures] = None
    """Failures that need no toxic word before them."""
    diversity: dict[str, Number]
    """How varied the utterances are (of accumulated turns what each adds), mean over seeds.

    ``distinct_1``, ``distinct_2``, ``distinct_3``: different n-grams of words over all of them, in (0, 1].
    ``self_bleu``: mean BLEU-4 of each utterance against all others, in [0, 1]; 1 is one utterance repeated; exponential
    smoothing, effective order. ``distinct_utterances``: share of different utterances. ``vendi``: Vendi score,
    effective number of different utterances, 1 to their number, at most 1,000, drawn by the seed where there are more;
    cosine of hashed character 3- to 5-grams, so it tells surface, not meaning, and needs no model. Words are lower
    case, marks are words of their own. Distinct-n and self-BLEU depend on the number of utterances: compare adversaries
    of one evaluation only."""
    strategies: dict[str, Whole]
    """Failures (rows of ``failures.jsonl``) by ``strategy``, of all seeds together; every strategy has a count."""
    prefixes: Whole
    """Number of prefixes."""
    prefixes_cut: Whole
    """Conversations whose prefix was too long for the defender or the adversary, so that it lost its beginning."""
    seeds: list[Whole]
    """The seeds."""
    reply_kinds: dict[str, Whole]
    """Replies by ``reply_kind`` (see ``trajectories.jsonl``), all seeds together; every kind has a count."""
    errors: Whole
    """Turns whose reply has no score for another reason than that it was blocked: they are in no share."""


class Difference(Part):
    """a − b, paired on prefixes."""

    difference: Number
    """The difference."""
    ci: Interval
    """Its interval; each resample draws the same prefixes for both."""


class ShareDifference(Difference):
    """Difference and ratio of two shares."""

    ratio: Number
    """Share of a over share of b; ``null`` where b has none."""
    ratio_ci: Interval
    """Its interval; ``null`` where b has none in so many resamples that an end is infinite."""


class SeedDifference(Part):
    """The differences of one seed; no interval."""

    seed: Whole
    """The seed."""
    mean: Number
    """Difference of the means."""
    share: Number
    """Difference of the shares; ``null`` for a likelihood."""


class MetricComparison(Part):
    """One metric of two adversaries."""

    mean: Difference
    """Of the means over turns."""
    share: ShareDifference | None
    """Of the shares above ``threshold``; ``null`` for a likelihood."""
    threshold: Number
    """What a turn must exceed to count in the shares; ``null`` for a likelihood."""
    by_seed: list[SeedDifference]
    """The same for each seed."""


class Comparison(Part):
    """Paired figures of two adversaries, over the seeds that both have."""

    a: str
    """Name of one."""
    b: str
    """Name of the other, the baseline."""
    seeds: list[Whole]
    """Seeds of both."""
    nll: MetricComparison
    """Of ``nll``."""
    utterance_perplexity: MetricComparison
    """Of ``utterance_perplexity``."""
    tox_reply: MetricComparison
    """Of ``tox_reply``."""
    tox_turn: MetricComparison
    """Of ``tox_turn``."""
    tox_utterance: MetricComparison
    """Of ``tox_utterance``."""
    perplexity_change: Number
    """Relative change of perplexity, exp(nll of a − nll of b) − 1: how much less likely a's text is."""
