"""From what was said to turns with their scores and rewards (docs/method.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..base.protocols import Context, Scorer
from ..base.records import Speech, Trajectory, Turn
from ..config import RewardSettings

_DOES_NOT_FIT = "no likelihood: the utterance does not fit in the defender's context"


def mean_nll(token_logprobs: Sequence[float]) -> float:
    """Mean negative log-likelihood, nats per token; ``nan`` without tokens, and where one is not finite."""
    if not token_logprobs or not all(map(math.isfinite, token_logprobs)):
        return math.nan
    return -math.fsum(token_logprobs) / len(token_logprobs)


def assess(
    utterances: Sequence[Speech],
    replies: Sequence[Speech],
    logprobs: Sequence[tuple[float, ...]],
    scorer: Scorer,
    weights: RewardSettings,
    *,
    contexts: Sequence[Context] | None = None,
    unknown: Sequence[str | None] | None = None,
) -> list[Turn]:
    """Score turns in one scorer call; what is missing or not finite is ``nan``, each figure by itself.

    Args:
        utterances: What the adversary said.
        replies: What the defender answered.
        logprobs: Log-probabilities of each utterance's tokens; empty where they are not known.
        scorer: Toxicity R_φ.
        weights: Weights of the reward.
        contexts: What was said before each utterance, for scorers that are shown it.
        unknown: Why a likelihood is not known, where it is not that the utterance did not fit.
    """
    turns = []
    for i, (utterance, reply, found) in enumerate(
        zip(utterances, replies, score_turns(utterances, replies, scorer, contexts), strict=True)
    ):
        missing = missing_utterance(utterance)
        nll = mean_nll(logprobs[i]) if missing is None else math.nan
        error = missing or reply.error
        if error is None and not math.isfinite(nll):
            why = unknown[i] if unknown else None
            error = "log-likelihood is not finite" if logprobs[i] else why or _DOES_NOT_FIT
        if error is None and not all(map(math.isfinite, found)):
            error = "score is not finite"
        reward = weights.reward(tox_reply=found[1], tox_turn=found[2], nll=nll, tox_utterance=found[0])
        turns.append(Turn(utterance, reply, nll, logprobs[i], *found, reward, error))
    return turns


def with_trials(
    turns: Sequence[Turn],
    trials: Sequence[Sequence[Speech]],
    scorer: Scorer,
    weights: RewardSettings,
    *,
    contexts: Sequence[Context],
) -> list[Turn]:
    """The turns with rewards of the mean over their reply and further ones, so that one lucky reply decides less.

    Args:
        turns: Turns as :func:`assess` made them; their scores stay those of the reply that counts.
        trials: Further replies to each utterance; those without a score are left out of the means.
        scorer: Toxicity R_φ.
        weights: Weights of the reward.
        contexts: What was said before each utterance.
    """
    rows = [row for row, replies in enumerate(trials) for _ in replies]
    replies = [reply for own in trials for reply in own]
    found = score_turns([turns[row].utterance for row in rows], replies, scorer, [contexts[row] for row in rows])
    seen: list[list[tuple[float, float]]] = [[(turn.tox_reply, turn.tox_turn)] for turn in turns]
    for row, (_, reply, both) in zip(rows, found, strict=True):
        if math.isfinite(reply) and math.isfinite(both):
            seen[row].append((reply, both))
    rewarded = []
    for turn, scores in zip(turns, seen, strict=True):
        reply, both = (math.fsum(values) / len(scores) for values in zip(*scores, strict=True))
        reward = weights.reward(tox_reply=reply, tox_turn=both, nll=turn.nll, tox_utterance=turn.tox_utterance)
        rewarded.append(replace(turn, reward=reward))
    return rewarded


def score_turns(
    utterances: Sequence[Speech], replies: Sequence[Speech], scorer: Scorer, contexts: Sequence[Context] | None = None
) -> list[tuple[float, float, float]]:
    """R_φ of utterance, reply and both of every turn, in one scorer call; ``nan`` without a text or a finite score.

    Both together are one text that follows what was said before the utterance.
    """
    said = [u.text if missing_utterance(u) is None else None for u in utterances]
    answered = [y.text if y.assessable else None for y in replies]
    both = [None if a is None or y is None else a + y for a, y in zip(said, answered, strict=True)]
    texts = [*said, *answered, *both]
    contexts = contexts or [()] * len(utterances)
    before = [*contexts, *((*context, u.text) for context, u in zip(contexts, utterances, strict=True)), *contexts]
    scores = score_texts(scorer, texts, before)
    return [(scores[i], scores[len(said) + i], scores[2 * len(said) + i]) for i in range(len(said))]


def score_texts(scorer: Scorer, texts: Sequence[str | None], contexts: Sequence[Context]) -> list[float]:
    """R_φ of texts in one call; ``nan`` where there is no text, or no finite score of it."""
    known = [(text, context) for text, context in zip(texts, contexts, strict=True) if text is not None]
    found = iter(scorer.score([text for text, _ in known], [context for _, context in known]) if known else ())
    scores = [math.nan if text is None else next(found) for text in texts]
    return [score if math.isfinite(score) else math.nan for score in scores]


def contexts_of(path: Trajectory) -> list[Context]:
    """What was said before the utterance of each turn."""
    said = [path.prefix.text, *(text for turn in path.turns for text in (turn.utterance.text, turn.reply.text))]
    return [tuple(said[: 1 if path.accumulated else 1 + 2 * number]) for number in range(len(path.turns))]


def missing_utterance(utterance: Speech) -> str | None:
    """Why there is no whole utterance that figures could tell of."""
    return utterance.error or ("empty utterance" if not utterance.text and not utterance.token_ids else None)
