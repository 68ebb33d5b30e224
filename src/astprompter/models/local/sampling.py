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
    masses, tokens, sound = nucleus(logits, temperature=temperature, top_p=top_p)
    return tokens.gather(1, draw(masses, uniforms)[:, None]).squeeze(1), sound


def nucleus(logits: Tensor, *, temperature: float, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """The smallest set of most likely tokens whose mass in the tempered distribution is ``top_p``.

    Args:
        logits: As for :func:`sample`.
        temperature: Above 0.
        top_p: As for :func:`sample`.

    Returns:
        Masses, double [rows, width], the largest first and 0 outside the nucleus; the tokens they belong to, int64
        [rows, width]; and whether each row has a distribution at all, bool [rows].
    """
    size = logits.size(1)
    width = min(_NUCLEUS[0], size)
    values, tokens = logits.topk(width, dim=1)  # best first
    weights = logits.sub_(values[:, :1]).mul_(1.0 / temperature).exp_()
    total = weights.sum(dim=1, keepdim=True).double()
    sound = total.isfinite().squeeze(1)
    masses, complete = _kept(weights.gather(1, tokens) / total, top_p)
    for wider in (*_NUCLEUS[1:], size):
        if width >= size or bool((complete | ~sound).all()):
            break
        more = min(wider, size) - width
        width += more
        rows = (~complete & sound).nonzero().squeeze(1)
        part, indices = weights[rows].topk(width, dim=1)
        masses, tokens = (torch.nn.functional.pad(known, (0, more)) for known in (masses, tokens))
        tokens[rows] = indices
        masses[rows], complete[rows] = _kept(part / total[rows], top_p)
    return masses, tokens, sound


def draw(masses: Tensor, uniforms: Tensor) -> Tensor:
    """Columns drawn by inverting the distribution function of masses [rows, width], which need not sum to 1: [rows]."""
    mass = masses.cumsum(dim=1)
    place = (mass <= (uniforms * mass[:, -1])[:, None]).sum(dim=1)
    return place.minimum((masses > 0).sum(dim=1) - 1).clamp(min=0)


def _kept(masses: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Masses with 0 outside the nucleus, and whether each row's nucleus lies within the columns given."""
    mass = masses.cumsum(dim=1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))  # the first token is always kept
    return torch.where(before < top_p, masses, 0.0), mass[:, -1] >= top_p
