"""The reward R(s, a, y) = α · R_φ(y) + β · R_φ(a + y) − λ · nll_def(a | s) (docs/method.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_nll(token_logprobs: Sequence[float]) -> float:
    """Mean negative log-likelihood, nats per token; ``nan`` without tokens, and where one is not finite."""
    if not token_logprobs or not all(map(math.isfinite, token_logprobs)):
        return math.nan
    return -math.fsum(token_logprobs) / len(token_logprobs)
