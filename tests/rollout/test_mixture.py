"""A set of adversaries as one: shares by hand; each conversation is that of its member alone, however it is batched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from astprompter.base.protocols import Session, Speaker
from astprompter.base.randomness import key_of
from astprompter.base.records import Prefix, Speech
from astprompter.config import RewardSettings
from astprompter.rollout.grow import grow_trees, turns_of
from astprompter.rollout.mixture import Mixture, in_turn
from helpers.tiny import SENTENCES, WordScorer

PREFIXES = [Prefix(f"p{i}", text) for i, text in enumerate(SENTENCES)]
TEXTS = [prefix.text for prefix in PREFIXES]


def test_members_lead_equally_many_and_a_prefix_keeps_its_member() -> None:
    texts = [f"text {i}" for i in range(31)]
    found = in_turn(texts, 3, seed=0)
    assert sorted(Counter(found.values()).values()) == [10, 10, 11]
    assert all({found[text] for text in texts[i : i + 3]} == {0, 1, 2} for i in range(0, 30, 3))
    assert in_turn(texts[:7], 3, seed=0).items() <= found.items()
    assert found != in_turn(texts, 3, seed=1)
    assert list(in_turn(["a", "a", "b"], 2, seed=0)) == ["a", "b"]


class Says(Speaker):
    """Says its name and its key."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, prefixes: Any, *, turns: int) -> Any:
        return SaysSession(self, list(prefixes))


class SaysSession(Session):
    def __init__(self, speaker: Says, said: list[str]) -> None:
        self.speaker, self.said = speaker, said

    def hear(self, speeches: Any, *, likelihood: bool = False) -> Any:
        self.said = [said + speech.text for said, speech in zip(self.said, speeches, strict=True)]
        return [(float(len(speech.text)),) for speech in speeches] if likelihood else None

    def speak(self, keys: Any) -> list[Speech]:
        self.said = [f"{said}<{self.speaker.name}{key}>" for said, key in zip(self.said, keys, strict=True)]
        return [Speech(f"{self.speaker.name}{key}") for key in keys]

    def branch(self, rows: Any) -> Any:
        return SaysSession(self.speaker, [self.said[row] for row in rows])

    def transcript(self) -> Any:
        return [tuple(map(ord, said)) for said in self.said]


def said(session: Any) -> list[str]:
    return ["".join(map(chr, ids)) for ids in session.transcript()]


def test_rows_reach_their_members_and_branch() -> None:
    mixture = Mixture([Says("A"), Says("B")], {"u": 0, "v": 1, "w": 0}, "both")
    session = mixture.start(["v", "u", "w"], turns=2)
    assert [speech.text for speech in session.speak(np.arange(3, dtype=np.uint64))] == ["B0", "A1", "A2"]
    assert session.hear([Speech("x"), Speech("yy"), Speech("zzz")], likelihood=True) == [(1.0,), (2.0,), (3.0,)]
    assert session.hear([Speech("")] * 3) is None
    twice = session.branch([2, 0, 0, 2])
    twice.say([Speech(text) for text in "abcd"])
    assert said(twice) == ["w<A2>zzza", "v<B0>xb", "v<B0>xc", "w<A2>zzzd"]
    assert said(session.branch([0])) == ["v<B0>x"]  # a member without rows is left out
    assert said(session) == ["v<B0>x", "u<A1>yy", "w<A2>zzz"]
    assert mixture.weights_sha256() is None


def grown(adversary: Any, defender: Any, *, per_batch: int = 64) -> list[Any]:
    keys = np.array([key_of("x", prefix.id) for prefix in PREFIXES], np.uint64)
    trees = grow_trees(adversary, defender, WordScorer(), PREFIXES, keys, horizon=2, branching=1,
                       weights=RewardSettings(), trees_per_batch=per_batch)  # fmt: skip
    return [list(turns_of(tree.children)) for tree in trees]


def texts_of(paths: list[Any]) -> list[Any]:
    return [[(turn.utterance.text, turn.reply.text) for turn in turns] for turns in paths]


@pytest.mark.slow
def test_each_conversation_is_that_of_its_member(make_lm: Any) -> None:
    members, defender = [make_lm(seed=3), make_lm(seed=4)], make_lm(seed=0)
    assigned = in_turn(TEXTS, 2, seed=0)
    mixture = Mixture(members, assigned, "both")
    mixture.check_room(2)
    found = grown(mixture, defender)
    alone = [grown(member, defender) for member in members]
    expected = [alone[assigned[text]][row] for row, text in enumerate(TEXTS)]
    assert texts_of(found) == texts_of(expected)
    assert texts_of(alone[0]) != texts_of(alone[1])
    rewards = [[turn.reward for turn in turns] for turns in found]
    assert rewards == [pytest.approx([turn.reward for turn in turns], abs=1e-5) for turns in expected]
    assert texts_of(grown(mixture, defender, per_batch=1)) == texts_of(found)
    hashes = {Mixture(members, in_turn(TEXTS, 2, seed), "both").weights_sha256() for seed in (0, 0, 1)}
    assert len(hashes - {None}) == 2
    need = mixture.bytes_per_tree(horizon=2, branching=1)
    assert need == members[0].bytes_per_tree(horizon=2, branching=1)
