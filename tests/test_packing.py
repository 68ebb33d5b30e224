"""Packed log-probabilities and gradients are those of separate sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from astprompter.training.packing import forward_groups, pack, sequence_logps
from astprompter.types import PreferencePair
from conftest import FAMILIES

# A tree: two utterances at the root, two below one of them; ragged; one shares its first token with its sibling.
PROMPT = (5, 9, 17, 3, 44)
DEEPER = (*PROMPT, 7, 8, 60, 61)
SEQUENCES = [
    (PROMPT, (7, 8)),
    (PROMPT, (7, 30, 31, 32)),
    (DEEPER, (12,)),
    (DEEPER, (13, 14, 15)),
    ((99, 98), (97, 96, 95, 94, 93)),
]


def separate(lm: Any, average: bool = False) -> torch.Tensor:
    values = []
    for prompt, tokens in SEQUENCES:
        ids = torch.tensor([[*prompt, *tokens]])
        table = lm.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        picked = torch.stack([table[len(prompt) + i - 1, token] for i, token in enumerate(tokens)])
        values.append(picked.mean() if average else picked.sum())
    return torch.stack(values)


def gradients(lm: Any, values: torch.Tensor) -> list[torch.Tensor]:
    lm.model.zero_grad()
    weights = torch.linspace(-1, 2, len(values))
    (values * weights).sum().backward()
    return [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [True, False])
def test_packed_equals_separate_in_value_and_gradient(make_lm: Any, family: str, share: bool) -> None:
    lm = make_lm(family)
    expected = separate(lm)
    wanted = gradients(lm, expected)
    got = sequence_logps(lm, pack(SEQUENCES, share=share))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients(lm, got), wanted, strict=True):
        assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-7


def test_mean_per_token(make_lm: Any) -> None:
    lm = make_lm()
    torch.testing.assert_close(
        sequence_logps(lm, pack(SEQUENCES), average=True), separate(lm, average=True), rtol=0, atol=1e-5
    )


def test_every_distinct_token_is_computed_once() -> None:
    packed = pack(SEQUENCES)
    # Rows: the tree (5 prompt + 7,8,60,61 + 30,31,32 + 12 + 13,14,15) = 16 nodes; the lone pair 7 nodes.
    assert sorted(packed.ids.shape) == [2, 16]
    assert pack(SEQUENCES, share=False).ids.shape == (5, 12)
    assert len(packed.targets) == sum(len(tokens) for _, tokens in SEQUENCES) - 1  # token 7 is scored once, used twice
    assert len(packed.uses) == sum(len(tokens) for _, tokens in SEQUENCES)


def test_the_mask_shows_ancestors_only() -> None:
    packed = pack([((1, 2), (3, 4)), ((1, 2), (5,))])
    assert packed.ids[0].tolist() == [1, 2, 3, 4, 5]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 2]
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_forward_groups_hold_every_pair_once_within_the_budget() -> None:
    pairs = [PreferencePair((1,) * n, (2,), (3,), 0.1, "on_policy", 0) for n in (5, 90, 7, 40, 6, 41)]
    groups = forward_groups(pairs, 100)
    assert groups == [[0, 4, 2], [3, 5], [1]]
    assert forward_groups(pairs, 1) == [[0], [4], [2], [3], [5], [1]]
