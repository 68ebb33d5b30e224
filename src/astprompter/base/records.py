"""The records that travel between rooms.

Words and symbols follow the paper (arXiv 2407.09447): an adversary says an *utterance*, the defender
answers with a *reply*; both and their scores are a *turn*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

TOXIC = 0.5
"""A text of a data set counts as toxic above this; what makes a reply a failure is ``evaluation.threshold``."""

Keys = npt.NDArray[np.uint64]
"""One random key per row; see :mod:`astprompter.base.randomness`."""


MANY = 0.1
"""Share of blank, or of blocked, replies above which a share of toxic replies needs a word of warning."""
ReplyKind = Literal["answered", "blank", "refused", "blocked", "cut", "tool_call", "failed"]
"""What a reply is (docs/method.md section 7): text of the model; white space only; a server's refusal, in words; taken
away by a content filter; nothing before the token limit (a reasoning model that spent it); a call of a tool without
text; or no reply at all, for the reason that ``error`` says."""
REPLY_KINDS: tuple[ReplyKind, ...] = get_args(ReplyKind)


@dataclass(frozen=True, slots=True)
class Speech:
    """What one speaker said: the text, and beside it the tokens it was made of.

    Attributes:
        text: The text as it joins the conversation, leading space included.
        token_ids: Token ids in the speaker's own vocabulary, end-of-text excluded; ``None`` for a
            speaker without tokens (a script, a remote server).
        vocabulary: Fingerprint of the tokenizer that ``token_ids`` belong to; ``None`` without tokens.
        error: Why there is no speech, or not all of it (a server that did not answer, no room in the context).
        kind: What it is as a reply. Blank text, and text with an ``error``, are never *answered*.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    vocabulary: str | None = None
    error: str | None = None
    kind: ReplyKind = "answered"

    def __post_init__(self) -> None:
        if self.kind == "answered" and (self.error is not None or not self.text.strip()):
            object.__setattr__(self, "kind", "blank" if self.error is None else "failed")

    @property
    def assessable(self) -> bool:
        """Whether it is a reply that can be judged; a blank or refused one is harmless, one of the others unknown."""
        return self.kind in ("answered", "blank", "refused")


@dataclass(frozen=True, slots=True)
class Prefix:
    """A human-written, non-toxic opening.

    Attributes:
        id: Name that is stable across runs, unique within its set; splits and bootstrap go by it.
        text: The opening, without trailing white space; in a rollout, what the defender heard of it.
        cut: Tokens at its beginning that the defender did not hear, since it was longer than
            ``rollout.max_prefix_tokens`` or the horizon would not have fitted.
        cut_for_adversary: The same of the adversary, which may have less room.
    """

    id: str
    text: str
    cut: int = 0
    cut_for_adversary: int = 0

    @property
    def shortened(self) -> bool:
        """Whether either of them did not hear all of it."""
        return self.cut > 0 or self.cut_for_adversary > 0


@dataclass(frozen=True, slots=True)
class ElicitingText:
    """A text known to elicit toxicity: ``prompt + continuation`` of RealToxicityPrompts."""

    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance, the reply to it, and their scores; each figure is finite or ``nan`` by itself.

    Attributes:
        utterance: The adversary's text a.
        reply: The defender's text y.
        nll: Mean negative log-likelihood of the utterance under the defender, nats per token.
        token_logprobs: Log-probability of each utterance token under the defender, nats.
        tox_utterance: R_φ(a), in [0, 1]; reported, never rewarded.
        tox_reply: R_φ(y), in [0, 1].
        tox_turn: R_φ(a + y), in [0, 1].
        reward: R(s, a, y); ``nan`` when anything that it needs is missing.
        error: Why something is missing, in words; it decides nothing.
    """

    utterance: Speech
    reply: Speech
    nll: float
    token_logprobs: tuple[float, ...]
    tox_utterance: float
    tox_reply: float
    tox_turn: float
    reward: float
    error: str | None = None


@dataclass(slots=True)
class Node:
    """A turn in a rollout tree and what followed it.

    Attributes:
        turn: The turn that led here.
        children: The turns sampled from here.
        prompt_ids: Adversary token ids of the whole text *before* the utterance; ``None`` when the
            adversary has no tokens.
    """

    turn: Turn
    prompt_ids: tuple[int, ...] | None
    children: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class RolloutTree:
    """All turns grown from one prefix: branching 2 trains, branching 1 evaluates."""

    prefix: Prefix
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A prefix and the single path of turns that followed it.

    Attributes:
        prefix: The opening.
        turns: The turns, in order.
        accumulated: Every turn starts from the prefix anew, and its utterance holds those of the turns before.
    """

    prefix: Prefix
    turns: tuple[Turn, ...]
    accumulated: bool = False


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two utterances for one prompt, in adversary tokens.

    Attributes:
        prompt_ids: The text so far, x.
        chosen_ids: y⁺, at least one token.
        rejected_ids: y⁻, at least one token.
        margin: Reward of chosen minus rejected; ``nan`` for supervised pairs, which are not ranked.
        source: ``on_policy`` from a tree, ``supervised`` from an eliciting text.
        depth: Turn index of the pair in its tree, from 0; -1 for supervised pairs.
        chosen_text: Text of y⁺, for the log.
        rejected_text: Text of y⁻, for the log.
        ref_chosen_logp: Sum of log π_ref over y⁺ where collection already knows it, else ``None``.
        ref_rejected_logp: The same for y⁻.
    """

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    margin: float
    source: Literal["on_policy", "supervised"]
    depth: int
    chosen_text: str = ""
    rejected_text: str = ""
    ref_chosen_logp: float | None = None
    ref_rejected_logp: float | None = None
