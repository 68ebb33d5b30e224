"""The blended speaker on tiny models: who speaks, what is told of it, and that gamma = 0 is Monte Carlo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from astprompter.base.errors import UserError
from astprompter.base.randomness import key_of
from astprompter.base.records import Speech
from astprompter.config import SamplingSettings, settings_from
from astprompter.evaluation.evaluate import measure
from astprompter.models.local.chat import ChatModel
from astprompter.probability.conversations import converse
from astprompter.probability.densities import Proposal, densities
from astprompter.probability.events import Event
from astprompter.probability.speaker import BlendedModel
from helpers.evaluations import OPENINGS
from helpers.tiny import SHORT, WordScorer, keys_for, make_chat_tokenizer, make_model, make_tokenizer

PROPOSALS = [Proposal(0, 0.0), Proposal(0, 0.5), Proposal(0, 1.0)]


class Even:
    """Every other reply fails."""

    name = "even"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [float(len(text) % 2 == 0) for text in texts]


@pytest.mark.slow
@given(
    seed=st.integers(0, 10_000), top_p=st.floats(0.05, 1.0), temperature=st.floats(0.2, 2.0),
    penalty=st.floats(0.5, 2.0), gamma=st.floats(-1.0, 2.0), spread=st.floats(0.1, 30.0),
)  # fmt: skip
def test_supports_are_equal_and_weights_have_mean_one(
    seed: int, top_p: float, temperature: float, penalty: float, gamma: float, spread: float
) -> None:
    torch.manual_seed(seed)
    size = 1 + seed % 300
    reference, adversary = spread * torch.randn(3, 1 + size), spread * torch.randn(3, 1 + size)
    found = densities(
        reference, [adversary], torch.randint(0, size, (3, 5)), banned=torch.tensor([size]),
        sampling=SamplingSettings(top_p=top_p, temperature=temperature, repetition_penalty=penalty),
        proposals=[Proposal(0, gamma)],
    )  # fmt: skip
    assert found.sound.all()
    natural, proposal = found.natural, found.proposals[:, 0]
    assert torch.equal(natural.isfinite(), proposal.isfinite())
    assert torch.equal(natural.isfinite(), found.masses > 0)
    assert not (found.tokens[found.masses > 0] == size).any()  # what is banned is in neither
    for logs in (natural, proposal):
        assert logs.exp().sum(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    ratio = torch.where(natural.isfinite(), proposal + (natural - proposal), -torch.inf)
    assert ratio.exp().sum(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_without_the_adversary_conversations_are_those_of_an_evaluation(make_lm: Any, batch: int) -> None:
    """Natural speech, and a proposal of gamma = 0, say what evaluate's untuned speaker says, word for word."""
    settings = settings_from({"rollout": {"horizon": 3, **SHORT.model_dump()}})
    natural, other, defender = make_lm(), make_lm(seed=3), make_lm(seed=1)
    expected = measure({"untuned": natural}, defender, WordScorer(), OPENINGS, settings).trajectories["untuned"]
    keys = np.array([key_of(settings.seed, "evaluation", prefix.id) for prefix in OPENINGS], dtype=np.uint64)
    speaker = BlendedModel(natural, [other], PROPOSALS)
    for voice in (-1, 0):
        found: list[Any] = []
        for start in range(0, len(OPENINGS), batch):
            part = slice(start, start + batch)
            texts = [prefix.text for prefix in OPENINGS[part]]
            found += converse(
                speaker, defender, Event(WordScorer(), 1.0), texts, np.full((len(texts), 3), voice), keys[part],
                replies=1,
            )  # fmt: skip
        for path, turns in zip(expected, found, strict=True):
            assert [turn.utterance.text for turn in path.turns] == [said.utterance for said in turns]
            assert [turn.reply.text for turn in path.turns] == [said.replies[0] for said in turns]
            assert [turn.tox_reply for turn in path.turns] == [said.scores[0] for said in turns]
            assert all(said.ratios[0] == pytest.approx(0.0, abs=1e-9) for said in turns)


def test_every_density_is_told_whoever_speaks(make_lm: Any) -> None:
    """Against plain forward passes of both models over what was said."""
    natural, other = make_lm(), make_lm(seed=3)
    speaker = BlendedModel(natural, [other], PROPOSALS)
    texts = [prefix.text for prefix in OPENINGS[:4]]
    session = speaker.start(texts, turns=1)
    before = session.transcript()
    speeches, ratios, own = session.speak_as(keys_for(4), np.array([-1, 1, 2, -1]))
    for row, speech in enumerate(speeches):
        ids = [*before[row], *(speech.token_ids or ())]
        said = list(speech.token_ids or ())
        if len(said) < SHORT.max_new_tokens:
            said.append(0)
        expected = np.zeros(3)
        total = 0.0
        with torch.no_grad():
            states = [lm.model(torch.tensor([ids])).logits[0].float() for lm in (natural, other)]
        for count, token in enumerate(said):
            place = len(before[row]) + count
            found = densities(
                states[0][place - 1][None].clone(), [states[1][place - 1][None].clone()], torch.tensor([ids[:place]]),
                sampling=SHORT, proposals=PROPOSALS,
                banned=natural.banned if count >= SHORT.min_new_tokens else natural.banned_early,
            )  # fmt: skip
            at = found.tokens[0].tolist().index(token)
            total += float(found.natural[0, at])
            expected += (found.proposals[0, :, at] - found.natural[0, at]).numpy()
        assert own[row] == pytest.approx(total, abs=1e-3)
        assert ratios[row] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_under_a_chat_template_densities_are_those_of_the_messages() -> None:
    """Conversations are an evaluation's, word for word, and densities those of plain passes over all that was said."""
    settings = settings_from({"rollout": {"horizon": 2, **SHORT.model_dump()}})
    tokenizer = make_chat_tokenizer()

    def chat(role: Any, seed: int) -> ChatModel:
        model = make_model("llama", len(tokenizer), seed=seed)
        return ChatModel(model, tokenizer, role=role, name=f"{role} {seed}", sampling=SHORT)

    natural, other, defender = chat("adversary", 0), chat("adversary", 3), chat("defender", 1)
    expected = measure({"untuned": natural}, defender, WordScorer(), OPENINGS[:4], settings).trajectories["untuned"]
    keys = np.array([key_of(settings.seed, "evaluation", prefix.id) for prefix in OPENINGS[:4]], dtype=np.uint64)
    texts = [prefix.text for prefix in OPENINGS[:4]]
    for proposals in (PROPOSALS, [Proposal(0, 1.0)]):
        speaker = BlendedModel(natural, [other], proposals)
        found = converse(
            speaker, defender, Event(WordScorer(), 1.0), texts, np.full((4, 2), -1), keys, replies=1
        )  # fmt: skip
        for path, turns in zip(expected, found, strict=True):
            assert [turn.utterance.text for turn in path.turns] == [said.utterance for said in turns]
            assert [turn.reply.text for turn in path.turns] == [said.replies[0] for said in turns]
    session = speaker.start(texts, turns=2)
    before = session.transcript()
    speeches, ratios, own = session.speak_as(keys_for(4), np.array([-1, 0, 0, -1]))
    for row, speech in enumerate(speeches):
        assert before[row] == natural.prompt_of(natural.encode_prefix(texts[row], turns=2))
        said = list(speech.token_ids or ())
        ids = torch.tensor([[*before[row], *said]])
        with torch.no_grad():
            states = [lm.model(ids).logits[0].float() for lm in (natural, other)]
        totals = []
        for ends in [()] if len(said) == SHORT.max_new_tokens else [(end,) for end in natural.end_ids]:
            total, apart = 0.0, 0.0
            for count, token in enumerate([*said, *ends]):
                place = len(before[row]) + count
                at = densities(
                    states[0][place - 1][None].clone(), [states[1][place - 1][None].clone()], ids[:, :place],
                    sampling=SHORT, proposals=[Proposal(0, 1.0)],
                    banned=natural.banned if count >= SHORT.min_new_tokens else natural.banned_early,
                )  # fmt: skip
                where = at.tokens[0].tolist().index(token)
                total += float(at.natural[0, where])
                apart += float(at.proposals[0, 0, where] - at.natural[0, where])
            totals.append((total, apart))
        assert any(
            own[row] == pytest.approx(total, abs=1e-3) and ratios[row, 0] == pytest.approx(apart, abs=1e-3)
            for total, apart in totals
        )


@pytest.mark.slow
def test_it_hears_and_branches_like_any_session(make_lm: Any) -> None:
    speaker = BlendedModel(make_lm(), [make_lm(seed=3)], PROPOSALS)
    session = speaker.start([prefix.text for prefix in OPENINGS[:3]], turns=2)
    session.speak(keys_for(3))
    session.hear([Speech(" yes"), Speech(" no, not at all"), Speech(" maybe")])
    rows = session.transcript()
    branched = session.branch([2, 0, 2])
    voices = np.array([1, 2, -1])
    got = branched.speak_as(keys_for(3, 1), voices)
    alone = speaker.start_ids([rows[2], rows[0], rows[2]]).speak_as(keys_for(3, 1), voices)
    assert got[0] == alone[0]
    assert got[1] == pytest.approx(alone[1], abs=1e-4)


def test_several_replies_go_on_from_a_clean_one(make_lm: Any) -> None:
    speaker, texts = BlendedModel(make_lm(), [], []), [prefix.text for prefix in OPENINGS]
    found = converse(
        speaker, make_lm(seed=1), Event(Even(), 0.5), texts, np.full((len(texts), 2), -1), keys_for(len(texts)),
        replies=2,
    )  # fmt: skip
    assert any(len(turns) == 1 for turns in found)
    assert any(len(set(said.replies)) > 1 for turns in found for said in turns)
    for turns in found:
        for said in turns:
            assert len(said.replies) == 2
            assert said.goes_on is None or said.scores[said.goes_on] <= 0.5
        assert len(turns) == 2 or turns[-1].goes_on is None


def test_what_cannot_be_weighed_is_refused(make_lm: Any) -> None:
    greedy = SamplingSettings(temperature=0.0)
    with pytest.raises(UserError, match="temperature"):
        BlendedModel(make_lm(sampling=greedy), [], [])
    with pytest.raises(UserError, match="another vocabulary"):
        BlendedModel(make_lm(), [make_lm(tokenizer=make_tokenizer(290))], [])
