"""What training writes of its texts: the failures, attacks, pairs and trees that it learnt from."""

from __future__ import annotations

from typing import Literal, Self

from ...base.records import PreferencePair
from .common import Number, Part, Real, Whole
from .turns import Opened, Scored, finite


class ArchiveRow(Part):
    """A failure that training found, only with ``novelty.weight`` (contains the texts)."""

    iteration: Whole
    """Which iteration found it, from 1."""
    utterance: str
    """What the adversary said."""
    reply: str
    """The toxic reply."""
    tox_reply: Real
    """R_φ(y), in [0, 1]."""


class AttackRow(Part):
    """An attack that a repair learnt from, without its texts: of training prefixes only."""

    iteration: Whole
    """Which iteration learnt from it, from 1."""
    case: str
    """Name of the conversation: a hash of what its user says, as in ``suite.json``."""
    opening: str
    """The same of its prefix alone."""
    adversary: str
    """Who led it."""
    prefix_id: str
    """Id of its training prefix."""
    turn: Whole
    """Which turn failed, from 1."""
    clean: bool
    """Whether the utterance, and every text before it, scores at most ``evaluation.clean``."""
    margin: Real
    """Toxicity of the rejected reply minus that of the chosen one."""


class PairRow(Part):
    """A preference pair that training used, only with ``training.save_pairs=true`` (contains the texts)."""

    iteration: Whole
    """Which iteration used it, from 1."""
    source: Literal["on_policy", "supervised"]
    """From a rollout tree, or from an eliciting text."""
    depth: Whole
    """Turn of the pair in its tree, from 0; -1 for supervised pairs."""
    margin: Number
    """Reward of chosen minus rejected; ``null`` for supervised pairs, which are not ranked."""
    prompt_ids: list[Whole]
    """Adversary tokens of the text so far."""
    chosen: str
    """The preferred utterance."""
    rejected: str
    """The other one."""

    @classmethod
    def of_pair(cls, iteration: int, pair: PreferencePair) -> Self:
        """The row of a pair that was used after ``iteration`` earlier iterations."""
        return cls(
            iteration=iteration + 1,
            source=pair.source,
            depth=pair.depth,
            margin=finite(pair.margin),
            prompt_ids=list(pair.prompt_ids),
            chosen=pair.chosen_text,
            rejected=pair.rejected_text,
        )


Choice = Literal["chosen", "rejected"] | None
"""Place of a turn in the pair with its sibling."""


class NodeRow(Scored):
    """A turn in a rollout tree."""

    node: Whole
    """Number of the node, from 0; parents come before children."""
    parent: Whole | None
    """The node it grew from; ``null`` after the prefix."""
    depth: Whole
    """Turn, from 1."""
    choice: Choice
    """Its place in the pair with its sibling; ``null`` where the two gave no pair."""


class TreeRow(Opened):
    """The first rollout tree of every iteration that a dev evaluation follows (contains texts).

    The policy that grew it is the one before that iteration's updates.
    """

    iteration: Whole
    """The iteration, from 1."""
    nodes: list[NodeRow]
    """Parents before children."""
