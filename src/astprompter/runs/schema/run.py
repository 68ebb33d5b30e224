"""What training writes: the run's facts, its log, and what a resumed run goes on from."""

from __future__ import annotations

from typing import Any, Literal

from .common import Absent, File, Number, Part, Real, Whole, largest_fall


class Skipped(Part):
    """Rows of a source that could not be read and were skipped (``data.skip_bad_rows``)."""

    count: Whole
    """How many."""
    first: str | None
    """The first of them, with file, line and reason; ``null`` when there is none."""


class Remote(Part):
    """How a served defender was reached."""

    url: str
    """Address of the server."""
    model: str
    """Name of the model there."""
    api: str
    """``completions`` or ``chat``."""
    dialect: str
    """Which form of request carries the sampling settings."""
    not_sent: list[str]
    """Sampling settings that the server does not take, so that its own defaults hold."""
    likelihood: str | None
    """The route to log-probabilities of prompts; ``null`` where there is none that can be trusted."""
    why_not: list[str]
    """Why each other route was refused."""


class ConfigFile(File):
    """Everything that decided the result."""

    settings: dict[str, Any]
    """All settings by section, as ``train --print-config`` explains them; ``settings.seed`` names every random
    stream."""
    versions: dict[str, str]
    """``python``, ``astprompter``, ``machine``, ``torch``, ``transformers``, ``tokenizers``, ``numpy``."""
    models_sha256: dict[str, str | None]
    """SHA-256 over names and values of the weights: the ``adversary``'s at the start and the ``defender``'s (``null``
    for a served one)."""
    data_sha256: dict[str, str]
    """SHA-256 over the ``train``, ``dev`` and ``eliciting`` texts, and over the ``earlier`` failures where
    ``novelty.earlier`` names runs; with ``models_sha256`` it keeps ``--resume`` from
    going on with other ones."""
    data_counts: dict[str, Whole]
    """Number of ``train`` and ``dev`` prefixes, of ``eliciting`` texts, and of ``earlier`` failures."""
    rows_skipped: dict[str, Skipped]
    """For ``train``, ``dev`` and ``eliciting``."""
    free_reference: bool
    """Whether reference and defender have the same weights, so that one likelihood serves both."""
    likelihood: str
    """Whose likelihood every nll is: the defender's, or a stand-in's."""
    remote: Remote | None
    """For a served defender; else ``null``."""
    processes: Whole
    """How many processes took part when the run started."""
    started_in: Absent[str] = None
    """The working directory that relative paths of the settings start from, as seen from this folder; where they name
    something there, it is found from any other working directory too. Absent where none was known."""


class Hashes(Part):
    """SHA-256 of the weights that training must not change."""

    defender: str | None
    """The defender's; ``null`` for a served one."""
    reference: str | None
    """The reference's: the adversary as it began."""


class FrozenFile(File):
    """The proof, written when training is done, that it left defender and reference alone."""

    before: Hashes
    """``models_sha256`` of ``config.json``."""
    after: Hashes
    """Computed from the models in memory when training was done."""


class RewardMeans(Part):
    """Mean reward and its terms."""

    mean: Number
    """Mean R."""
    tox_reply_term: Number
    """Mean α·tox_reply."""
    tox_turn_term: Number
    """Mean β·tox_turn."""
    nll_term: Number
    """Mean −λ·nll."""
    utterance_term: Absent[Number] = None
    """Mean −δ·tox_utterance; absent where δ is 0."""


class NllMean(Part):
    """Mean nll of the utterances."""

    mean: Number
    """Nats per token."""
    likelihood: Absent[str] = None
    """Whose likelihood it is, where another model's stands in for the defender's; else absent."""


class Toxicity(Part):
    """Scores of the collected texts."""

    mean: Number
    """Mean score."""
    share: Number
    """Share of scores above the threshold, in [0, 1]."""
    threshold: Real
    """``evaluation.threshold``: a text counts as toxic above it."""


class Pairs(Part):
    """Preference pairs of an iteration, by source."""

    on_policy: Whole
    """From rollout trees."""
    supervised: Whole
    """From eliciting texts."""
    reused: Absent[Whole] = None
    """From rollout trees of earlier iterations, once more; absent without ``training.reuse``."""


class Failures(Part):
    """Turns with a reply that every scorer calls toxic."""

    count: Whole
    """How many."""
    share: Number
    """Of the turns of which this is known: every scorer calls the reply toxic, or one calls it harmless."""
    clean: Whole
    """Those whose utterance, and every text before it, scores at most ``evaluation.clean``."""


class Spoken(Part):
    """How much, and how variedly, a model replies."""

    tokens: Real
    """Mean tokens of a reply."""
    distinct_2: Number
    """Different pairs of words over all pairs; ``null`` where no reply has two words."""
    vendi: Number
    """Vendi score of the replies, as in ``summary.json``'s ``diversity``."""


class Benign(Part):
    """What a repair costs on held-out benign conversations of the defender as it was, prefixes included."""

    tokens: Whole
    """Their tokens, each after the first of its conversation."""
    nll_before: Real
    """Their mean nll under the defender as it was, nats per token."""
    nll: Real
    """The same under the policy."""
    kl: Real
    """Mean KL(as it was ‖ policy) at each of them, over the whole vocabulary, nats."""
    replies: Absent[Whole] = None
    """New replies to the last utterances of these conversations, by the same random numbers for either."""
    spoken_before: Absent[Spoken] = None
    """Those of the defender as it was."""
    spoken: Absent[Spoken] = None
    """Those of the policy."""

    @property
    def rise(self) -> float:
        """Relative rise of the nll."""
        return self.nll / self.nll_before - 1

    @property
    def fall(self) -> float | None:
        """Largest relative fall among length, distinct-2 and Vendi score of the replies; ``None`` if not known."""
        if self.spoken is None or self.spoken_before is None:
            return None
        before, after = ((one.tokens, one.distinct_2, one.vendi) for one in (self.spoken_before, self.spoken))
        return largest_fall(zip(before, after, strict=True))


class LogRow(Part):
    """An iteration, or an evaluation on the dev prefixes. Every mean is over the turns that have the figure.

    A run of the SFT baseline (``training.objective`` is ``sft``) has iterations without turns and pairs. The first dev
    row is the untuned policy.
    """

    type: Literal["iteration", "dev"]
    """What the row tells of."""
    iteration: Whole
    """Iterations done so far."""
    updates: Whole
    """Optimizer steps done so far."""
    best: Absent[bool] = None
    """Only ``dev``: whether this policy was saved to ``best/``; with SFT, of the last policy only."""
    trees: Absent[Whole] = None
    """Only ``iteration``: rollout trees grown."""
    prefixes_cut: Absent[Whole] = None
    """Only ``iteration``: trees whose prefix was too long for the defender or the adversary, so that it lost its
    beginning."""
    pairs: Absent[Pairs] = None
    """Only ``iteration``: pairs used."""
    margin: Absent[Real] = None
    """Mean reward difference of the on-policy pairs of an iteration; absent without any."""
    likeness: Absent[Real] = None
    """Only with ``novelty.weight``: mean likeness of an iteration's failing utterances to the archived ones, in [0, 1].
    """
    texts: Absent[Whole] = None
    """Only ``iteration`` of SFT: texts read."""
    turns: Absent[Whole] = None
    """Turns collected; absent in an iteration of SFT, as are the next seven."""
    errors: Absent[dict[str, Whole]] = None
    """Turns of which something is missing, by reason."""
    reply_kinds: Absent[dict[str, Whole]] = None
    """Replies by what they are (``reply_kind`` of a turn)."""
    reward: Absent[RewardMeans] = None
    """Mean reward R and its terms."""
    nll: Absent[NllMean] = None
    """Mean nll of the utterances."""
    tox_utterance: Absent[Toxicity] = None
    """R_φ of the utterances."""
    tox_reply: Absent[Toxicity] = None
    """R_φ of the replies."""
    tox_turn: Absent[Toxicity] = None
    """R_φ of utterance and reply together."""
    distinct_failures: Absent[Whole] = None
    """Only ``dev``: distinct failures ([method](method.md), 7), told apart by hashed n-grams."""
    failures: Absent[Failures] = None
    """Only of a repair: what failed."""
    benign: Absent[Benign] = None
    """Only ``dev`` of a repair: what the policy costs elsewhere."""
    loss: Absent[Real] = None
    """Only ``iteration``: mean loss over the updates; of SFT in nats per token of the whole texts. What τ means in a
    preference loss depends on ``settings.loss.reduction``. Absent where every update was skipped."""
    h: Absent[Real] = None
    """Mean of h, the difference of log-ratios ([method](method.md), 5); IPO pulls it to 1/(2τ)."""
    implicit_chosen: Absent[Real] = None
    """Mean implicit reward τ·(log π_θ − log π_ref) of the chosen utterances; it is not the environment's."""
    implicit_rejected: Absent[Real] = None
    """The same of the rejected utterances."""
    implicit_accuracy: Absent[Real] = None
    """Share of pairs with h > 0."""
    chosen_nll: Absent[Real] = None
    """Only ``iteration`` of a repair: mean nll of the chosen replies, nats per token."""
    kl: Absent[Real] = None
    """Only ``iteration`` of a repair: mean KL(as it was ‖ policy) on benign conversations, nats per token."""
    gradient_norm: Absent[Real] = None
    """Only ``iteration``: mean norm before clipping."""
    learning_rate: Absent[Real] = None
    """Only ``iteration``: the rate after it."""
    skipped_updates: Absent[Whole] = None
    """Only ``iteration``: updates left out because loss or gradient was not finite."""
    seconds: Absent[dict[str, Real]] = None
    """Only ``iteration``: wall seconds of ``collect``, ``supervise`` (of a repair: ``replies``), ``reference``,
    ``update``."""
    rates: Absent[dict[str, Real]] = None
    """Only ``iteration``: ``turns_per_s``, ``sampled_tokens_per_s`` (both speakers), ``updated_pairs_per_s``; of SFT
    ``updated_texts_per_s``."""
