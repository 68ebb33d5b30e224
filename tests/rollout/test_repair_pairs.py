"""What a repair is made of: which turns fail, in what order they are taken, which replies make a pair."""

from __future__ import annotations

import math
from typing import Any

from astprompter.base.records import Node, Prefix, RolloutTree, Speech, Turn
from astprompter.models.local.chat import ChatModel
from astprompter.rollout.failing import Failure, failures_in, kinds_first
from astprompter.rollout.repair import Conversation, Drawn, Repair, case_of, draw_replies, repairs
from helpers.tiny import PREFIXES, SHORT, make_chat_tokenizer, make_model

TABLE = {" plum": 0.0, " so-so": 0.4, " pear": 0.9, " odd": math.nan}


class Table:
    def __init__(self, name: str = "table", **changed: float) -> None:
        self.name, self.values = name, TABLE | {f" {word}": value for word, value in changed.items()}

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        assert all(isinstance(context, tuple) for context in contexts)
        return [self.values[text] for text in texts]


def drawn(*replies: Speech | str) -> Drawn:
    said = ("Hello.", " how are you")
    return Drawn(said, (1, 2), tuple(one if isinstance(one, Speech) else Speech(one, (9,)) for one in replies))


def test_the_least_toxic_reply_is_chosen_and_never_a_failure_nor_blank() -> None:
    both = drawn(" pear", " so-so", " plum", "  ", Speech(" plum", error="cut"), " odd", " pear")
    found = repairs([both, drawn(" pear", "  "), drawn(" plum", " so-so")], [Table()], threshold=0.5)
    assert isinstance(found[0], Repair)
    assert (found[0].chosen.text, found[0].rejected.text) == (" plum", " pear")
    assert (found[0].chosen_toxicity, found[0].rejected_toxicity, found[0].candidates) == (0.0, 0.9, 3)
    assert found[1:] == ["without a harmless reply", "without a toxic reply"]


def test_several_scorers_must_agree_on_both_sides() -> None:
    second = Table(plum=0.6)  # it calls the least toxic reply of the first one toxic
    (found,) = repairs([drawn(" pear", " so-so", " plum")], [Table(), second], threshold=0.5)
    assert isinstance(found, Repair)
    assert (found.chosen.text, found.rejected.text) == (" so-so", " pear")
    doubting = Table(pear=0.3)
    assert repairs([drawn(" pear", " plum")], [Table(), doubting], threshold=0.5) == ["without a toxic reply"]


def tree(name: str, *scores: tuple[float, float], words: str = "pear") -> RolloutTree:
    """A conversation whose turns have these toxicities of utterance and reply."""
    grown = RolloutTree(Prefix(name, f"The opening of {name}."))
    children = grown.children
    for number, (utterance, reply) in enumerate(scores):
        back = " ".join(reversed(words.split()))  # of what a reply copies nothing counts
        said = Speech(f" {name} asks {words} {number}"), Speech(f" {back} said {name} in turn {number}")
        node = Node(Turn(*said, 1.0, (), utterance, reply, 0.0, 0.0), None)
        children.append(node)
        children = node.children
    return grown


def test_every_failing_turn_with_what_came_before_it() -> None:
    trees = [tree("a", (0.1, 0.1), (0.1, 0.9), (0.1, 0.8)), tree("b", (0.3, 0.9)), tree("c", (0.0, math.nan))]
    found, known = failures_in(trees, ["x", "y", "x"], [], first=40, threshold=0.5, clean=0.2)
    assert known == 4  # one of five replies has no score
    assert [(one.prefix_id, one.turn, one.adversary, one.clean) for one in found] == [
        ("a", 2, "x", True), ("a", 3, "x", False), ("b", 1, "y", False),
    ]  # fmt: skip
    first = found[0].conversation
    assert (first.names, len(first.utterances), len(first.replies)) == ((40, 2), 2, 2)
    assert first.replies[-1].text == " pear said a in turn 1"
    assert found[0].case == case_of("The opening of a.", [" a asks pear 0", " a asks pear 1"])

    class Doubting:
        name = "doubting"

        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            assert contexts[0] == ("The opening of a.", " a asks pear 0", " pear said a in turn 0",
                                   " a asks pear 1")  # fmt: skip
            return [0.1 if "turn 2" in text else 0.9 for text in texts]

    kept, same = failures_in(trees, ["x", "y", "x"], [Doubting()], first=40, threshold=0.5, clean=0.2)
    assert [(one.prefix_id, one.turn) for one in kept] == [("a", 2), ("b", 1)]
    assert same == known

    class Silent(Doubting):
        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [math.nan for _ in texts]

    # What a silent scorer says nothing of is neither a failure nor harmless; what another one cleared is harmless.
    for others, verdicts in (([Silent()], known - 3), ([Silent(), Doubting()], known - 2)):
        assert failures_in(trees, ["x", "y", "x"], others, first=40, threshold=0.5, clean=0.2) == ([], verdicts)


def failures(*kinds: tuple[str, bool]) -> list[Failure]:
    trees = [tree("abcdefgh"[i], (0.1 if clean else 0.4, 0.9), words=words) for i, (words, clean) in enumerate(kinds)]
    return failures_in(trees, ["x"] * len(trees), [], first=0, threshold=0.5, clean=0.2)[0]


def test_one_of_each_kind_comes_first_and_clean_ones_in_proportion() -> None:
    same, other = "pear and pear and pear again", "quite another matter altogether"
    found = failures((same, False), (same, False), (same, False), (other, False))
    assert [one.prefix_id for one in kinds_first(found, 2)] == ["a", "d"]
    assert [one.prefix_id for one in kinds_first(found, 9)] == ["a", "d", "b", "c"]
    mixed = failures(*[(f"{'xyzvwqkj'[i] * 9} {'mnoprstu'[i] * 8}", i < 2) for i in range(8)])
    for most, clean in ((4, 1), (8, 2), (2, 0)):
        chosen = kinds_first(mixed, most)
        assert (len(chosen), sum(one.clean for one in chosen)) == (most, clean)
    assert kinds_first([], 4) == []


def test_replies_answer_exactly_what_was_heard(make_lm: Any) -> None:
    lm = make_lm()
    session = lm.start([PREFIXES[0]], turns=2)
    said, replied = (Speech(" so it is", lm.encode(" so it is"), lm.vocabulary),) * 2, Speech(" odd", (70, 71), "x")
    session.hear(said[:1])
    session.say([replied])
    session.hear(said[1:])
    expected = session.transcript()
    attack = Conversation((1, 2), PREFIXES[0], said, (replied, Speech(" no")))
    whole = draw_replies([attack] * 2, lm, samples=3, seed=0)
    assert [list(one.prompt_ids or ()) for one in whole] == [list(row) for row in expected * 2]
    assert [len(one.replies) for one in whole] == [4, 4]
    assert whole[0] == draw_replies([attack], lm, samples=3, seed=0, trees_per_batch=1)[0]


def test_a_chat_defender_learns_under_its_template() -> None:
    tokenizer = make_chat_tokenizer()
    lm = ChatModel(make_model("llama", len(tokenizer)), tokenizer, role="defender", sampling=SHORT, name="chat")
    said, replied = (Speech(" and so"), Speech(" well")), (Speech(" Hm."), Speech(" no"))
    (found,) = draw_replies([Conversation(("a",), PREFIXES[0], said, replied)], lm, samples=2, seed=0)
    messages = [{"role": "user", "content": PREFIXES[0] + " and so"}, {"role": "assistant", "content": "Hm."},
                {"role": "user", "content": "well"}]  # fmt: skip
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(found.prompt_ids or ()) == rendered
    assert all(reply.token_ids for reply in found.replies[1:])
