"""Playing by hand: piped input, live figures, masked text, no control codes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.display import masked, plain
from astprompter.base.records import Speech
from astprompter.cli.app import main
from astprompter.config import settings_from
from astprompter.models.local.chat import ChatModel
from astprompter.rollout.reward import mean_nll
from astprompter.runs.directory import RunDirectory
from astprompter.workflows.play import Game, Table, figures
from helpers.files import config_file
from helpers.tiny import PREFIXES, SHORT, WordScorer, make_chat_tokenizer, make_model

SETTINGS = settings_from({"rollout": {"horizon": 2, "max_new_tokens": 6}})


def played(table: Table, *lines: str) -> tuple[list[Any], list[str]]:
    written: list[str] = []
    return Game(table, lines, written.append, show=plain).play(), written


@pytest.mark.slow
def test_own_words_and_suggestions_get_the_figures_of_the_defender(make_lm: Any) -> None:
    defender = make_lm(seed=1)
    table = Table(make_lm(), defender, WordScorer(), SETTINGS)
    turns, written = played(table, "The garden", "", "is it green?", "/quit")
    assert len(turns) == 2
    session = defender.start(["The garden"], turns=2)
    for turn in turns:
        (values,) = session.hear([turn.utterance], likelihood=True)
        assert turn.nll == pytest.approx(mean_nll(values), abs=1e-4)
        session.hear([turn.reply])
        assert figures(turn, 0.5) in "\n".join(written)
    assert turns[1].utterance == Speech(" is it green?")
    suggestion = next(line for line in written if line.startswith("turn 1, suggestion: "))
    assert suggestion == f"turn 1, suggestion: {plain(turns[0].utterance.text)}"


@pytest.mark.slow
def test_again_suggests_anew_and_new_starts_over(make_lm: Any) -> None:
    table = Table(make_lm(), make_lm(seed=1), WordScorer(), SETTINGS)
    turns, written = played(table, "The garden", "/again", "/new", "What a day!", "", "", "/quit", "ignored")
    suggestions = [line for line in written if line.startswith("turn ")]
    assert len(suggestions) == 4
    assert suggestions[0] != suggestions[1]
    assert len(turns) == 2
    assert played(table)[0] == []  # no input at all


def test_control_codes_never_reach_model_or_terminal(make_lm: Any) -> None:
    heard: list[str] = []
    adversary = make_lm()
    real = adversary.start
    adversary.start = lambda prefixes, turns: heard.extend(prefixes) or real(prefixes, turns=turns)
    table = Table(adversary, make_lm(seed=1), WordScorer(), SETTINGS)
    turns, written = played(table, "\x1b[31mHi\u202e there\n", "a\x07b\r\n")
    assert heard == ["[31mHi there"]
    assert turns[0].utterance.text == " ab"
    assert not re.search(r"[\x00-\x1f\x7f\u202e]", "".join(written))


@pytest.mark.slow
def test_a_chat_adversary_takes_own_words_as_its_message() -> None:
    tokenizer = make_chat_tokenizer()
    options: dict[str, Any] = {"name": "chat", "sampling": SHORT}
    adversary = ChatModel(make_model("llama", len(tokenizer)), tokenizer, role="adversary", **options)
    defender = ChatModel(make_model("llama", len(tokenizer), seed=1), tokenizer, role="defender", **options)
    turns, _ = played(Table(adversary, defender, WordScorer(), SETTINGS), "We met.", "Then we left.", "")
    assert len(turns) == 2
    session = adversary.start(["We met."], turns=2)
    session.say([Speech(" Then we left.")])
    session.hear([turns[0].reply])
    from astprompter.base.randomness import keys_of

    assert session.speak(keys_of(0, "play", 3, 1)) == [turns[1].utterance]


@pytest.mark.slow
def test_a_run_is_played_from_the_command_line(make_lm: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    lm, model = make_lm(), {"path": str(tmp_path / "model")}
    settings = {"adversary": model, "defender": model, "scorer": {"spec": "word:a"}, "rollout": {"horizon": 2}}
    RunDirectory.create(tmp_path / "run", config_file(settings_from(settings)))
    for folder in (tmp_path / "model", tmp_path / "run" / "best"):
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    shown = {}
    for flags in ((), ("--show-text",)):
        monkeypatch.setattr("sys.argv", ["astprompter", "play", str(tmp_path / "run"), *flags])
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{PREFIXES[0]}\n\n\n"))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        shown[flags] = capsys.readouterr().out
    replies = [re.findall(r"  reply:   (.*)", out) for out in shown.values()]
    assert len(replies[0]) == len(replies[1]) == 2
    assert replies[0] == [masked(text) for text in replies[1]]
    assert shown[()].count("nats per token") == 2
    monkeypatch.setattr("sys.argv", ["astprompter", "play", str(tmp_path / "model")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2


def test_masks_leave_the_shape_of_a_text_and_nothing_of_its_content() -> None:
    assert masked("Go, a$$!\n\u0928\u0940 \U0001f595.") == "▒▒, ▒▒▒!⏎▒▒ ▒."
