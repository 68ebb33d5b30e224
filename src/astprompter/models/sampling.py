"""Choosing the next token: repetition penalty, temperature, exact top-p, and a per-row random number.

The order and the formulas are those of Hugging Face ``generate`` (penalty on raw logits, then temperature, then
top-p on the tempered distribution), so greedy output is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NUCLEUS = 64
"""Candidates looked at first; rows whose nucleus is wider fall back to a full sort."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How both speakers sample (METHOD section 3).

    Attributes:
        max_new_tokens: Most tokens of one utterance or reply.
        min_new_tokens: End-of-text is banned before this many tokens.
        temperature: Softmax temperature; 0 is greedy.
        top_p: Probability mass of the nucleus, in (0, 1].
        repetition_penalty: Divides positive and multiplies negative logits of tokens already in the row.
    """

    max_new_tokens: int = 24
    min_new_tokens: int = 2
    temperature: float = 0.7
    top_p: float = 0.7
    repetition_penalty: float = 1.1


def penalise_repeats(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the repetition penalty (arXiv 1909.05858): logits [rows, vocabulary], seen ids [rows, time]."""
    if penalty == 1.0:
        return logits
    scores = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def sample(logits: Tensor, uniforms: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Draw one token per row by inverting the nucleus's distribution function.

    Exact without sorting the vocabulary: the best ``_NUCLEUS`` entries are normalised by the full
    log-sum-exp, which shows whether the nucleus lies within them.

    Args:
        logits: Penalised logits, float [rows, vocabulary]; ``-inf`` bans a token.
        uniforms: One number in [0, 1) per row, float64 [rows].
        temperature: 0 takes the most likely token.
        top_p: Smallest mass of the nucleus; the token that crosses it is included.

    Returns:
        Token ids, int64 [rows].
    """
    if temperature == 0.0:
        return logits.argmax(dim=1)
    logits = logits.float() / temperature
    norm = logits.logsumexp(dim=1, keepdim=True)
    width = min(_NUCLEUS, logits.size(1))
    values, indices = logits.topk(width, dim=1)  # [rows, width], best first
    tokens, complete = _invert(values - norm, indices, uniforms, top_p)
    if width < logits.size(1) and not bool(complete.all()):
        wide = (~complete).nonzero().squeeze(1)
        values, indices = logits[wide].sort(dim=1, descending=True, stable=True)
        tokens[wide], _ = _invert(values - norm[wide], indices, uniforms[wide], top_p)
    return tokens


def _invert(logprobs: Tensor, indices: Tensor, uniforms: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens drawn from the nucleus, and whether each row's nucleus lay within the given columns."""
    mass = logprobs.double().exp().cumsum(dim=1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    kept = before < top_p  # the first token is always kept
    total = torch.where(kept, mass, 0.0).amax(dim=1)
    place = (mass <= (uniforms * total)[:, None]).sum(dim=1)
    place = place.minimum(kept.sum(dim=1) - 1)
    return indices.gather(1, place[:, None]).squeeze(1), mass[:, -1] >= top_p
