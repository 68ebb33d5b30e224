"""The figures of a whole study: ``experiment.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from .common import Absent, File, Interval, Number, Part, Real, Whole
from .distinct import Variety
from .figures import AdversaryFigures, Comparison


class StudyAdversary(AdversaryFigures):
    """Figures of one adversary over all seeds, and what it is."""

    kind: str
    """``untuned``, ``probing``, ``human``, ``ours``, ``baseline``, ``variant``, ``sweep`` or ``transfer``."""
    preset: str
    """Presets put on top of the plan's, joined by ``+``."""
    trained_on: str | None
    """Short name of the defender it was trained on; ``null`` without training."""
    changes: dict[str, Any]
    """Settings that differ from ours, by dotted key."""
    reward: dict[str, Number] | None
    """``reward`` settings it was trained with; ``null`` without training."""
    tau: Number
    """τ it was trained with; ``null`` without training."""


class CaseModels(Part):
    """Paths of a pair's models."""

    adversary: str
    """Of the adversary before training."""
    defender: str
    """Of the defender."""


class Case(Part):
    """All adversaries of one pair of models."""

    adversary: str
    """Short name of the adversary's model."""
    defender: str
    """Short name of the defender."""
    models: CaseModels
    """Their paths."""
    scorer: str
    """``scorer.spec``."""
    test: str
    """Source of the prefixes."""
    horizon: Whole
    """Turns of a conversation."""
    level: Real
    """Confidence level of the intervals."""
    likelihood: str
    """Whose likelihood every nll is."""
    adversaries: dict[str, StudyAdversary]
    """By name."""
    variety: Absent[Variety] = None
    """How many different failures there are, those of all seeds together."""
    comparisons: list[Comparison]
    """Each adversary against ``untuned``, then against ``ours``, over the seeds that both have."""


class Scaling(Comparison):
    """Ours of two sizes on the same defender, paired; ``a`` and ``b`` are names of cases."""

    defender: str
    """Short name of the defender."""


class SeedPoint(Part):
    """Likelihood and toxicity of one seed."""

    seed: Whole
    """The seed."""
    nll: Number
    """Mean nll."""
    share: Number
    """Share of replies above the threshold."""


class Point(Part):
    """An adversary by its likelihood and toxicity."""

    case: str
    """The pair of models, ``ADVERSARY-vs-DEFENDER``."""
    adversary: str
    """Its name."""
    nll: Number
    """Mean nll."""
    nll_ci: Interval
    """Its interval."""
    perplexity: Number
    """exp(mean nll)."""
    tox_reply: Number
    """Mean toxicity of the replies."""
    tox_reply_ci: Interval
    """Its interval."""
    share: Number
    """Share of replies above the threshold."""
    share_ci: Interval
    """Its interval."""
    by_seed: list[SeedPoint]
    """The same for each seed."""


class FrontPoint(Point):
    """A point of the front of toxicity against likelihood."""

    kind: str
    """What the adversary is."""
    lambda_: Number = Field(alias="lambda")
    """λ it was trained with; ``null`` without training."""
    tau: Number
    """τ it was trained with; ``null`` without training."""
    changes: dict[str, Any]
    """Settings that differ from ours, by dotted key."""
    on_front: bool
    """No adversary of the case is at least as likely and as often successful, and better in one of the two."""


class TransferPoint(Point):
    """An adversary trained on one defender and measured on another (or on its own)."""

    model: str
    """Short name of the adversary's model."""
    trained_on: str
    """Short name of the defender it was trained on."""
    defender: str
    """Short name of the defender it was measured on."""
    row: str
    """Its name in the case's table."""


class Finding(Part):
    """A claim and what became of it."""

    id: str
    """Number in docs/method.md section 8, with a letter where an item makes several claims."""
    claim: str
    """The claim."""
    verdict: str
    """``reproduced``, ``not reproduced`` or ``not measurable``."""
    evidence: str
    """The figures, in words."""
    figures: dict[str, Any]
    """The same figures by name."""


class Experiment(File):
    """Everything that a study found."""

    remedy: ClassVar[str] = "run the experiment again with --tables-only"

    experiment: str
    """Name of the plan."""
    summary: str
    """Its line."""
    command: list[str]
    """Words of the command line, after ``astprompter``."""
    plan: dict[str, Any]
    """The plan as it was run."""
    versions: dict[str, str]
    """As in ``config.json``."""
    pooling: str
    """How seeds and prefixes enter the figures, in words."""
    cases: dict[str, Case]
    """By pair of models, ``ADVERSARY-vs-DEFENDER``."""
    scaling: list[Scaling]
    """Ours of one size against ours of another on the same defender."""
    transfer: list[TransferPoint]
    """Entries of the transfer matrix."""
    front: list[FrontPoint]
    """One point for each adversary of every case."""
    missing: list[str]
    """Jobs that are not done yet, in words."""
    findings: list[Finding]
    """The plan's claims and what became of them."""
