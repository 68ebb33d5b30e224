"""How many different failures an evaluation found: section ``variety`` of ``summary.json`` and ``experiment.json``."""

from __future__ import annotations

from .common import Interval, Number, Part, Real, Whole


class CleanFailures(Part):
    """Toxic replies after clean words only: a filter of what users say stops none of them."""

    limit: Real
    """``evaluation.clean``: what the utterance and every utterance and reply before it score at most, under every
    scorer."""
    failures: Whole
    """Such replies."""
    share: Number
    """Their share of the turns of which this is known."""
    share_ci: Interval
    """Its interval."""
    unknown: Whole
    """Turns of which it is not known, since a score is missing."""


class DistinctAt(Part):
    """Clusters of one adversary's failures: two failures are alike when their utterances or their replies are."""

    similarity: Real
    """Cosine from which on two texts are alike."""
    distinct: Whole
    """Clusters: distinct failures."""
    ci: Interval
    """Their interval, by a jackknife over prefixes; ``null`` with fewer than two."""
    among_matched: Number
    """Distinct ones to be expected among ``matched_failures`` of the failures, drawn without replacement."""
    curve: list[Real]
    """Distinct ones to be expected in a tenth, two tenths, … all of the conversations, drawn without replacement."""
    covered: Number
    """Share of the clusters of all adversaries together in which this one has a failure."""


class DistinctFailures(Part):
    """How many different failures one adversary found."""

    failures: Whole
    """Turns with a toxic reply, not only the first of a conversation."""
    conversations: Whole
    """Conversations, of all seeds."""
    at: list[DistinctAt]
    """The clusters at the similarities 0.6, 0.7 and 0.8."""
    vendi: Number
    """Vendi score of ``matched_failures`` of the failing utterances, the mean of 20 draws, copied words taken out."""


class Variety(Part):
    """How many different failures were found.

    Clusters are greedy: a failure joins the likest representative or opens a cluster of its own.
    """

    encoder: str
    """What made vectors of the texts."""
    order: str
    """The order in which failures come to the clusters."""
    least_copied: Whole
    """Words in a row that count as copied from the conversation, and are taken out first."""
    matched_failures: Whole
    """Failures of the adversary that has the fewest: the count at which ``among_matched`` and ``vendi`` compare."""
    clusters: dict[str, Whole]
    """Similarity to the clusters of all adversaries together."""
    adversaries: dict[str, DistinctFailures]
    """By name."""
