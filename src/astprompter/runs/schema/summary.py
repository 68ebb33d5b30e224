"""What ``summary.json`` holds: the figures of an evaluation, and what decided them."""

from __future__ import annotations

from typing import Any, ClassVar

from .common import Absent, File, Number, Part, Real, Whole
from .distinct import Variety
from .figures import AdversaryFigures, Comparison, FailureWithinHorizon, Figures
from .labels import Labels
from .run import Remote, Skipped


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
    started_in: Absent[str] = None
    """As in ``config.json``."""
    settings_of: Absent[str] = None
    """The run whose settings counted for all adversaries; only where another one was trained under others."""
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

    def measured_on(self, name: str, sha256: str | None) -> bool:
        """Whether a defender is the one that was measured: by the hash of its weights, else by its name."""
        known = self.defender_sha256 is not None and sha256 is not None
        return self.defender_sha256 == sha256 if known else self.defender == name


class Summary(File):
    """The figures of an evaluation. Written last, so that it vouches for the rows beside it."""

    remedy: ClassVar[str] = "evaluate the run again"

    adversaries: dict[str, AdversaryFigures]
    """By name, in the order in which they were measured."""
    comparisons: list[Comparison]
    """Every adversary after the first against the first."""
    variety: Absent[Variety] = None
    """How many different failures there are."""
    scorers: Absent[Scorers] = None
    """Only with ``evaluation.scorers``."""
    labels: Absent[Labels] = None
    """Only after ``astprompter evaluate --labels``."""
    config: EvaluationConfig
    """What decided the figures."""
