"""Losses against arithmetic by hand and against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from astprompter.training.loss import dpo_loss, ipo_loss, log_ratio_difference, margin_loss


def tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def test_ipo_by_hand() -> None:
    # h = (-10 - -14) - (-11 - -12) = 4 - 1 = 3; 1/(2 * 0.1) = 5; (3 - 5)^2 = 4
    assert ipo_loss(*tensors(-10, -14, -11, -12), tau=0.1).item() == pytest.approx(4.0, abs=1e-12)


def test_ipo_is_least_where_the_log_ratio_is_half_over_tau() -> None:
    assert ipo_loss(*tensors(-5, -10, 0, 0), tau=0.1).item() == pytest.approx(0.0, abs=1e-12)
    h = torch.tensor([7.0], requires_grad=True)
    zero = torch.zeros(1)
    ipo_loss(h, zero, zero, zero, tau=0.25).backward()
    assert h.grad is not None
    assert h.grad.item() == pytest.approx(2 * (7 - 2))  # d/dh (h - 1/(2τ))²


def test_dpo_by_hand() -> None:
    # h = 3, τ = 0.5: -log σ(1.5) = log(1 + e^-1.5)
    assert dpo_loss(*tensors(-10, -14, -11, -12), tau=0.5).item() == pytest.approx(
        math.log1p(math.exp(-1.5)), abs=1e-12
    )
    smooth = 0.9 * math.log1p(math.exp(-1.5)) + 0.1 * math.log1p(math.exp(1.5))
    got = dpo_loss(*tensors(-10, -14, -11, -12), tau=0.5, label_smoothing=0.1).item()
    assert got == pytest.approx(smooth, abs=1e-12)


logps = st.lists(st.floats(-500, 0, allow_nan=False), min_size=4, max_size=4)


@given(st.lists(logps, min_size=1, max_size=8), st.floats(0.01, 2), st.floats(0, 0.49))
def test_both_equal_an_independent_implementation(rows: list[list[float]], tau: float, smoothing: float) -> None:
    table = np.array(rows)
    columns = [torch.from_numpy(table[:, i]) for i in range(4)]
    policy, reference = table[:, 0] - table[:, 1], table[:, 2] - table[:, 3]
    h = policy - reference
    np.testing.assert_allclose(log_ratio_difference(*columns), h, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ipo_loss(*columns, tau=tau), np.square(h - 0.5 / tau), rtol=1e-9, atol=1e-6)
    # −log σ(x) = log(1 + exp(−x))
    expected = (1 - smoothing) * np.logaddexp(0, -tau * h) + smoothing * np.logaddexp(0, tau * h)
    np.testing.assert_allclose(dpo_loss(*columns, tau=tau, label_smoothing=smoothing), expected, rtol=1e-9, atol=1e-9)


def test_margin_by_hand() -> None:
    # h = 3; ΔR/η = 0.2 / 0.1 = 2; (3 - 2)^2 = 1
    margins = torch.tensor([0.2], dtype=torch.float64)
    assert margin_loss(*tensors(-10, -14, -11, -12), margins=margins, eta=0.1).item() == pytest.approx(1.0, abs=1e-12)


def test_the_least_margin_loss_is_at_the_tilted_reference() -> None:
    rewards = torch.tensor([0.1, -0.3, 0.0, 0.7], dtype=torch.float64)
    reference = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    first, second = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 2, 3, 2, 3, 3])
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        policy = logits.log_softmax(0)
        sides = policy[first], policy[second], reference[first], reference[second]
        value = margin_loss(*sides, margins=rewards[first] - rewards[second], eta=0.5).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    expected = (reference + rewards / 0.5).softmax(0)
    assert torch.allclose(logits.detach().softmax(0), expected, atol=1e-6)
