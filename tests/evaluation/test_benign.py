"""What a repair costs: likelihood and divergence against plain forward passes, changes and intervals by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astprompter.base.errors import UserError
from astprompter.data import load_benign
from astprompter.evaluation.benign import Reply, benign_replies, benign_texts, changed, on_tokens, parts_of, varied
from astprompter.evaluation.statistics import Options
from astprompter.models.local.chat import speaker_from
from helpers.tiny import PREFIXES, SHORT, make_chat_tokenizer, make_model, make_tokenizer, probed_once

OPTIONS = Options(seed=0, resamples=400, level=0.95, threshold=0.5)


def speakers(*seeds: int, chat: bool = False) -> list[Any]:
    tokenizer = make_chat_tokenizer() if chat else make_tokenizer()
    options: Any = {"sampling": SHORT, "role": "defender", "chat": "on" if chat else "off"}
    with probed_once("benign", chat):
        return [speaker_from(make_model("gpt2", len(tokenizer), seed=seed), tokenizer, **options) for seed in seeds]


def test_likelihood_and_divergence_are_those_of_plain_forward_passes() -> None:
    old, new = speakers(0, 1)
    texts = [(text,) for text in PREFIXES] + [("Hello there.", "", " A good day to you.", " And you?", " Fine.")]
    parts = parts_of(old, texts)
    found = on_tokens(old, new, parts)
    assert found.kl.shape[0] == len(texts)
    for row, own in enumerate(parts):
        told = []
        for before, after in own:
            ids = torch.tensor([[*before, *after]])
            one, two = (lm.model(ids).logits[0, len(before) - 1 : -1].log_softmax(-1).detach() for lm in (old, new))
            for place, token in enumerate(after):
                kl = float((one[place].exp() * (one[place] - two[place])).sum())
                told.append((-float(one[place, token]), -float(two[place, token]), kl))
        values = np.array([found.before[row], found.after[row], found.kl[row]])
        assert pytest.approx(np.array(told), abs=1e-4) == values[:, : len(told)].T
        assert np.isnan(values[:, len(told) :]).all()
    assert len(parts[-1]) == 2  # both replies of the dialogue, nothing of the user's side
    assert old.decode(parts[-1][1][0]).endswith("And you?")
    assert old.decode(parts[-1][1][1]) == " Fine."


def test_a_chat_model_is_measured_on_its_own_messages() -> None:
    old, new = speakers(0, 1, chat=True)
    ((first, second),) = parts_of(old, [("Hello there.", "", " A good day.", " And you?", " Fine.")])
    assert old.tokenizer.decode(first[0]) == "<|user|>\nHello there.<|end|>\n<|assistant|>\n"
    assert old.tokenizer.decode(second[0]).endswith("A good day.<|end|>\n<|user|>\nAnd you?<|end|>\n<|assistant|>\n")
    assert old.tokenizer.decode(second[1]) == "Fine."
    assert np.nanmin(on_tokens(old, new, [[first, second]]).kl) > 0


def test_the_same_model_costs_nothing() -> None:
    old, new = speakers(0, 0)
    found = benign_texts(old, new, [(text,) for text in PREFIXES], "here", OPTIONS)
    assert (found.texts, found.kl, found.kl_ci) == (len(PREFIXES), 0.0, [0.0, 0.0])
    assert (found.nll.difference, found.nll.ratio, found.nll.ratio_ci) == (0.0, 1.0, [1.0, 1.0])
    assert found.tokens == sum(len(old.encode_prefix(text, turns=0)) - 1 for text in PREFIXES)


def test_a_change_is_of_the_means_over_all_tokens_and_paired() -> None:
    before = np.array([[1.0, 3.0], [2.0, np.nan]])
    found = changed(before, 1.1 * before, OPTIONS)
    assert (found.before, found.after) == (2.0, pytest.approx(2.2))
    assert found.difference == pytest.approx(0.2)
    assert found.ratio == pytest.approx(1.1)
    assert found.ratio_ci == pytest.approx([1.1, 1.1])  # the same texts are drawn for both
    none = changed(np.zeros((4, 1)), np.array([[1.0], [0.0], [1.0], [0.0]]), OPTIONS, shares=True)
    assert (none.before, none.after, none.ratio) == (0.0, 0.5, None)
    assert none.before_ci == pytest.approx([0.0, 1 - 0.025**0.25])


def test_variety_is_compared_by_leaving_groups_out() -> None:
    def kinds(texts: Any) -> float:
        return float(len(set(texts)))

    found = varied(["a", "b", "c", "d"], ["a", "a", "b", "b"], kinds, OPTIONS)
    assert (found.before, found.after, found.difference, found.ratio) == (4.0, 2.0, -2.0, 0.5)
    assert found.before_ci == [4.0, 4.0]  # whichever is left out, three are left
    assert found.after_ci == [2.0, 2.0]
    uneven = varied(["a", "b", "c"], ["a", "a", "b"], kinds, OPTIONS)  # left: 2, 2, 2 and 2, 2, 1
    error = 1.959964 * math.sqrt(2 / 3 * (2 / 9 + 4 / 9 * 1))
    assert uneven.after_ci == pytest.approx([2 - error, 2 + error], abs=1e-4)
    assert varied(["a"], ["b"], kinds, OPTIONS).after_ci is None


def test_replies_that_went_short_bland_blank_or_refuse_are_seen() -> None:
    before = [Reply(text, False) for text in (" one two three", " four five six", " seven eight", " nine ten")]
    after = [Reply(" I'm sorry, but no", False), Reply(" no", True), Reply(" ", False), Reply(" no", False)]
    kl = np.array([[0.5, 1.5], [1.0, np.nan], [np.nan, np.nan], [np.nan, np.nan]])
    found = benign_replies(before, after, kl, OPTIONS)
    assert (found.replies, found.kl, found.kl_tokens) == (4, 1.0, 3)
    assert (found.length.before, found.length.after) == (2.5, (7 + 1 + 0 + 1) / 4)  # I ' m sorry , but no
    assert (found.blank.before, found.blank.after) == (0.0, 0.25)
    assert (found.refused.before, found.refused.after) == (0.0, 0.5)
    assert (found.distinct_2.before, found.distinct_2.after) == (1.0, 1.0)
    assert found.vendi.before is not None
    assert found.vendi.after is not None
    assert found.vendi.after < found.vendi.before


def test_benign_sets_hold_texts_and_dialogues_with_both_sides(tmp_path: Path) -> None:
    rows = [
        {"text": "A text. "},
        {"dialogue": [["Hello", "Good day "], ["And you?", "Fine"]]},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]},
    ]
    path = tmp_path / "benign.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_benign(str(path)) == [
        ("A text.",),
        ("Hello", "", " Good day", " And you?", " Fine"),
        ("Hello", "", " Good day"),
    ]
    assert len(load_benign("embedded")) == 400
    for bad, said in (
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, "message 1 of 'messages' must be the user's"),
        ({"messages": [{"role": "user", "content": "Hello"}]}, "an answer to each"),
        ({"dialogue": []}, "at least one message"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=said):
            load_benign(str(path))
