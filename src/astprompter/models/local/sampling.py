"""Choosing the next token: repetition penalty, temperature, exact top-p, and a per-row random number.

The order and the formulas are those of Hugging Face ``generate`` (penalty on raw logits, then temperature, then
top-p on the tempered distribution), so greedy output is the same. The vocabulary is passed over as few times as
possible: the functions here write into the logits they are given.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NUCLEUS = (16, 128, 1024)
"""Candidates looked at first, then for rows whose nucleus is wider; after that the whole vocabulary is sorted."""


def penalise_repeats(logits: Tensor, seen: Tensor, penalty: float) -> None:
    """Apply the repetition penalty (arXiv 1909.05858) in place: logits [rows, vocabulary], seen ids [rows, time]."""
    if penalty != 1.0:
        scores = logits.gather(1, seen)
        logits.scatter_(1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def sample(logits: Tensor, uniforms: Tensor, *, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the nucleus's distribution function.

    Exact without sorting the vocabulary: a few best entries, normalised by the mass of all, show whether the
    nucleus lies within them; rows where it does not are looked at again with more.

    Args:
        logits: Penalised logits, float [rows, vocabulary], destroyed; ``-inf`` bans a token.
        uniforms: One number in [0, 1) per row, float64 [rows].
        temperature: 0 takes the most likely token.
        top_p: Smallest mass of the nucleus; the token that crosses it is included.

    Returns:
        Token ids, int64 [rows], and whether each row has a distribution at all (bool [rows]): not where a logit
        is not a number or every token is banned.
    """
    if temperature == 0.0:
        best, tokens = logits.max(dim=1)
        return tokens, best.isfinite()
    size = logits.size(1)
    width = min(_NUCLEUS[0], size)
    values, indices = logits.topk(width, dim=1)  # [rows, width], best first
    peak = values[:, :1]
    weights = logits.sub_(peak).mul_(1.0 / temperature).exp_()
    total = weights.sum(dim=1, keepdim=True).double()
    sound = total.isfinite().squeeze(1)
    tokens, complete = _invert(weights.gather(1, indices) / total, indices, uniforms, top_p)
    for wider in (*_NUCLEUS[1:], size):
        if width >= size or bool((complete | ~sound).all()):
            break
        width = min(wider, size)
        rows = (~complete & sound).nonzero().squeeze(1)
        part = weights[rows]
        masses, indices = part.topk(width, dim=1)
        drawn, complete[rows] = _invert(masses / total[rows], indices, uniforms[rows], top_p)
        tokens[rows] = drawn
    return tokens, sound


def _invert(masses: Tensor, indices: Tensor, uniforms: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens drawn from the nucleus, and whether each row's nucleus lay within the given columns."""
    mass = masses.double().cumsum(dim=1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    kept = before < top_p  # the first token is always kept
    total = torch.where(kept, mass, 0.0).amax(dim=1)
    place = (mass <= (uniforms * total)[:, None]).sum(dim=1)
    place = place.minimum(kept.sum(dim=1) - 1).clamp(min=0)
    return indices.gather(1, place[:, None]).squeeze(1), mass[:, -1] >= top_p
