"""The figures of an evaluation: ``summary.json``, and the parts that ``experiment.json`` shares with it.

A run is an evaluation of one seed; an experiment pools several. Both have the same figures, made by
:mod:`astprompter.evaluation.summarise`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .common import Absent, File, Interval, Number, Part, Real, Whole
from .run import Remote, Skipped


class Figures(Part):
    """Figures of one metric over turns; turns in error enter none of them."""

    mean: Number
    """Mean over all assessed turns."""
    std: Number
    """Standard deviation over all assessed turns (n − 1)."""
    ci: Interval
    """Percentile interval of the mean at ``evaluation.level``: a bootstrap over prefixes."""
    share: Number
    """Share of assessed turns above ``threshold``, in [0, 1]; ``null`` for a likelihood."""
    share_ci: Interval
    """Interval of the share."""
    threshold: Number
    """What a turn must exceed to count in the share; ``null`` for a likelihood."""
    valid: Whole
    """Turns that count."""
    errors: Whole
    """Turns that could not be assessed."""


class SeedFigures(Part):
    """Figures of one seed; no interval."""

    seed: Whole
    """The seed."""
    mean: Number
    """Mean over its assessed turns."""
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
    """Conversations with at least one reply above the threshold."""

    share: Number
    """Share of the assessed conversations that fail: one conversation for each prefix and seed."""
    ci: Interval
    """Its interval."""
    threshold: Real
    """What a reply must exceed to be a failure."""
    failed: Whole
    """Conversations with a failure."""
    assessed: Whole
    """Conversations that count."""
    unassessed: Whole
    """No failure seen and at least one turn in error: it might have failed there, so it counts neither way."""
    by_seed: list[SeedShare]
    """The share of each seed."""
    seed_std: Number
    """Standard deviation over seeds (n − 1)."""


class AfterUtterances(Part):
    """Replies after one kind of utterance."""

    turns: Whole
    """Assessed turns with such an utterance."""
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
    replies_by_utterance: RepliesByUtterance
    """Replies by the toxicity of the utterance."""
    diversity: dict[str, Number]
    """How varied the utterances are (error turns left out; of accumulated turns what each adds), mean over seeds.

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
    seeds: list[Whole]
    """The seeds."""
    errors: Whole
    """Turns that could not be assessed."""


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


class UnderScorer(Part):
    """Figures of one adversary under one scorer."""

    tox_reply: Figures
    """Of the replies."""
    tox_turn: Figures
    """Of the turns."""
    tox_utterance: Figures
    """Of the utterances."""
    failure_within_horizon: FailureWithinHorizon
    """Conversations that fail."""


class Above(Part):
    """Texts that scorers put above the threshold."""

    both: Whole
    """Under both."""
    a: Whole
    """Under a."""
    b: Whole
    """Under b."""


class Agreement(Part):
    """How far two scorers agree about one kind of text, over the turns of all adversaries."""

    a: str
    """One scorer."""
    b: str
    """The other."""
    score: str
    """``tox_reply``, ``tox_turn`` or ``tox_utterance``."""
    texts: Whole
    """Texts that both could score."""
    threshold: Real
    """What a score must exceed to call a text toxic."""
    above: Above
    """Texts that they call toxic."""
    kappa: Number
    """Cohen's kappa of what they call toxic."""
    auc_of_b_for_a: Number
    """Area under the curve of b's scores for what a calls toxic."""
    spearman: Number
    """Rank correlation of the scores."""


class Reversal(Part):
    """Two adversaries whose order depends on the scorer."""

    a: str
    """One adversary."""
    b: str
    """The other."""
    a_above_b: list[str]
    """Scorers under which a has the larger share."""
    b_above_a: list[str]
    """Scorers under which b has."""


class Ranking(Part):
    """Adversaries by their share of replies above the threshold under each scorer."""

    orders: dict[str, list[str]]
    """Scorer to adversaries, the largest share first."""
    changes: bool
    """Whether the order of any two depends on the scorer."""
    reversals: list[Reversal]
    """Those two."""


class Scorers(Part):
    """The same turns under several scorers."""

    drives_reward: str
    """The scorer of reward and of all other figures."""
    names: list[str]
    """All scorers, that one first."""
    adversaries: dict[str, dict[str, UnderScorer]]
    """Adversary to scorer to figures."""
    agreement: list[Agreement]
    """Per pair of scorers and kind of text."""
    ranking: Ranking
    """Whether the order of the adversaries depends on the scorer."""


class MeasuredPrefixes(Part):
    """The prefixes of an evaluation."""

    source: str
    """``data.test``."""
    count: Whole
    """How many."""
    sha256: Absent[str] = None
    """Hash over their names and texts."""
    skipped: Absent[Skipped] = None
    """Rows left out."""


class Dialogues(Part):
    """Dialogues that an adversary replays."""

    usable: Whole
    """Dialogues that are long enough and differ."""
    sha256: str
    """Hash over them."""
    skipped: Skipped
    """Rows left out."""


class EvaluationConfig(Part):
    """What decided the figures."""

    settings: dict[str, Any]
    """All settings by section."""
    versions: dict[str, str]
    """As in ``config.json``."""
    defender: str
    """Name of the defender."""
    scorer: str
    """Name of the scorer."""
    likelihood: str
    """Whose likelihood every nll is."""
    targets: Absent[list[str]] = None
    """What ``astprompter evaluate`` was given; absent where objects were."""
    kept_start: Absent[list[str]] = None
    """Adversaries of runs whose training kept the policy that it started from."""
    prefixes: Absent[MeasuredPrefixes] = None
    """The prefixes; absent where the caller gave them."""
    dialogues: Absent[dict[str, Dialogues]] = None
    """Per replayed attack."""
    defender_sha256: str | None = None
    """Hash of the defender's weights; ``null`` for a served one."""
    remote: Remote | None = None
    """As in ``config.json``."""


class Summary(File):
    """``summary.json``: the figures of an evaluation. Written last, so that it vouches for the rows beside it."""

    remedy: ClassVar[str] = "evaluate the run again"

    adversaries: dict[str, AdversaryFigures]
    """By name, in the order in which they were measured."""
    comparisons: list[Comparison]
    """Every adversary after the first against the first."""
    scorers: Absent[Scorers] = None
    """Only with ``evaluation.scorers``."""
    config: EvaluationConfig
    """What decided the figures."""
