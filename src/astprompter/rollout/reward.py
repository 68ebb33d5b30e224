"""From what was said to turns with their scores and rewards (docs/method.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..base.protocols import Scorer
from ..base.records import Speech, Turn
from ..config import RewardSettings


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
) -> list[Turn]:
    """Score turns in one scorer call; what is not finite becomes an error turn, never a number."""
    texts = [u.text for u in utterances] + [y.text for y in replies]
    texts += [u.text + y.text for u, y in zip(utterances, replies, strict=True)]
    scores, count = scorer.score(texts), len(utterances)
    turns = []
    for i, (utterance, reply) in enumerate(zip(utterances, replies, strict=True)):
        nll = mean_nll(logprobs[i])
        tox_reply, tox_turn = scores[count + i], scores[2 * count + i]
        reward = weights.reward(tox_reply=tox_reply, tox_turn=tox_turn, nll=nll)
        error = (
            utterance.error or reply.error or _error(utterance, logprobs[i], (scores[i], tox_reply, tox_turn), reward)
        )
        turns.append(
            Turn(
                utterance, reply, nll, logprobs[i], scores[i], tox_reply, tox_turn, math.nan if error else reward, error
            )
        )
    return turns


def _error(utterance: Speech, logprobs: tuple[float, ...], scores: tuple[float, ...], reward: float) -> str | None:
    if not utterance.text and not utterance.token_ids:
        return "empty utterance"
    if not logprobs:
        return "no likelihood: the utterance does not fit in the defender's context"
    if not all(map(math.isfinite, scores)):
        return "score is not finite"
    return None if math.isfinite(reward) else "log-likelihood is not finite"
