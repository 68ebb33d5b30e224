"""Novelty of failures by hand arithmetic; a run that goes on with the failures that it found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.records import Node, Prefix, RolloutTree, Speech, Turn
from astprompter.base.vectors import hashed_vectors
from astprompter.config import NoveltySettings, settings_from
from astprompter.rollout.pairs import pairs_of_tree
from astprompter.runs.directory import ARCHIVE
from astprompter.training.metrics import tree_row
from astprompter.training.novelty import Archive, novel_rewards
from helpers.files import read_rows
from helpers.trainers import begun, settings, trainer


def node(text: str, tox: float = 1.0, reward: float = 0.5) -> Node:
    return Node(Turn(Speech(text), Speech("yes"), 1.0, (), 0.0, tox, tox, reward), (1,))


def cosine(a: str, b: str) -> float:
    first, second = hashed_vectors([a, b])
    return float(first @ second)


def test_a_failure_like_archived_ones_is_worth_less() -> None:
    archive = Archive(10, ["the red goose", "the blue goose", "a kettle"])
    tree = RolloutTree(Prefix("p", "x"), [node("the red goose", 0.8), node("bread and butter", 0.8)])
    rewards = novel_rewards([tree], archive, NoveltySettings(weight=0.5, nearest=2))
    near = (1 + cosine("the red goose", "the blue goose")) / 2
    assert rewards(tree.children[0]) == pytest.approx(0.5 - 0.5 * 0.8 * near)
    far = sorted(cosine("bread and butter", text) for text in ("the red goose", "the blue goose", "a kettle"))[-2:]
    assert rewards(tree.children[1]) == pytest.approx(0.5 - 0.5 * 0.8 * sum(far) / 2)


def test_a_turn_like_an_earlier_one_of_its_conversation_is_worth_less() -> None:
    first, second, third = node("a red goose"), node("a red geese"), node("a kettle")
    first.children, second.children = [second], [third]
    rewards = novel_rewards([RolloutTree(Prefix("p", "x"), [first])], Archive(9), NoveltySettings(repeat=0.25))
    assert rewards(first) == 0.5
    assert rewards(second) == pytest.approx(0.5 - 0.25 * cosine("a red goose", "a red geese"))
    most = max(cosine("a kettle", text) for text in ("a red goose", "a red geese"))
    assert rewards(third) == pytest.approx(0.5 - 0.25 * most)


def test_the_tree_that_is_kept_shows_what_training_learnt_from() -> None:
    def spoken(text: str, token: int, reward: float) -> Node:
        return Node(Turn(Speech(text, (token,)), Speech("yes"), 1.0, (-1.0,), 0.0, 1.0, 1.0, reward), (1,))

    children = [spoken("the red goose", 1, 0.6), spoken("a kettle", 2, 0.5)]
    children[1].children = [spoken("bread", 3, 0.5), spoken("butter", 4, 0.5)]
    tree, archive = RolloutTree(Prefix("p", "x"), children), Archive(9, ["the red goose"])
    for weight, kind, choices in (
        (0.0, "ipo", ["chosen", "rejected", None, None]),
        (0.5, "ipo", ["rejected", "chosen", None, None]),  # novelty turned the pair round
        (0.5, "margin", ["rejected", "chosen", "chosen", "rejected"]),  # a tie gives a pair too
    ):
        chosen = settings_from({"loss": {"kind": kind}})
        reward = novel_rewards([tree], archive, NoveltySettings(weight=weight, nearest=1))
        assert [node.choice for node in tree_row(1, tree, chosen, reward).nodes] == choices
        pairs = pairs_of_tree(tree, ties=kind == "margin", reward=reward)
        assert [pair.chosen_text for pair in pairs] == [
            node.utterance for node in tree_row(1, tree, chosen, reward).nodes if node.choice == "chosen"
        ]


def test_the_archive_keeps_the_last_ones_and_few_weigh_little() -> None:
    archive = Archive(2)
    vectors = hashed_vectors(["one two three"])
    assert archive.likeness(vectors, 4).tolist() == [0.0]
    archive.add(["one two three"])
    assert archive.likeness(vectors, 4).tolist() == [pytest.approx(0.25)]
    archive.add(["four five", "six seven"])
    assert len(archive) == 2
    assert archive.likeness(vectors, 1)[0] < 0.3


def test_what_has_no_reward_keeps_none() -> None:
    tree = RolloutTree(Prefix("p", "x"), [node("x", math.nan, math.nan)])
    assert math.isnan(novel_rewards([tree], Archive(5, ["x"]), NoveltySettings(weight=1))(tree.children[0]))


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_failures_that_it_found(tmp_path: Path, tokenizer: Any) -> None:
    values = settings(updates=6, dev_every=100, replies=2).as_dict()
    values |= {"novelty": {"weight": 0.5, "repeat": 0.1, "archive": 50}, "evaluation": {"threshold": 0.0}}
    values |= {"loss": {"kind": "margin", "eta": 0.5}, "supervision": {"q": 0.3}}
    chosen = settings_from(values)
    straight = trainer(tmp_path / "a", tokenizer, chosen)
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, chosen)
    begun(broken, measured=False)
    broken.iterate()  # what it finds is dropped, and found again
    resumed = trainer(tmp_path / "b", tokenizer, chosen, resume=True)
    assert len(resumed.archive) == sum(row["iteration"] == 1 for row in read_rows(tmp_path / "b" / ARCHIVE))
    resumed.run()
    rows = [list(read_rows(folder / ARCHIVE)) for folder in (tmp_path / "a", tmp_path / "b")]
    assert rows[0] == rows[1] != []
    assert [row.likeness for row in straight.directory.log()] == [row.likeness for row in resumed.directory.log()]
    assert any(row.likeness for row in straight.directory.log())
