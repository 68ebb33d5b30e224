"""Preference losses as pure functions of summed (or mean) log-probabilities.

Every argument is a float tensor [pairs] in nats; every function returns the loss per pair, [pairs]. The last one holds
a policy to another where nothing is to change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_ratio_difference(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor
) -> Tensor:
    """Difference h = [log π_θ(y⁺|x) − log π_θ(y⁻|x)] − [log π_ref(y⁺|x) − log π_ref(y⁻|x)]: [pairs]."""
    return (policy_chosen_logps - policy_rejected_logps) - (ref_chosen_logps - ref_rejected_logps)


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    tau: float,
) -> Tensor:
    """L = (h − 1/(2τ))², equation 17 of arXiv 2310.12036."""
    h = log_ratio_difference(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (h - 1.0 / (2.0 * tau)) ** 2


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    tau: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """L = −(1−ε) log σ(τh) − ε log σ(−τh), equation 7 of arXiv 2305.18290 with label smoothing ε (conservative DPO).

    ε is the probability that a pair's preference is wrong; τ plays the part that papers on DPO call β.
    """
    h = log_ratio_difference(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return -(1.0 - label_smoothing) * F.logsigmoid(tau * h) - label_smoothing * F.logsigmoid(-tau * h)


def margin_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    margins: Tensor,
    eta: float,
) -> Tensor:
    """L = (h − ΔR/η)²: regression of the log-ratio on the difference of rewards (REBEL, arXiv 2404.16767).

    With summed log-probabilities, utterances from the model itself at temperature 1 and ties kept, its minimum over all
    pairs is at π ∝ π_ref·exp(E[R]/η), which keeps what is likely and covers every mode; IPO pulls every pair to one
    distance however small its margin. The same expression is the contrastive form of trajectory balance (VarGrad, arXiv
    2010.10436; GFlowNets).

    Args:
        policy_chosen_logps: log π_θ(y⁺|x).
        policy_rejected_logps: log π_θ(y⁻|x).
        ref_chosen_logps: log π_ref(y⁺|x).
        ref_rejected_logps: log π_ref(y⁻|x).
        margins: ΔR = R(y⁺) − R(y⁻), [pairs].
        eta: η, in units of the reward.
    """
    h = log_ratio_difference(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (h - margins / eta) ** 2


def divergence(old_logits: Tensor, new_logits: Tensor) -> Tensor:
    """KL(old ‖ new) = Σ_v π_old(v)·[log π_old(v) − log π_new(v)] at each position, nats.

    Args:
        old_logits: [positions, vocabulary].
        new_logits: [positions, vocabulary].

    Returns:
        [positions].
    """
    return divergence_of(F.log_softmax(old_logits, dim=-1), F.log_softmax(new_logits, dim=-1))


def divergence_of(old: Tensor, new: Tensor) -> Tensor:
    """:func:`divergence` of log-probabilities [positions, vocabulary]; a token that the old one never says adds 0."""
    return torch.where(old > -torch.inf, old.exp() * (old - new), 0.0).sum(dim=-1)
