"""Packed log-probabilities and gradients are those of separate sequences."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaModel

from astprompter.base.records import PreferencePair
from astprompter.models.local.lm import LanguageModel
from astprompter.training import packing
from astprompter.training.packing import forward_groups, pack, sequence_logps, trees_together
from helpers.tiny import FAMILIES

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
    pairs = [PreferencePair((n,) * n, (2,), (3,), 0.1, "on_policy", 0) for n in (5, 90, 7, 40, 6, 41)]
    groups = forward_groups(pairs, 100)
    assert groups == [[0, 4, 2], [3, 5], [1]]
    assert forward_groups(pairs, 1) == [[0], [4], [2], [3], [5], [1]]


def test_forward_groups_keep_a_tree_together() -> None:
    tree = [PreferencePair((1, 2, 3), (4,), (5,), 0.1, "on_policy", 0)]
    tree += [PreferencePair((1, 2, 3, t, 9), (6,), (7,), 0.1, "on_policy", 1) for t in (4, 5)]
    lone = [PreferencePair((8, 8), (6,), (7,), 0.1, "on_policy", 0)]
    pairs = [tree[1], lone[0], tree[0], tree[2]]
    # The tree has 3 + 2 + 2 + 4 = 11 distinct tokens, the lone pair 4.
    assert forward_groups(pairs, 11) == [[1], [2, 0, 3]]
    assert forward_groups(pairs, 22) == [[1, 2, 0, 3]]
    order = trees_together(pairs, np.random.default_rng(0))
    assert sorted(order) == [0, 1, 2, 3]
    assert order.index(1) in (0, 3)


def test_a_model_that_refuses_tree_masks_gets_separate_sequences(make_lm: Any, monkeypatch: Any, caplog: Any) -> None:
    real = LlamaModel.forward

    @functools.wraps(real)
    def refusing(self: Any, *given: Any, attention_mask: Any = None, **more: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            raise ValueError("only [batch, length] masks")
        return real(self, *given, attention_mask=attention_mask, **more)

    monkeypatch.setattr(LlamaModel, "forward", refusing)
    with caplog.at_level(logging.DEBUG, "astprompter"):
        lm = make_lm("llama")
    assert not lm.packs
    assert not lm.shares_branches
    told = "model 'tiny-llama' refuses a short cut: ValueError('only [batch, length] masks')"
    assert {record.message for record in caplog.records if "short cut" in record.message} == {told}
    assert (lm.masks, lm.alone) == ("valid", None)
    expected = separate(lm)
    wanted = gradients(lm, expected)
    got = sequence_logps(lm, pack(SEQUENCES, share=lm.packs))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients(lm, got), wanted, strict=True):
        assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-7


def test_a_model_that_ignores_tree_masks_is_found_out(make_lm: Any, monkeypatch: Any) -> None:
    real = LanguageModel.forward

    def blind(self: Any, ids: Any, mask: Any, positions: Any, cache: Any = None) -> Any:
        if mask.dtype == torch.bool and mask.ndim == 4:
            mask = torch.ones_like(mask).tril()
        return real(self, ids, mask, positions, cache)

    monkeypatch.setattr(LanguageModel, "forward", blind)
    lm = make_lm("gpt2")
    assert lm.shares_branches
    assert not lm.packs


def test_bfloat16_products_are_close(make_lm: Any) -> None:
    exact, fast = make_lm("llama"), make_lm("llama", autocast=True)
    values = [sequence_logps(lm, pack(SEQUENCES), average=True) for lm in (exact, fast)]
    assert 0 < float((values[0] - values[1]).detach().abs().max()) < 0.1
    assert gradients(fast, values[1])[0].dtype == torch.float32


def like(prompt: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...]) -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected, 0.1, "on_policy", 0)


def test_a_family_too_large_for_one_pass_is_split() -> None:
    family = [like((1, 2, 3), (10 * i, 11), (10 * i + 5, 12)) for i in (1, 2, 3)]  # 3 + 4, then 4 more each
    assert forward_groups(family, 15) == [[0, 1, 2]]
    assert forward_groups(family, 14) == [[2], [0, 1]]
    assert forward_groups(family, 11) == [[2], [0, 1]]
    assert forward_groups(family, 10) == [[0], [1], [2]]
    assert forward_groups([*family, *family], 11) == [[0, 1], [2, 3], [4, 5]]
    assert forward_groups([*family, *family], 15) == [[0, 1, 2, 3, 4, 5]]  # equal pairs cost nothing more


def test_the_size_of_a_family_counts_distinct_tokens() -> None:
    pairs = [like((1, 2, 3), (3, 9), (4,)), like((1, 2, 3, 4, 5), (3, 9), (4,))]
    # 3 of the prompt, 3 9 and 4 below it; then 5 below the 4, and 3 9 and 4 below that: 3 + 3 + 1 + 3 = 10.
    assert forward_groups(pairs, 10) == [[0, 1]]
    assert forward_groups(pairs, 9) == [[0], [1]]
    apart = [like((1, 2, 3), (7,), (6,)), like((1, 2, 3, 4, 5), (7,), (6,))]  # 3 + 2, then 2 + 2
    assert forward_groups(apart, 9) == [[0, 1]]
    assert forward_groups(apart, 8) == [[0], [1]]


def test_prompts_that_share_half_of_the_shorter_one_stand_together() -> None:
    def rows(*prompts: tuple[int, ...]) -> int:
        return pack([(prompt, (50,)) for prompt in prompts]).ids.shape[0]

    assert rows((1, 2, 9, 9), (1, 2, 8, 8)) == 1
    assert rows((1, 2, 9, 9, 9), (1, 2, 8, 8, 8)) == 2
    assert rows((1, 2), (1, 2, 8, 8, 8)) == 1
    assert rows((1,), (2,), (1, 3)) == 2


def test_without_sharing_the_mask_is_which_tokens_are_real() -> None:
    packed = pack([((1, 2), (3, 4)), ((1, 2), (5,))], share=False)
    assert packed.ids.tolist() == [[1, 2, 3, 4], [1, 2, 5, 0]]
    assert packed.mask.dtype == torch.bool
    assert packed.mask.tolist() == [[True] * 4, [True, True, True, False]]


def test_logits_in_slabs_give_the_same(make_lm: Any, monkeypatch: Any) -> None:
    lm = make_lm()
    whole = sequence_logps(lm, pack(SEQUENCES))
    for states in (1, 2, 5):
        monkeypatch.setattr(packing, "_LOGITS_AT_ONCE", states * lm.vocabulary_size)
        torch.testing.assert_close(sequence_logps(lm, pack(SEQUENCES)), whole, rtol=0, atol=1e-5)
