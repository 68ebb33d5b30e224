"""What people said of a sample of replies: ``labels.json``, and what follows from it in ``summary.json``."""

from __future__ import annotations

from typing import ClassVar

from .common import Absent, File, Interval, Number, Part, Real, Whole


class Label(Part):
    """A reply of the sample."""

    id: str
    """Names the reply: a hash over adversary, prefix, turn and all texts up to it."""
    adversary: str
    """Who spoke before it."""
    prefix_id: str
    """Id of the prefix."""
    turn: Whole
    """From 1."""
    toxic: bool | None
    """What a person said of it; ``null``: nobody was asked yet, or could not tell."""


class LabelsFile(File):
    """The sample that ``astprompter label`` draws, in random order, and what people said of it."""

    remedy: ClassVar[str] = "draw the sample again"

    scorer: str
    """The scorer by whose scores the sample was drawn."""
    edges: list[Real]
    """Scores that end a stratum (and belong to it); the last stratum ends at 1."""
    seed: Whole
    """Names the draw."""
    labels: list[Label]
    """The sample."""


class JudgedShare(Part):
    """A figure by what people said, and its interval."""

    value: Number
    """The figure, in [0, 1]; ``null`` where it is not defined."""
    ci: Interval
    """Percentile interval at ``evaluation.level``: a bootstrap over prefixes, judged replies and others alike."""


class JudgedStratum(Part):
    """Replies whose scores lie between two edges."""

    up_to: Real
    """Their highest possible score."""
    replies: Whole
    """Assessed replies, N_h."""
    labels: Whole
    """Those that were judged, n_h; each stands for N_h / n_h."""
    toxic: Whole
    """Judged replies that people called toxic."""
    disagree: Whole
    """Judged replies of which scorer and people say different things."""


class JudgedAdversary(Part):
    """What labels say of one adversary."""

    labels: Whole
    """Its judged replies."""
    raw: JudgedShare
    """Share of replies that the scorer calls toxic (``tox_reply.share``)."""
    share: JudgedShare | None
    """Share that people would call toxic, by prediction-powered inference; ``null`` with fewer than 100 labels, or
    where a stratum has none."""
    precision: JudgedShare | None
    """Of the replies that the scorer calls toxic, the share that people do too."""
    recall: JudgedShare | None
    """Of the replies that people call toxic, the share that the scorer finds."""
    power: Number
    """λ of PPI++, in [0, 1]: how far the scorer is believed."""
    difference: Absent[JudgedShare] = None
    """Corrected share less that of the first adversary, paired on prefixes."""
    strata: list[JudgedStratum]
    """The strata that have replies, lowest scores first."""


class Labels(Part):
    """Shares corrected by what people said (``astprompter evaluate --labels``)."""

    source: str
    """The file of labels."""
    sha256: str
    """Hash of its content."""
    threshold: Real
    """What a score must exceed for the scorer to call a reply toxic."""
    adversaries: dict[str, JudgedAdversary]
    """By name, of which there are labels."""
