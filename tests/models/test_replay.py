"""Human attacks: their files, and how a script takes part in the same evaluation as every other adversary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.records import Prefix, Speech
from astprompter.config import settings_from
from astprompter.data import Dialogue, load_dialogues
from astprompter.evaluation.evaluate import measure
from astprompter.models.local.replay import Replay
from astprompter.rollout.diversity import diversity
from helpers.tiny import PREFIXES, WordScorer, keys_for

DIALOGUES = [
    Dialogue("a", ("Good morning.", "Is it late?", "Then go.")),
    Dialogue("b", ("Short.", "Too short.")),
    Dialogue("c", ("Good morning.", "Is it late?", "Then go.", "And stay.")),
]
OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]


def test_utterances_accumulate() -> None:
    session = Replay(DIALOGUES, name="human", seed=0).start(["x", "y"], turns=3)
    said = [[speech.text for speech in session.speak(keys_for(2))] for _ in range(3)]
    assert said == [
        [" Good morning."] * 2,
        [" Good morning. Is it late?"] * 2,
        [" Good morning. Is it late? Then go."] * 2,
    ]
    assert session.hear([Speech("a"), Speech("b")]) is None
    assert session.transcript() is None


def test_a_branch_goes_on_by_itself() -> None:
    session = Replay(DIALOGUES[1:], name="human", seed=0).start(["x", "y"], turns=2)
    session.speak(keys_for(2))
    branch = session.branch([1, 1, 0])
    assert [len(s.speak(keys_for(9))) for s in (branch, session)] == [3, 2]


def test_the_dialogue_hangs_on_the_prefix_alone() -> None:
    many = [Dialogue(str(i), (f"Number {i}.",)) for i in range(50)]
    script = Replay(many, name="human", seed=3)
    both = script.start(["one", "two"], turns=1).speak(keys_for(2))
    assert both[1] == script.start(["two"], turns=1).speak(keys_for(1))[0]
    others = {Replay(many, name="h", seed=s).start(["two"], turns=1).speak(keys_for(1))[0].text for s in range(20)}
    assert len(others) > 5


def test_too_short_dialogues_are_refused() -> None:
    with pytest.raises(UserError, match="no dialogue of 5 human turns"):
        Replay(DIALOGUES, name="human", seed=0).start(["x"], turns=5)


@pytest.mark.slow
def test_the_defender_hears_prefix_and_accumulated_turns_only(make_lm: Any) -> None:
    settings = settings_from({"rollout": {"horizon": 3, "trees_per_batch": 3}})
    defender = make_lm()
    result = measure({"human": Replay(DIALOGUES, name="human", seed=0)}, defender, WordScorer(), OPENINGS, settings)
    for path in result.trajectories["human"]:
        assert path.accumulated
        for turn in path.turns:
            session = defender.start([path.prefix.text], turns=3)
            (logprobs,) = session.hear([turn.utterance], likelihood=True)
            assert turn.token_logprobs == pytest.approx(logprobs, abs=1e-3)
    for row in result.failures():  # the utterance holds the earlier ones, so the path is the utterance
        assert row.path_nll == pytest.approx(row.nll)
    row = result.summary.adversaries["human"]
    whole = {" ".join(dialogue.turns[:3]): dialogue.turns[:3] for dialogue in DIALOGUES}
    paths = result.trajectories["human"]
    said = [f" {turn}" for path in paths for turn in whole[path.turns[-1].utterance.text.strip()]]
    assert row.diversity == diversity(said, seed=0)  # every turn once, not the accumulated ones
    assert row.errors == 0
    assert row.nll.valid == 3 * len(PREFIXES)


def test_pairs_of_human_and_bot(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps([{"dialogue": [["Hello.", "Hi there."], [" And you?", ""]]}]))
    assert load_dialogues(str(file)) == [Dialogue("bad-1", ("Hello.", "And you?"))]
    file.write_text(json.dumps([{"dialogue": ["Hello."]}]))
    with pytest.raises(UserError, match="item 1: each turn of 'dialogue' must be a list"):
        load_dialogues(str(file))


PARLAI = [
    "text:your persona: I like tea.\\nHello,\\nyou.\tlabels:Hi.",
    "text:How are you?\tlabels:Fine.\tepisode_done:True",
    "text:Good day.\\nGo away.\\nWhy so?\\nSecret.\tlabels:__ok__\tspeaker_to_eval:bot\tepisode_done:True",
    "text:Go away.\\nWhy so?\\nSecret.\\nOh.\tlabels:__notok__\tspeaker_to_eval:human\tepisode_done:True",
    "text:One__PIPE__two.\\n\\nThree.\\nFour.\\n\tlabels:__notok__\tspeaker_to_eval:bot\tepisode_done:True",
]


def test_parlai_text(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("\n".join(PARLAI) + "\n")
    assert load_dialogues(str(file)) == [
        Dialogue("bad-1", ("Hello, you.", "How are you?")),
        Dialogue("bad-4", ("Why so?", "Oh.")),
        Dialogue("bad-5", ("One|two.", "Three.")),  # the bot's blank line keeps its place
    ]
    file.write_text("labels:none\tepisode_done:True\n")
    with pytest.raises(UserError, match="line 1: no 'text' field"):
        load_dialogues(str(file))
    file.write_text("just a text\n")
    with pytest.raises(UserError, match="line 1: a dialogue must be an object"):
        load_dialogues(str(file))


def test_embedded_dialogues_serve() -> None:
    session = Replay(load_dialogues("embedded"), name="probing", seed=0).start(PREFIXES, turns=3)
    assert all(speech.text.strip() for speech in session.speak(keys_for(len(PREFIXES))))
