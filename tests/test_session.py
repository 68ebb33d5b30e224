from __future__ import annotations

from typing import Any

import pytest
import torch

from astprompter.errors import UserError
from astprompter.models.sampling import Sampling
from astprompter.reward import mean_nll
from astprompter.types import Speech
from conftest import FAMILIES, PREFIXES, SENTENCES, keys_for, make_tokenizer

GREEDY = Sampling(max_new_tokens=8, min_new_tokens=2, temperature=0.0, repetition_penalty=1.1)


def full_logprobs(lm: Any, context: Any, tokens: Any) -> list[float]:
    """Independent route: one plain forward over one unpadded row."""
    ids = torch.tensor([[*context, *tokens]])
    with torch.no_grad():
        table = lm.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(context)
    return [float(table[start + i - 1, token]) for i, token in enumerate(tokens)]


@pytest.mark.parametrize("family", FAMILIES)
def test_heard_likelihood_is_that_of_a_plain_forward_on_mixed_lengths(make_lm: Any, family: str) -> None:
    lm, partner = make_lm(family), make_lm(family, seed=1)
    ours, theirs = lm.start(PREFIXES, turns=3), partner.start(PREFIXES, turns=3)
    for turn in range(3):
        contexts = ours.transcript()
        spoken = theirs.speak(keys_for(len(PREFIXES), turn))
        spoken = [Speech(s.text, s.token_ids[: 1 + (i + turn) % 6], s.vocabulary) for i, s in enumerate(spoken)]
        heard = ours.hear(spoken, likelihood=True)
        assert heard is not None
        for context, speech, logprobs in zip(contexts, spoken, heard, strict=True):
            assert logprobs == pytest.approx(full_logprobs(lm, context, speech.token_ids), abs=1e-4)
        replies = ours.speak(keys_for(len(PREFIXES), 10 + turn))
        theirs = partner.start_ids([[*row] for row in ours.transcript()])
        assert all(len(reply.token_ids or ()) >= 2 for reply in replies)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_lock_step_is_generate_greedy(make_lm: Any, family: str) -> None:
    lm = make_lm(family, sampling=GREEDY)
    session = lm.start(PREFIXES, turns=2)
    first = session.speak(keys_for(len(PREFIXES)))
    session.hear([Speech(f" {text}") for text in PREFIXES])
    contexts = session.transcript()
    second = session.speak(keys_for(len(PREFIXES)))
    roots = [lm.encode_prefix(text, turns=2) for text in PREFIXES]
    for rows, spoken in ((roots, first), (contexts, second)):
        for row, speech in zip(rows, spoken, strict=True):
            output = lm.model.generate(
                torch.tensor([row]), attention_mask=torch.ones(1, len(row)), do_sample=False, max_new_tokens=8,
                min_new_tokens=2, repetition_penalty=1.1, pad_token_id=0, use_cache=False,
            )  # fmt: skip
            expected = [t for t in output[0, len(row) :].tolist() if t != 0]
            assert list(speech.token_ids or ()) == expected


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sampling_does_not_depend_on_batch_mates(make_lm: Any, family: str) -> None:
    lm = make_lm(family)
    keys = keys_for(len(PREFIXES), 4)
    together = lm.start(PREFIXES, turns=1).speak(keys)
    alone = [lm.start([text], turns=1).speak(keys[i : i + 1])[0] for i, text in enumerate(PREFIXES)]
    assert together == alone


def test_branches_continue_as_if_they_had_been_alone(make_lm: Any) -> None:
    lm = make_lm("llama")
    root = lm.start(PREFIXES[:3], turns=2)
    heard = [Speech(" yes"), Speech(" no, not at all"), Speech(" maybe")]
    root.hear(heard)
    branched = root.branch([0, 0, 2])
    spoken = branched.speak(keys_for(3))
    alone = lm.start_ids([root.transcript()[row] for row in (0, 0, 2)]).speak(keys_for(3))
    assert spoken == alone
    assert spoken[0] != spoken[1]
    assert len(root.transcript()) == 3  # the trunk is untouched


def test_end_of_text_ends_a_speech_and_is_not_part_of_it(make_lm: Any) -> None:
    lm = make_lm("gpt2", sampling=Sampling(max_new_tokens=6, min_new_tokens=2, temperature=0.0, repetition_penalty=1.0))
    real = lm.logits
    lm.logits = lambda hidden: torch.cat([torch.full_like(real(hidden)[..., :1], 1e4), real(hidden)[..., 1:]], dim=-1)
    session = lm.start(PREFIXES[:2], turns=1)
    before = session.transcript()
    speeches = session.speak(keys_for(2))
    assert [len(speech.token_ids or ()) for speech in speeches] == [2, 2]
    assert session.transcript() == [(*row, *s.token_ids) for row, s in zip(before, speeches, strict=True)]


def test_ragged_ends_leave_holes_that_change_nothing(make_lm: Any) -> None:
    lm = make_lm("llama")
    session = lm.start(PREFIXES[:3], turns=3)
    session.hear([Speech(" a b c d e"), Speech(" a"), Speech("")])
    session.hear([Speech(""), Speech(" x y z"), Speech(" q")])
    contexts = session.transcript()
    assert session.speak(keys_for(3)) == lm.start_ids(contexts).speak(keys_for(3))


def test_nll_is_a_mean_in_nats_per_token(make_lm: Any) -> None:
    lm = make_lm()
    session = lm.start(["The garden"], turns=1)
    context = session.transcript()[0]
    ids = lm.encode(" is lovely")
    heard = session.hear([Speech(" is lovely")], likelihood=True)
    assert mean_nll(heard[0]) == pytest.approx(-sum(full_logprobs(lm, context, ids)) / len(ids), abs=1e-5)


def test_other_tokenizers_hear_the_text(make_lm: Any) -> None:
    lm, other = make_lm(), make_lm("llama", tokenizer=make_tokenizer(290))
    assert lm.vocabulary != other.vocabulary
    speech = lm.start(["The garden"], turns=1).speak(keys_for(1))[0]
    session = other.start(["The garden"], turns=1)
    session.hear([speech])
    assert session.transcript()[0][-len(other.encode(speech.text)) :] == other.encode(speech.text)


def test_long_prefixes_lose_tokens_on_the_left_once(make_lm: Any) -> None:
    lm = make_lm(context=64)
    text = " ".join(SENTENCES)
    ids = lm.encode_prefix(text, turns=3)
    assert len(ids) == 64 - 3 * 12
    assert tuple(lm.encode_prefix(text, turns=1))[-len(ids) :] == ids
    session = lm.start([text], turns=3)
    for turn in range(3):
        session.speak(keys_for(1, turn))
        assert session.hear([Speech(" a", tuple(lm.encode(" a b c")), lm.vocabulary)], likelihood=True) != [()]


def test_a_speech_that_does_not_fit_gets_no_likelihood(make_lm: Any) -> None:
    lm = make_lm(context=32)
    session = lm.start(["Hello."], turns=1)
    assert session.hear([Speech(" very" * 200)], likelihood=True) == [()]
    assert session.speak(keys_for(1))[0].token_ids == ()


def test_context_too_short_for_the_horizon_is_a_clear_error(make_lm: Any) -> None:
    with pytest.raises(UserError, match=r"context of 32 tokens, too short for 3 turns.*rollout\.horizon"):
        make_lm(context=32).start(["Hello."], turns=3)


def test_models_that_ignore_the_mask_are_refused(make_lm: Any, monkeypatch: Any) -> None:
    from astprompter.models.lm import LanguageModel

    real = LanguageModel.forward

    def blind(self: Any, ids: Any, mask: Any, positions: Any, cache: Any = None) -> Any:
        return real(self, ids, torch.ones_like(mask), positions, cache)

    monkeypatch.setattr(LanguageModel, "forward", blind)
    with pytest.raises(UserError, match="could not be trusted"):
        make_lm("llama")


def test_decode_keeps_leading_spaces_and_split_emoji_travel_as_ids(make_lm: Any) -> None:
    lm = make_lm()
    assert lm.decode(lm.encode(" is lovely")) == " is lovely"
    ids = lm.encode(" ok 🙂")
    session = lm.start(["Hello."], turns=2)
    session.hear([Speech("", ids[:-1], lm.vocabulary)])
    session.hear([Speech("", ids[-1:], lm.vocabulary)])
    assert session.transcript()[0][-len(ids) :] == ids


def test_pieces_join_to_the_text_and_never_split_a_character(make_lm: Any) -> None:
    for lm, vocabulary in ((make_lm(), None), (make_lm(), "other")):
        text = " héllo 🙂 日本\u2028 x"
        own = lm.encode(text)
        pieces = lm.pieces(Speech(text, own, vocabulary or lm.vocabulary))
        assert "".join(pieces) == text
        assert len(pieces) == len(own)
        assert not any("\ufffd" in piece for piece in pieces)
