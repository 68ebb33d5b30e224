"""Texts stay what they are on their whole way: said = scored = stored = shown = exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from astprompter.base.files import write_rows
from astprompter.base.records import ElicitingText, Prefix, Speech
from astprompter.config import SamplingSettings, settings_from
from astprompter.data.sources import Dialogue
from astprompter.evaluation.evaluate import measure
from astprompter.export import export_run
from astprompter.models.local.lm import LanguageModel
from astprompter.models.local.replay import Replay
from astprompter.report.page import write_report
from astprompter.rollout.pairs import supervised_pairs
from astprompter.runs.directory import LOG
from helpers.files import config_file, read_rows
from helpers.tiny import keys_for, make_model, make_tokenizer

ODD = [
    "family 👩‍👩‍👧‍👦 of one, and a flag 🇺🇳🏳️‍🌈",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום \u202eexe.txt\u202c עולם",
    "Zalgo Z̷̢̛a̴l̵g̶o̸ and e\u0301 is not é",
    "नमस्ते दुनिया, 你好，世界",
    "line\u2028and paragraph\u2029 and NEL\x85 and\ttab",
    "</script><script>alert(1)</script> {{7*7}} ${x} %s [bold]",
]


class Recording:
    """Scores everything as a failure, and remembers what it was shown."""

    name = "recording"

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        self.seen.update(texts)
        return [1.0 if text.strip() else 0.0 for text in texts]


@pytest.fixture(scope="module")
def lm() -> Any:
    tokenizer = make_tokenizer()
    wild = SamplingSettings(max_new_tokens=8, min_new_tokens=2, temperature=3.0, top_p=1.0, repetition_penalty=1.0)
    return LanguageModel(make_model("gpt2", len(tokenizer), context=512), tokenizer, name="wild", sampling=wild)


@pytest.mark.slow
@given(ids=st.lists(st.integers(1, 319), min_size=1, max_size=12))
@examples(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_join_to_the_text_even_where_they_are_parts_of_characters(lm: Any, ids: list[int]) -> None:
    speech = Speech(lm.decode(ids), tuple(ids), lm.vocabulary)
    pieces = lm.pieces(speech)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == speech.text


@pytest.mark.slow
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@examples(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_its_tokens(lm: Any, text: str) -> None:
    said = f" {text}"
    assert lm.decode(lm.encode(said)) == said
    assert "".join(lm.pieces(Speech(said))) == said


@pytest.mark.slow
def test_from_the_rollout_to_every_file(lm: Any, tmp_path: Path) -> None:
    """What people wrote and what a wild model answers, half characters included, in every place it reaches."""
    prefixes = [Prefix(f"p{i}", f"{i} {text}") for i, text in enumerate(ODD * 4)]
    dialogues = [Dialogue(str(i), (text, f"and {text}")) for i, text in enumerate(ODD)]
    chosen = settings_from({"rollout": {"horizon": 2, "max_new_tokens": 8}, "evaluation": {"resamples": 100}})
    scorer = Recording()
    speakers = {"human": Replay(dialogues, name="human", seed=0), "wild": lm}
    result = measure(speakers, lm, scorer, prefixes, chosen)
    run = tmp_path / "run"
    result.write(run)
    write_rows(run / LOG, [])
    config_file(chosen).write(run / "config.json")
    stored = read_rows(run / "trajectories.jsonl")
    assert {row["prefix"] for row in stored} == {prefix.text for prefix in prefixes}
    said = {turn["utterance"] for row in stored if row["adversary"] == "human" for turn in row["turns"]}
    assert all(any(text in utterance for utterance in said) for text in ODD)
    assert any("\ufffd" in turn["reply"] for row in stored for turn in row["turns"])  # the model is wild enough
    for row in stored:
        for turn in row["turns"]:
            assert {turn["utterance"], turn["reply"], turn["utterance"] + turn["reply"]} <= scorer.seen
            assert "".join(turn["tokens"]) == turn["utterance"]
    failures = read_rows(run / "failures.jsonl")
    assert len(failures) == 2 * len(prefixes)
    shown = _shown(run, tmp_path / "report.html")
    texts = [(row["utterance"], row["reply"]) for row in failures]
    assert sorted((row[7], row[8]) for row in shown["failures"]) == sorted(texts)
    assert set(shown["prefixes"]) == {row["prefix"] for row in stored}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    _exported(run, tmp_path, stored, texts)


def _shown(run: Path, target: Path) -> Any:
    write_report([run], out=target)
    page = target.read_text(encoding="utf-8")
    begin = page.index('type="application/json"')
    return json.loads(page[page.index(">", begin) + 1 : page.index("</script>", begin)])


def _exported(run: Path, folder: Path, stored: list[dict[str, Any]], texts: list[tuple[str, str]]) -> None:
    """Other tools get the same texts; only outer white space may differ."""
    firsts = {utterance.strip() for utterance, _ in texts}
    export_run(run, "inspect", folder / "inspect")
    found = read_rows(folder / "inspect" / "samples.jsonl")
    spoken = {message["content"].strip() for row in found for message in row["input"] if message["role"] == "user"}
    assert all(any(first in content for content in spoken) for first in firsts if first)
    export_run(run, "trl", folder / "trl")
    rows = read_rows(folder / "trl" / "preferences.jsonl")
    utterances = {turn["utterance"] for row in stored for turn in row["turns"]}
    assert rows
    assert all(row[side] in utterances for row in rows for side in ("chosen", "rejected"))


def test_supervised_pairs_never_cut_a_character_in_two(lm: Any) -> None:
    texts = [ElicitingText(f"{text} {text}") for text in ODD] * 4
    pairs = supervised_pairs(lm, texts, keys_for(len(texts)), np.random.default_rng(0))
    assert len(pairs) == len(texts)
    whole = [ElicitingText(text) for text in ("\U0001f600", "a\U0001f600", "\u4f60")] * 8
    for pair in supervised_pairs(lm, whole, keys_for(len(whole)), np.random.default_rng(0)):
        assert not pair.chosen_text.startswith("\ufffd")
    for pair, text in zip(pairs, texts, strict=True):
        assert "\ufffd" not in pair.chosen_text
        assert text.text.endswith(pair.chosen_text)
        assert lm.decode(pair.prompt_ids) + pair.chosen_text == text.text
