from __future__ import annotations

from typing import Any

import pytest
import torch

from astprompter.base.errors import UserError
from astprompter.base.records import Speech
from astprompter.config import SamplingSettings
from astprompter.models.local import capabilities, memory, openings
from astprompter.models.local.lm import LanguageModel
from astprompter.models.local.sampling import sample
from astprompter.rollout.reward import mean_nll
from astprompter.training.packing import pack, sequence_logps
from helpers.tiny import FAMILIES, PREFIXES, SENTENCES, SHORT, keys_for, make_model, make_tokenizer

MOST_ARE_SLOW = [*FAMILIES[:2], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[2:])]
GREEDY = SamplingSettings(max_new_tokens=8, min_new_tokens=2, temperature=0.0, repetition_penalty=1.1)


def full_logprobs(lm: Any, context: Any, tokens: Any) -> list[float]:
    """Independent route: one plain forward over one unpadded row."""
    ids = torch.tensor([[*context, *tokens]])
    with torch.no_grad():
        table = lm.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(context)
    return [float(table[start + i - 1, token]) for i, token in enumerate(tokens)]


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_ARE_SLOW)
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


@pytest.mark.parametrize("family", ["gpt2", *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])])
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


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
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


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_ARE_SLOW)
def test_openings_of_unequal_length_are_computed_apart_and_change_nothing(
    make_lm: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "_PRICES", (2,))
    lm = make_lm(family)
    rows = [list(lm.encode(" ".join(SENTENCES)))[:size] for size in (3, 4, 21, 60, 61, 5)]
    together = lm.start_ids(rows)
    layer = together._cache.growing[0]
    assert [opening.keys.shape[0::2] for opening in layer._openings] == [(2, 4), (1, 21), (2, 61), (1, 5)]
    keys = keys_for(12)
    for order in ([row for row in range(6) for _ in range(2)], [11, 0, 3, 3, 8, 4, 5, 5, 7, 2, 1, 10]):
        together = together.branch(order)
        contexts = together.transcript()
        spoken = [Speech(" and so", tuple(lm.encode(" and so it goes on"))[: 1 + row % 5]) for row in range(12)]
        spoken = [Speech(lm.decode(s.token_ids), s.token_ids, lm.vocabulary) for s in spoken]
        heard = together.hear(spoken, likelihood=True)
        for context, speech, logprobs in zip(contexts, spoken, heard, strict=True):
            assert logprobs == pytest.approx(full_logprobs(lm, context, speech.token_ids), abs=1e-4)
        contexts = together.transcript()
        assert together.speak(keys) == [lm.start_ids([c]).speak(keys[i : i + 1])[0] for i, c in enumerate(contexts)]
    assert together._cache.growing[0]._openings


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_ARE_SLOW)
def test_equal_neighbours_compute_their_opening_once_and_change_nothing(
    make_lm: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "_PRICES", (2,))
    lm = make_lm(family)
    text = list(lm.encode(" ".join(SENTENCES)))
    rows = [text[:size] for size in (9, 9, 9, 20, 20, 20, 21, 21, 21, 5, 40, 40)]
    seen, forward = [], lm.forward
    monkeypatch.setattr(lm, "forward", lambda ids, *rest: seen.append(ids.shape) or forward(ids, *rest))
    session, keys = lm.start_ids(rows), keys_for(12)
    assert [tuple(shape) for shape in seen] == [(1, 9), (2, 21), (1, 5), (1, 40)]
    alone = [lm.start_ids([row]) for row in rows]

    def same() -> None:
        spoken = session.speak(keys[: len(alone)])
        assert spoken == [one.speak(keys[row : row + 1])[0] for row, one in enumerate(alone)]
        contexts = session.transcript()
        heard = session.hear([Speech(" and so it goes on")] * len(alone), likelihood=True)
        for one, context, logprobs in zip(alone, contexts, heard or [], strict=True):
            one.hear([Speech(" and so it goes on")])
            assert logprobs == pytest.approx(
                full_logprobs(lm, context, lm.encode(" and so it goes on")), abs=1e-4
            )  # fmt: skip

    same()
    chosen = [0, 1, 3, 4, 7, 8, 11]  # two of each of the first groups, and one of the last
    session, alone = session.branch(chosen), [alone[row] for row in chosen]
    assert [s.repeats for s in session._cache.growing[0]._openings] == [2, 2, 1]
    same()


@pytest.mark.parametrize("sizes", [[1], [7] * 50, [1, 1000], sorted(range(5, 205)), [60] * 90 + [200] * 9 + [3168]])
def test_rows_of_like_length_are_grouped_with_little_padding(sizes: list[int]) -> None:
    groups = openings.alike(sizes)
    assert [row for group in groups for row in range(len(sizes))[group]] == list(range(len(sizes)))
    columns = sum(len(sizes[group]) * max(sizes[group]) for group in groups)
    assert columns <= 1.15 * sum(sizes)
    assert len(groups) <= 8


def test_end_of_text_ends_a_speech_and_is_not_part_of_it(make_lm: Any) -> None:
    lm = make_lm(
        "gpt2", sampling=SamplingSettings(max_new_tokens=6, min_new_tokens=2, temperature=0.0, repetition_penalty=1.0)
    )
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
    (speech,) = session.speak(keys_for(1))
    assert (speech.token_ids, speech.error) == ((), "no room in the context")  # it did not end by itself


def test_a_special_token_that_is_spelt_out_stays_text(make_lm: Any) -> None:
    lm = make_lm()
    text = f" a{lm.tokenizer.eos_token}b"
    ids = lm.encode(text)
    assert not set(ids) & set(lm.end_ids)
    assert lm.decode(ids) == text
    assert not set(lm.encode_prefix(f"x{lm.tokenizer.eos_token}", turns=1)[len(lm._opening) :]) & set(lm.end_ids)


def test_what_could_not_be_said_is_no_harmless_reply(make_lm: Any) -> None:
    lm = make_lm(context=48)
    opening = "Hello. " * 30
    session = lm.start([opening, "Hello."], turns=1)
    session.hear([Speech(" very very very very"), Speech("")])  # leaves the first row less room than a speech takes
    cut, whole = session.speak(keys_for(2))
    room = 48 - len(lm.encode_prefix(opening, turns=1)) - len(lm.encode(" very very very very"))
    assert len(cut.token_ids) <= room < lm.sampling.max_new_tokens
    assert cut.error == ("no room in the context" if len(cut.token_ids) == room else None)
    assert whole.error is None
    with torch.no_grad():
        lm.model.transformer.ln_f.weight.fill_(float("nan"))
    assert [speech.error for speech in lm.start(["a", "b"], turns=1).speak(keys_for(2))] == [
        "logits are not finite"
    ] * 2


def test_context_too_short_for_the_horizon_is_a_clear_error(make_lm: Any) -> None:
    with pytest.raises(UserError, match=r"context of 32 tokens, too short for 3 turns.*rollout\.horizon"):
        make_lm(context=32).start(["Hello."], turns=3)


def test_models_that_ignore_the_mask_are_refused(make_lm: Any, monkeypatch: Any) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("family", MOST_ARE_SLOW)
def test_shared_branches_speak_and_hear_as_copies_do(make_lm: Any, family: str) -> None:
    """Two levels of branching, ragged speeches; the copied cache is the independent route."""
    shared, copied = make_lm(family), make_lm(family)
    assert shared.shares_branches
    copied.model.set_attn_implementation("sdpa")
    copied.shares_branches = False
    outcomes = []
    for lm in (shared, copied):
        root = lm.start(PREFIXES, turns=2)
        first = root.branch([row for row in range(len(PREFIXES)) for _ in range(2)])
        spoken = first.speak(keys_for(2 * len(PREFIXES)))
        first.hear([Speech(speech.text[: 1 + i % 5]) for i, speech in enumerate(spoken)])
        second = first.branch([row for row in range(2 * len(PREFIXES)) for _ in range(3)])
        logprobs = second.hear([Speech(f" {i} yes") for i in range(6 * len(PREFIXES))], likelihood=True)
        assert logprobs is not None
        last = second.speak(keys_for(6 * len(PREFIXES), 7))
        outcomes.append((spoken, last, [value for row in logprobs for value in row]))
    assert outcomes[0][:2] == outcomes[1][:2]
    assert outcomes[0][2] == pytest.approx(outcomes[1][2], abs=1e-5)


def test_irregular_branches_of_shared_branches(make_lm: Any) -> None:
    lm = make_lm("qwen2")
    first = lm.start(PREFIXES[:3], turns=2).branch([0, 0, 1, 1, 2, 2])
    first.speak(keys_for(6))
    chosen = [5, 0, 0]
    alone = lm.start_ids([first.transcript()[row] for row in chosen])
    assert first.branch(chosen).speak(keys_for(3, 2)) == alone.speak(keys_for(3, 2))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_rows_that_have_ended_leave_the_batch(make_lm: Any, family: str, monkeypatch: Any) -> None:
    """End of text is made likely, so that rows end at different tokens; later speech must not notice."""
    sampling = SamplingSettings(max_new_tokens=10, min_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    lm = make_lm(family, sampling=sampling)
    real = lm.logits
    lift = torch.zeros(lm.vocabulary_size).index_fill(0, torch.tensor(lm.end_ids), 5.0)
    monkeypatch.setattr(lm, "logits", lambda hidden: real(hidden) + lift)
    rows = [row for row in range(len(PREFIXES)) for _ in range(2)]
    widths = []
    forward = lm.forward

    def watched(ids: Any, *rest: Any) -> Any:
        widths.append(len(ids))
        return forward(ids, *rest)

    monkeypatch.setattr(lm, "forward", watched)
    session = lm.start(PREFIXES, turns=2).branch(rows)
    contexts, keys = session.transcript(), keys_for(len(rows), 3)
    spoken = session.speak(keys)
    lengths = [len(speech.token_ids or ()) for speech in spoken]
    assert min(widths) < len(PREFIXES)
    assert len(set(lengths)) > 2
    assert spoken == [lm.start_ids([row]).speak(keys[i : i + 1])[0] for i, row in enumerate(contexts)]
    said = [(*row, *(speech.token_ids or ())) for row, speech in zip(contexts, spoken, strict=True)]
    assert session.transcript() == said
    heard = session.hear([Speech(" and then")] * len(rows), likelihood=True)
    assert heard is not None
    for context, logprobs in zip(said, heard, strict=True):
        table = real(lm.forward(*_plain([*context, *lm.encode(" and then")])))[0] + lift
        expected = table.log_softmax(-1)[len(context) - 1 :].gather(1, torch.tensor([lm.encode(" and then")]).T)
        assert list(logprobs) == pytest.approx(expected.flatten().tolist(), abs=1e-4)
    assert session.speak(keys_for(len(rows), 5)) == lm.start_ids(session_rows(said, lm)).speak(keys_for(len(rows), 5))


def _plain(row: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.tensor([row])
    return ids, torch.ones_like(ids).bool(), torch.arange(len(row))[None]


def session_rows(said: list[tuple[int, ...]], lm: LanguageModel) -> list[tuple[int, ...]]:
    return [(*row, *lm.encode(" and then")) for row in said]


def test_an_end_outside_the_vocabulary_is_no_end(make_lm: Any) -> None:
    lm = make_lm()
    lm.model.generation_config.eos_token_id = [50_256, 0]
    again = LanguageModel(lm.model, lm.tokenizer, name="odd", sampling=lm.sampling)
    assert again.end_ids == (0,)
    assert again.start(PREFIXES, turns=1).speak(keys_for(len(PREFIXES))) == lm.start(PREFIXES, turns=1).speak(
        keys_for(len(PREFIXES))
    )


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
def test_a_window_is_no_limit_of_the_context_and_counts_tokens_not_holes(tokenizer: Any, every: int) -> None:
    from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "sliding_window": 16,
    }  # fmt: skip
    if every == 1:
        model: Any = MistralForCausalLM(MistralConfig(**sizes))
    else:
        kinds = ["full_attention", "sliding_attention"]
        model = Qwen3ForCausalLM(Qwen3Config(use_sliding_window=True, layer_types=kinds, head_dim=8, **sizes))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(parameter)))
    lm = LanguageModel(model.eval(), tokenizer, name="windowed", sampling=SHORT)
    assert (lm.context, lm.masks, lm.shares_branches) == (256, "window" if every == 1 else "layers", True)
    assert model.config.sliding_window == 16
    session = lm.start(PREFIXES, turns=3).branch([row for row in range(len(PREFIXES)) for _ in range(2)])
    for turn in range(2):
        contexts = session.transcript() or []
        spoken = [Speech(text[: 5 + 9 * (turn + i) % 40]) for i, text in enumerate(PREFIXES * 2)]
        for context, said, logprobs in zip(contexts, spoken, session.hear(spoken, likelihood=True) or [], strict=True):
            assert list(logprobs) == pytest.approx(full_logprobs(lm, context, lm.encode(said.text)), abs=1e-4)
        session.speak(keys_for(2 * len(PREFIXES), turn))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cached", "stepwise", "anew"])
def test_rows_that_run_alone_say_hear_and_branch_as_others_do(make_lm: Any, how: Any) -> None:
    """The way of recurrent models, whose states cannot have holes; here with a model that can do both."""
    together, alone = make_lm("llama"), make_lm("llama")
    alone.alone, alone.packs = how, False
    outcomes = []
    for lm in (together, alone):
        root = lm.start(PREFIXES[:3], turns=2)
        first = root.branch([0, 0, 2, 1])
        heard = first.hear([Speech(" a b c d e"), Speech(" a"), Speech(""), Speech(" yes")], likelihood=True)
        spoken = first.speak(keys_for(4))
        last = first.branch([3, 0, 0]).speak(keys_for(3, 2))
        values = [value for row in heard or [] for value in row]
        outcomes.append((spoken, last, root.speak(keys_for(3, 4)), values))
    assert outcomes[0][:3] == outcomes[1][:3]
    assert outcomes[0][3] == pytest.approx(outcomes[1][3], abs=1e-5)
    pairs = [((5, 9, 17, 3), (7, 8)), ((5, 9), (30, 31, 32))]
    sums = [sequence_logps(lm, pack(pairs, share=lm.packs)) for lm in (together, alone)]
    assert torch.allclose(*sums, atol=1e-5)
    assert sums[1].requires_grad


def test_a_model_that_takes_one_row_at_a_time_says_so(tokenizer: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(capabilities, "_routes", lambda config: iter([("eager", "valid", False, "cached")]))
    caplog.set_level("INFO", "astprompter")
    LanguageModel(make_model("gpt2", len(tokenizer)), tokenizer, name="slow", sampling=SHORT)
    assert "note: 'slow' cannot compute texts of unequal length together, so each row is computed alone" in caplog.text


def test_with_long_rope_no_row_changes_the_factors_of_another(tokenizer: Any, caplog: Any) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = Phi3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, original_max_position_embeddings=64, rope_parameters=rope, pad_token_id=0,
    )  # fmt: skip
    caplog.set_level("INFO", "astprompter")
    lm = LanguageModel(Phi3ForCausalLM(config).eval(), tokenizer, name="long", sampling=SHORT)
    assert lm.context == 64
    assert "note: 64 of 256 tokens of context are used: beyond, the rotary factors" in caplog.text
    said = [Speech(" and so on"), Speech(" it is")]
    texts = ["Hello.", "What a day! " * 30]
    together = lm.start(texts, turns=1).hear(said, likelihood=True) or []
    for text, speech, values in zip(texts, said, together, strict=True):
        alone = (lm.start([text], turns=1).hear([speech], likelihood=True) or [])[0]
        assert list(values) == pytest.approx(list(alone), abs=1e-5)


def test_the_head_is_the_model_s_own(tokenizer: Any) -> None:
    from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    for model in (
        CohereForCausalLM(CohereConfig(logit_scale=0.0625, **sizes)),
        GraniteForCausalLM(GraniteConfig(logits_scaling=8.0, **sizes)),
    ):
        lm = LanguageModel(model.eval(), tokenizer, name="scaled", sampling=SHORT)
        ids = torch.tensor([lm.encode(PREFIXES[0])])
        with torch.no_grad():
            wanted = model(input_ids=ids).logits
            states = lm.forward(ids, torch.ones_like(ids).bool(), torch.arange(ids.size(1))[None])
            assert torch.allclose(lm.logits(states), wanted, atol=1e-6)
            assert not torch.allclose(model.get_output_embeddings()(states), wanted, atol=1e-2)
        assert lm.shares_branches
        assert lm.packs


def nucleus_draw(logits: list[float], uniform: float, temperature: float, top_p: float) -> int:
    """Textbook top-p over the sorted vocabulary, in double precision."""
    table = torch.tensor(logits, dtype=torch.float64).div(temperature).softmax(0).tolist()
    order = sorted(range(len(logits)), key=lambda i: -table[i])
    kept, mass = [], 0.0
    for token in order:
        if mass >= top_p:
            break
        kept.append(token)
        mass += table[token]
    reached = 0.0
    for token in kept:
        reached += table[token]
        if reached > uniform * mass:
            return token
    return kept[-1]


@pytest.mark.parametrize(
    ("size", "spread"),
    [
        (50, 1.0),
        (900, 4.0),
        (900, 0.01),
        (8_000, 1.5),
        *(pytest.param(40_000, s, marks=pytest.mark.slow) for s in (3, 0.3)),
    ],
)
@pytest.mark.parametrize("top_p", [0.7, 1.0])
def test_sampling_is_exact_top_p_for_narrow_and_wide_nuclei(size: int, spread: float, top_p: float) -> None:
    random = torch.Generator().manual_seed(size)
    logits = torch.randn(4, size, generator=random) * spread
    logits[0, 5] = -torch.inf
    uniforms = torch.rand(4, generator=random, dtype=torch.float64)
    expected = [nucleus_draw(row, float(u), 0.7, top_p) for row, u in zip(logits.tolist(), uniforms, strict=True)]
    tokens, sound = sample(logits.clone(), uniforms, temperature=0.7, top_p=top_p)
    assert sound.all()
    chosen = torch.tensor(expected)[:, None]
    # Float32 sums may move a boundary between two neighbours; the drawn token then has nearly the same probability.
    gap = (logits.gather(1, tokens[:, None]) - logits.gather(1, chosen)).abs()
    assert float(gap.max()) < 1e-3 * max(1.0, spread)


def test_rows_without_a_distribution_are_said_to_be_unsound() -> None:
    logits = torch.zeros(3, 40)
    logits[0] = -torch.inf
    logits[1, 7] = torch.nan
    for temperature in (0.0, 0.7):
        _, sound = sample(logits.clone(), torch.full((3,), 0.5).double(), temperature=temperature, top_p=0.7)
        assert sound.tolist() == [False, False, True]


def test_waves_fit_in_a_quarter_of_free_memory(make_lm: Any, monkeypatch: Any) -> None:
    lm = make_lm("llama")
    # 2 layers, 2 of 4 heads hold keys, 8 wide; turns of 12 tokens; prefix 256 - 3 * 12 = 220; 8 leaves.
    cache = (220 + 12 * (2 + 4 + 8)) * 2 * 2 * 2 * 8 * 4
    chunk = 8 * 12 * (8 * 32 + 2 * 4 * 256) * 4
    assert lm.bytes_per_tree(horizon=3, branching=2)["cpu"] == cache + chunk + 8 * 2 * lm.vocabulary_size * 4
    need = 2 * lm.bytes_per_tree(horizon=3, branching=2)["cpu"]
    for free, expected in ((4 * 5 * need, 5), (0, 1), (10**15, 64)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.trees_that_fit([lm, lm], horizon=3, branching=2) == expected
