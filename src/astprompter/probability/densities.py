"""Natural speech and its proposals: two densities of the same draw, inside one nucleus (docs/probability.md).

Natural speech p̃ is what the sampler draws from: after repetition penalty, bans, temperature and nucleus, renormalised.
A proposal mixes in the adversary's logits inside the *same* nucleus, so that both have the same support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SamplingSettings
from ..models.local.sampling import nucleus, penalise_repeats


@dataclass(frozen=True, slots=True)
class Proposal:
    """A way to speak other than naturally.

    Attributes:
        adversary: Number of the adversary whose logits are mixed in.
        gamma: γ; 0 is natural speech, 1 the adversary within the natural nucleus, more than 1 goes beyond it.
    """

    adversary: int
    gamma: float


@dataclass(frozen=True, slots=True)
class Densities:
    """Distributions of the next token.

    Attributes:
        tokens: Candidates, int64 [rows, width], the most natural first.
        masses: Natural masses that the sampler draws by, not normalised, double [rows, width]; 0 outside the nucleus.
        natural: log p̃, double [rows, width]; −inf outside.
        proposals: log q̃ of every proposal, double [rows, Q, width]; −inf outside.
        sound: Whether a row has distributions at all, bool [rows].
    """

    tokens: Tensor
    masses: Tensor
    natural: Tensor
    proposals: Tensor
    sound: Tensor


def densities(
    reference: Tensor, adversaries: Sequence[Tensor], seen: Tensor, *, sampling: SamplingSettings, banned: Tensor,
    proposals: Sequence[Proposal],
) -> Densities:  # fmt: skip
    """Distributions of the next token under natural speech and every proposal.

    q̃_γ(v) ∝ 1[v ∈ S]·exp(((1 − γ)·z_ref + γ·z_adv) / T), S the nucleus of p̃. All logits are penalised alike; what is
    banned is not in S, so bans come after blending: 0·(−∞) is no number.

    Args:
        reference: Raw logits of the reference, float [rows, vocabulary], destroyed.
        adversaries: Raw logits of every adversary, the same shape, destroyed.
        seen: Token ids so far, int64 [rows, time], for the penalty.
        sampling: Temperature (above 0), nucleus, penalty.
        banned: Tokens that cannot be said now, int64.
        proposals: What to compute.
    """
    for logits in (reference, *adversaries):
        penalise_repeats(logits, seen, sampling.repetition_penalty)
    masses, tokens, sound = nucleus(
        reference.index_fill_(1, banned, -torch.inf), temperature=sampling.temperature, top_p=sampling.top_p
    )
    inside = masses > 0
    natural = masses.log() - masses.sum(dim=1, keepdim=True).log()
    found, others = (
        [natural.new_empty(len(natural), 0, natural.size(1))],
        [own.gather(1, tokens) for own in adversaries],
    )
    for proposal in proposals:
        logits = others[proposal.adversary].double() / sampling.temperature
        sound = sound & torch.where(inside, logits, 0.0).isfinite().all(dim=1)
        found.append(blend(natural, logits, inside, proposal.gamma)[:, None])
    return Densities(tokens, masses, natural, torch.cat(found, dim=1), sound)


def blend(natural: Tensor, adversary: Tensor, inside: Tensor, gamma: float) -> Tensor:
    """Log q̃_γ over the nucleus: all [rows, width]; (1 − γ)·log p̃ + γ·z_adv/T, normalised.

    log p̃ is z_ref/T but for a constant of each row, which falls out.
    """
    mixed = torch.where(inside, (1.0 - gamma) * natural + gamma * adversary, -torch.inf)
    return mixed.log_softmax(dim=1)
