"""What a resumed training goes on from."""

from __future__ import annotations

from pydantic import ConfigDict

from ...base.records import PreferencePair
from .common import Absent, File, Number, Part, Real, Whole


class Counters(Part):
    """Counters of a training."""

    model_config = ConfigDict(frozen=False)  # the training counts on this very object

    iteration: Whole = 0
    """Iterations done."""
    updates: Whole = 0
    """Optimizer steps done."""
    best_reward: Number = None
    """Mean dev reward of the policy in ``best/``; ``null`` while there is none."""
    best_distinct: Whole = 0
    """Its distinct failures on the dev prefixes."""
    best_within: bool = True
    """Whether it keeps to ``training.best_nll``; of a repair to both budgets of ``harden``."""
    start_nll: Number = None
    """Mean dev nll of the untuned policy; ``null`` where it is not known."""
    best_iteration: Whole = -1
    """Iteration after which that policy was saved; -1 while there is none."""
    trees: Whole = 0
    """Rollout trees grown."""
    eliciting: Whole = 0
    """Eliciting texts drawn."""
    skipped_in_a_row: Whole = 0
    """Updates without effect since the last one that had some."""
    best_failures: Number = None
    """Only of a repair: share of dev turns that fail with the policy in ``best/``."""
    quiet: Whole = 0
    """Only of a repair: iterations since the last one in which something failed."""
    idle: Whole = 0
    """Only of a repair: iterations since the last one that gave a pair."""


class KeptPair(Part):
    """A preference pair of a tree that further iterations learn from (``training.reuse``)."""

    iteration: Whole
    """Which iteration collected it, from 0."""
    depth: Whole
    """Turn of the pair in its tree, from 0."""
    prompt_ids: list[Whole]
    """Adversary tokens of the text so far."""
    chosen_ids: list[Whole]
    """Tokens of the preferred utterance."""
    rejected_ids: list[Whole]
    """Tokens of the other one."""
    margin: Real
    """Reward of chosen minus rejected."""
    ref_chosen_logp: Real
    """Log π_ref of the preferred utterance as the loss takes it, nats."""
    ref_rejected_logp: Real
    """The same of the other one."""

    @property
    def pair(self) -> PreferencePair:
        """The pair."""
        return PreferencePair(
            prompt_ids=tuple(self.prompt_ids),
            chosen_ids=tuple(self.chosen_ids),
            rejected_ids=tuple(self.rejected_ids),
            margin=self.margin,
            source="on_policy",
            depth=self.depth,
            ref_chosen_logp=self.ref_chosen_logp,
            ref_rejected_logp=self.ref_rejected_logp,
        )


class StateFile(File):
    """Counters that a resumed run goes on from, what it learns from again, and how long the logs were."""

    counters: Counters
    """The counters."""
    log_bytes: dict[str, Whole]
    """Bytes of each log, so that ``--resume`` drops rows logged after the checkpoint and makes them again."""
    kept: Absent[list[KeptPair]] = None
    """Pairs that are used again; absent without ``training.reuse``."""


class ManifestFile(File):
    """What makes a checkpoint whole; written last."""

    sha256: dict[str, str]
    """SHA-256 of each other file of the checkpoint."""
