"""What a repair changed: ``repair.json``, made by ``astprompter harden --rounds`` and ``evaluate --repair``."""

from __future__ import annotations

from typing import ClassVar

from .common import Absent, File, Interval, Number, Part, Real, Whole, largest_fall
from .figures import Difference, ShareDifference
from .summary import EvaluationConfig


class Changed(Part):
    """A figure of the first defender and of another one, on the same texts or prefixes."""

    before: Number
    """Of the first defender."""
    before_ci: Interval
    """Its interval."""
    after: Number
    """Of this one."""
    after_ci: Interval
    """Its interval."""
    difference: Number
    """after − before."""
    difference_ci: Interval
    """Its interval; each resample draws the same texts or prefixes for both."""
    ratio: Number
    """after / before; ``null`` where before is 0."""
    ratio_ci: Interval
    """Its interval."""


class BenignTexts(Part):
    """How likely harmless texts are to both defenders."""

    source: str
    """``data.benign``."""
    texts: Whole
    """Texts and dialogues; of a dialogue the replies are measured, each after all before it."""
    tokens: Whole
    """Tokens measured."""
    nll: Changed
    """Mean nats per token."""
    kl: Number
    """Mean KL divergence of the first defender's next-token distribution from this one's, nats per token."""
    kl_ci: Interval
    """Its interval."""


class BenignReplies(Part):
    """What both defenders reply to ordinary speech: to the untuned adversary's first utterance, where it is clean."""

    replies: Whole
    """Openings with such an utterance, and a reply of either defender."""
    length: Changed
    """Mean tokens of a reply, of the first defender's tokenizer; words and marks of a served one."""
    distinct_2: Changed
    """Different pairs of words over all pairs, of all replies together; intervals by a jackknife over groups."""
    vendi: Changed
    """Vendi score of the replies, as in ``summary.json``'s ``diversity``; intervals by a jackknife over groups."""
    blank: Changed
    """Share of replies without text."""
    refused: Changed
    """Share of replies that refuse: of that kind (see ``reply_kind``), or by the words they begin with."""
    kl_tokens: Whole
    """Tokens of the first defender's harmless replies among them, by which ``kl`` is measured."""
    kl: Number
    """Mean KL divergence of the first defender from this one over these tokens, nats per token."""
    kl_ci: Interval
    """Its interval."""

    @property
    def fall(self) -> float:
        """Largest relative fall among length, distinct-2 and Vendi score."""
        return largest_fall((one.before, one.after) for one in (self.length, self.distinct_2, self.vendi))


class BenignCost(Part):
    """What a repair costs where nothing was to be repaired: all figures against the first defender."""

    texts: BenignTexts | None
    """On held-out harmless texts; ``null`` where ``missing`` says why."""
    replies: BenignReplies | None
    """On ordinary conversations; ``null`` where the untuned adversary was not measured."""
    missing: Absent[str] = None
    """Why likelihoods are missing: a served defender, or another vocabulary."""


class Rate(Part):
    """A share, and what it was."""

    share: Number
    """The share."""
    ci: Interval
    """Its interval, over prefixes."""
    change: Absent[ShareDifference] = None
    """Against the same adversary on the first defender, paired on prefixes."""


class Attacked(Part):
    """One adversary against one defender."""

    replies: Rate
    """Toxic replies, of all turns."""
    prefixes: Rate
    """Conversations with a toxic reply, of those of which this is known."""
    clean: Rate
    """Turns with a toxic reply after clean words only."""
    confirmed: Absent[Rate] = None
    """Only with ``evaluation.scorers``: replies that every scorer calls toxic."""
    scorers: Absent[dict[str, Rate]] = None
    """Only with ``evaluation.scorers``: toxic replies under each scorer, also under those that chose no pair."""
    failures: Whole
    """Toxic replies."""
    distinct: Whole
    """Distinct failures, at the similarity 0.7 (``summary.json``, ``variety``)."""
    distinct_ci: Interval
    """Their interval."""


class Cluster(Part):
    """Failures that are alike, of the adversaries that attacked both the first defender and this one."""

    before: Whole
    """Failures of the first defender."""
    after: Whole
    """Failures of this one."""
    utterance: str
    """What was said before the first of them."""
    reply: str
    """The toxic reply to it."""


class Clusters(Part):
    """What became of the failures that were found, by their clusters at the similarity 0.7."""

    closed: Whole
    """Clusters that only the first defender has."""
    stayed: Whole
    """Clusters that both have."""
    opened: Whole
    """Clusters that only this one has."""
    largest: list[Cluster]
    """The largest ones, at most 200."""


class Defended(Part):
    """One defender under every adversary."""

    name: str
    """Its name."""
    sha256: str | None
    """Hash of its weights; ``null`` for a served one."""
    folder: str
    """Where its evaluation is, seen from this file."""
    adversaries: dict[str, Attacked]
    """By name."""
    fresh: Absent[str] = None
    """The adversary that was trained against this very defender: the honest test."""
    gain: Absent[Difference] = None
    """Share of toxic replies under the fresh adversary less that under the untuned one, on this defender."""
    honest: Absent[ShareDifference] = None
    """Share of toxic replies of this defender under its fresh adversary against that of the first one under its own."""
    honest_by: Absent[dict[str, ShareDifference]] = None
    """Only with ``evaluation.scorers``: ``honest`` under each scorer, also under those that chose no pair."""
    step: Absent[ShareDifference] = None
    """From the third defender on: as ``honest``, but against the defender before it, which is what its round gained."""
    clusters: Absent[Clusters] = None
    """Against the first defender."""
    benign: Absent[BenignCost] = None
    """Against the first defender."""


class RepairFile(File):
    """Defenders before and after a repair, or after every round of one, under the same adversaries and prefixes."""

    remedy: ClassVar[str] = "measure the repair again"

    config: EvaluationConfig
    """What decided the figures of the first defender."""
    level: Real
    """Confidence level of the intervals."""
    defenders: list[Defended]
    """The first one as it was, then each later one."""
    stopped: Absent[str] = None
    """Why rounds ended before their number."""
    kept: Absent[str] = None
    """Of rounds: the repaired model, as seen from this file; the last one within the benign budget."""

    @property
    def last(self) -> int:
        """Place of the defender that the repair comes to: of rounds the one that is kept, else the last one."""
        every = range(len(self.defenders))
        return next((place for place in every if self.kept == kept_name(place)), every[-1])


def kept_name(place: int) -> str:
    """Where the model of a round is, seen from the folder of all rounds."""
    return f"hardened-{place}/best"
