"""Every reader of texts: what is good is read whole, what is bad is named by file and line, or skipped and counted."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from astprompter.base.errors import RowError, UserError
from astprompter.config import load_settings, settings_from, to_yaml
from astprompter.config.named import plain_yaml
from astprompter.data import BadRows, load_dialogues, load_prefixes, read_eliciting
from astprompter.data.published import GONE, read_convokit, read_human_turns
from helpers.spoilt import broken_json, raw, spoilt_bytes, taken, texts, unfit_texts, values


class Line(NamedTuple):
    """A row of a file: its bytes, and what is read from it; ``None`` for a bad row."""

    data: bytes
    means: Any


def rows_of(good: st.SearchStrategy[Line], bad: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Line]]:
    return st.lists(good | bad.map(lambda data: Line(data, None)), min_size=1, max_size=6)


def check(
    path: Path, lines: Sequence[Line], read: Callable[[BadRows], Sequence[Any]], *, unit: str = "line", first: int = 1
) -> None:
    """Refusing names a bad row; skipping gives exactly the good rows, counts exactly the bad ones, names the first."""
    wrong = [number for number, line in enumerate(lines, start=first) if line.means is None]
    expected = [line.means for line in lines if line.means is not None]
    if wrong:
        refuses(lambda: read(BadRows()), path, wrong, unit)
    else:
        assert list(read(BadRows())) == expected
    bad = BadRows(skip=True)
    found = taken(lambda: read(bad), str(path))
    assert (found is None) == (not expected)
    assert bad.count == len(wrong)
    if wrong:
        assert str(path) in bad.first
        assert re.search(rf"\b{unit} {wrong[0]}\b", bad.first)
        assert f"{bad.count}" in str(bad)
    if found is not None:
        assert list(found) == expected


def refuses(read: Callable[[], Any], path: Path, wrong: Sequence[int], unit: str = "line") -> None:
    """Bytes that are not UTF-8 and NUL are found before anything else, so it need not be the first bad row."""
    with pytest.raises(UserError) as caught:
        read()
    assert taken(read, str(path)) is None
    found = re.search(rf"\b{unit} (\d+): ", str(caught.value))
    assert found, str(caught.value)
    assert int(found[1]) in wrong


def keys_of(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def load(path: Path, bad: BadRows) -> list[str]:
    return [row.text for row in load_prefixes(str(path), split="train", bad=bad)]


# --- prefixes --------------------------------------------------------------------------------------------------------


def forms_of(text: str) -> list[Line]:
    written = [raw(text), raw({"text": text}), json.dumps({"text": text + " "}, ensure_ascii=False).encode()]
    return [Line(data, text.rstrip()) for data in written]


json_good = texts.flatmap(lambda text: st.sampled_from(forms_of(text)))
wrong_values = values.filter(
    lambda value: not isinstance(value, str) and not (isinstance(value, dict) and "text" in value)
)
json_bad = st.one_of(
    broken_json,
    wrong_values.map(raw),
    unfit_texts.map(raw),
    unfit_texts.map(lambda text: raw({"text": text})),
    texts.map(lambda text: raw({"txt": text})),
    st.sampled_from([True, 1.5, [], {}, " ", "a\nb", "\ud800"]).map(lambda name: raw({"text": "a", "id": name})),
)


@pytest.mark.slow
@given(rows_of(json_good, json_bad), st.booleans(), st.booleans())
def test_prefixes_in_json_lines(tmp_path: Path, lines: list[Line], mark: bool, carriage: bool) -> None:
    path = tmp_path / "a.jsonl"
    ends = b"\r\n" if carriage else b"\n"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + ends.join(line.data for line in lines))
    check(path, lines, lambda bad: load(path, bad))


@pytest.mark.slow
@given(rows_of(json_good, (wrong_values | unfit_texts).map(raw) | st.just(b'{"text": "a", "text": "b"}')))
def test_prefixes_in_a_json_list(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b",\n".join(line.data for line in lines) + b"]")
    check(path, lines, lambda bad: load(path, bad), unit="item")


@pytest.mark.slow
@given(rows_of(texts.map(lambda t: Line(t.encode(), t.rstrip())), st.sampled_from([b"a\xff", b"\xed\xa0\x80", b"a\0"])))
def test_prefixes_in_plain_lines(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n".join(line.data for line in lines))
    if lines[0].data.startswith(b"\xef\xbb\xbf"):  # at the very beginning it is a byte-order mark
        lines[0] = Line(lines[0].data, lines[0].means.removeprefix("\ufeff"))
        if not lines[0].means.strip():
            return
    check(path, lines, lambda bad: load(path, bad))


@given(
    rows_of(
        texts.map(lambda text: Line(text.encode(), text.rstrip())),
        st.sampled_from([b"a,b", b'"a"b', b"a\xff", b"a\0b", b'" "', b"a\tb"]),
    ),
    st.sampled_from([(".csv", ","), (".tsv", "\t")]),
)
def test_prefixes_in_tables(tmp_path: Path, lines: list[Line], form: tuple[str, str]) -> None:
    ending, delimiter = form
    path, written = tmp_path / f"a{ending}", [b"text"]
    for line in lines:
        cell = io.StringIO()
        csv.writer(cell, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="").writerow([line.means])
        spoilt = line.data.replace(b",", delimiter.encode()).replace(b"\t", delimiter.encode())
        written.append(spoilt if line.means is None else cell.getvalue().encode())
    path.write_bytes(b"\n".join(written))
    check(path, lines, lambda bad: load(path, bad), first=2)


def test_an_open_quote_is_refused_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\nok\n"open\nmore\n')
    with pytest.raises(UserError, match=r"a\.csv', line 3: not valid CSV"):
        load(path, BadRows(skip=True))


def test_an_id_is_not_taken_by_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": ""}\n{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}')
    bad = BadRows(skip=True)
    assert [(p.id, p.text) for p in load_prefixes(str(path), split="train", bad=bad)] == [("x", "a")]
    assert bad.count == 2


@pytest.mark.parametrize("junk", [b"x" * 1_000_000, b'"' + b"\xff" * 1_000_000, b'{"' + b"k" * 1_000_000 + b'": 1}'])
def test_a_bad_line_of_a_megabyte_is_a_short_message(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"ok"\n' + junk)
    with pytest.raises(RowError, match="line 2") as caught:
        load(path, BadRows())
    assert len(str(caught.value)) < 1000
    assert load(path, BadRows(skip=True)) == ["ok"]


# --- eliciting texts -------------------------------------------------------------------------------------------------


def rtp(prompt: Any, continuation: Any, toxicity: Any) -> bytes:
    return raw(
        {"filename": "f", "prompt": {"text": prompt}, "continuation": {"text": continuation, "toxicity": toxicity}}
    )


rtp_good = st.tuples(texts, texts, st.none() | st.floats(0, 1) | st.just(math.nan)).map(
    lambda row: Line(rtp(*row), ((row[0] + row[1]).rstrip(), row[2]))
)
rtp_bad = st.one_of(
    broken_json,
    st.sampled_from(["high", True, 1.01, -0.1, 87, [], {}, math.inf]).map(lambda toxicity: rtp("a", "b", toxicity)),
    st.sampled_from([None, 3, [], {}]).map(lambda text: rtp(text, "b", 0.9)),
    unfit_texts.map(lambda text: rtp(text, "", 0.9)),
    st.just(b'{"prompt": "a", "continuation": "b"}'),
)


@given(rows_of(rtp_good, rtp_bad))
def test_real_toxicity_prompts(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n".join(line.data for line in lines))
    good = [line.means for line in lines if line.means is not None]
    scored = [(text, toxicity) for text, toxicity in good if toxicity is not None and not math.isnan(toxicity)]
    bad = BadRows(skip=True)
    found = taken(lambda: read_eliciting(str(path), bad=bad), str(path))
    assert bad.count == len(lines) - len(good)
    expected = [text for text, toxicity in scored if toxicity > 0.5]
    if found is None:
        assert not expected
    else:
        assert [item.text for item in found.texts] == expected
        assert (found.unscored, found.mild) == (len(good) - len(scored), len(scored) - len(expected))
    if bad.count:
        wrong = [number for number, line in enumerate(lines, start=1) if line.means is None]
        refuses(lambda: read_eliciting(str(path)), path, wrong)


# --- dialogues -------------------------------------------------------------------------------------------------------

turns = st.lists(texts, min_size=1, max_size=3)
dialogue_good = turns.flatmap(
    lambda said: st.sampled_from([raw({"turns": said}), raw({"dialogue": [[text, "answer"] for text in said]})])
    .map(lambda data: Line(data, tuple(text.strip() for text in said)))
)  # fmt: skip
dialogue_bad = st.one_of(
    broken_json,
    values.filter(lambda v: not isinstance(v, str) and not {"turns", "dialogue"} & keys_of(v)).map(raw),
    st.sampled_from([[], "a", 3, [1], [[]], [""], ["a", "\ud800"], ["\0"]]).map(lambda said: raw({"turns": said})),
    st.sampled_from([[], "a", ["a"], [[]], [[3]], [["", "b"]]]).map(lambda pairs: raw({"dialogue": pairs})),
)  # fmt: skip


@given(rows_of(dialogue_good, dialogue_bad))
def test_dialogues_in_json_lines(tmp_path: Path, lines: list[Line]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(line.data for line in lines))
    check(path, lines, lambda bad: [item.turns for item in load_dialogues(str(path), bad=bad)])


chat_texts = st.text("abc ü👩שׁ", min_size=1, max_size=6).map(str.strip).filter(bool)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[list[bytes], tuple[str, ...] | None, int]:
    """Lines of a ParlAI chat, what the human said, and which line is bad (``None`` and its place, or 0)."""
    said = draw(st.lists(chat_texts, min_size=1, max_size=3))
    done = [b"\tepisode_done:True" if i == len(said) - 1 else b"" for i in range(len(said))]
    lines = [b"text:" + text.encode() + b"\tlabels:fine" + end for text, end in zip(said, done, strict=True)]
    place = draw(st.integers(0, len(said)))
    if place:
        harm = draw(st.sampled_from([b"\tx:\xff", b"\tx:\0", b"\ttext:again"]))
        lines[place - 1] = lines[place - 1] + harm
    return lines, None if place else tuple(said), place


@pytest.mark.slow
@given(st.lists(episodes(), min_size=1, max_size=4))
def test_dialogues_in_parlai_text(tmp_path: Path, chats: list[tuple[list[bytes], tuple[str, ...] | None, int]]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n".join(line for lines, _, _ in chats for line in lines) + b"\n")
    expected = [said for _, said, _ in chats if said is not None]
    before = 0
    wrong = []
    for lines, _, place in chats:
        if place:
            wrong.append(before + place)
        before += len(lines)
    bad = BadRows(skip=True)
    found = taken(lambda: [item.turns for item in load_dialogues(str(path), bad=bad)], str(path))
    assert (found or []) == expected
    assert bad.count == len(wrong)
    if wrong:
        assert f"line {wrong[0]}: " in bad.first
        refuses(lambda: load_dialogues(str(path)), path, wrong)


@pytest.mark.slow
@given(st.lists(st.tuples(turns, st.sampled_from(["", "cut", "\xff", "\0", "twice"])), min_size=1, max_size=5))
def test_the_bad_archive(tmp_path: Path, rows: list[tuple[list[str], str]]) -> None:
    lines, expected, wrong = [], [], []
    for number, (_, harm) in enumerate(rows, start=1):
        human = f"turn of row {number}"
        line = f"text:{human}\\nanswer\tlabels:__notok__\tepisode_done:True\tspeaker_to_eval:bot".encode()
        if harm:
            wrong.append(number)
            ends = {"cut": b"", "\xff": b"\xff", "\0": b"\0", "twice": b"\ttext:other"}
            line = line[:10] if harm == "cut" else line + ends[harm]
        else:
            expected.append((human,))
        lines.append(line)
    path = tmp_path / "set.tar.gz"
    content = b"\n".join(lines)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("folder/train.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    bad = BadRows(skip=True)
    assert taken(lambda: read_human_turns(path, bad), str(path)) == expected
    assert bad.count == len(wrong)
    if wrong:
        assert f"line {wrong[0]}: " in bad.first
        refuses(lambda: read_human_turns(path), path, wrong[:1])


# --- ConvoKit --------------------------------------------------------------------------------------------------------


def corpus(path: Path, lines: Sequence[bytes], meta: bytes = b"{}") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("corpus/utterances.jsonl", b"\n".join(lines))
        archive.writestr("corpus/conversations.json", meta)
    return path


convokit_bad = st.one_of(
    broken_json,
    values.filter(lambda value: "id" not in keys_of(value)).map(raw),
    st.sampled_from(
        [{"id": 3, "conversation_id": "a", "text": "x"}, {"id": "q", "conversation_id": None, "text": "x"},
         {"id": "q", "conversation_id": "a", "text": 3}, {"id": "q", "conversation_id": "a\nb", "text": "x"},
         {"id": "\ud800", "conversation_id": "a", "text": "x"}, {"id": " ", "conversation_id": "a", "text": "x"}]
    ).map(raw),
)  # fmt: skip


@given(st.lists(texts | convokit_bad | st.sampled_from(["\ud800", "a\0"]), min_size=1, max_size=6))
def test_convokit_corpora(tmp_path: Path, parts: list[str | bytes]) -> None:
    lines, replies, wrong = [], [], []
    for number, part in enumerate(parts, start=1):
        if isinstance(part, bytes):
            lines.append(part)
            wrong.append(number)
            continue
        lines.append(raw({"id": f"u{number}", "conversation_id": "a", "text": part}))
        if "\0" in part or "\ud800" in part:
            wrong.append(number)
            replies.append(None)  # its conversation must not be read without it
        else:
            replies.append(part)
    path = corpus(tmp_path / "c.zip", lines)
    bad = BadRows(skip=True)
    found = taken(lambda: read_convokit(path, bad), str(path))
    assert bad.count == len(wrong)
    assert (found is None) == (not replies)
    if found is not None:
        (conversation,) = found
        assert len(conversation.replies) == len(replies)
        for text, reply in zip(conversation.replies, replies, strict=True):
            assert text in GONE if reply is None else text == reply
    if wrong:
        refuses(lambda: read_convokit(path), path, wrong[:1])


def test_an_utterance_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    row = raw({"id": "u", "conversation_id": "a", "text": "x"})
    with pytest.raises(UserError, match="line 2: id 'u' occurs before"):
        read_convokit(corpus(tmp_path / "c.zip", [row, row]))


# --- any bytes, any file ---------------------------------------------------------------------------------------------

GOOD = {
    "a.jsonl": b'{"id": "1", "text": "One."}\n"Two \xc3\xbc"\n{"turns": ["a", "b"]}\n' + rtp("a", "b", 0.9),
    "a.json": b'["One.", {"text": "Two"}, {"dialogue": [["a", "b"], ["c", "d"]]}]',
    "a.csv": b'id,text\n1,One.\n2,"Two, and ""three"""\n',
    "a.txt": b"One.\ntext:a\tlabels:b\tepisode_done:True\n",
    "c.zip": b"",
    "b.tar.gz": b"",
}


@pytest.mark.slow
@given(st.sampled_from(sorted(GOOD)), st.booleans(), st.data())
@hypothesis_settings(max_examples=max(200, hypothesis_settings().max_examples))
def test_a_spoilt_file_is_read_or_refused(tmp_path: Path, name: str, skip: bool, data: st.DataObject) -> None:
    content, path = GOOD[name], tmp_path / name
    if name == "c.zip":
        rows = [raw({"id": i, "conversation_id": "a", "text": "x"}) for i in "ab"]
        content = corpus(path, rows, b'{"a": {"subreddit": "tea"}}').read_bytes()
    if name == "b.tar.gz":
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("valid.txt")
            member.size = 60
            archive.addfile(member, io.BytesIO(b"text:a\\nb\tlabels:__notok__\tspeaker_to_eval:bot".ljust(60, b"x")))
        content = path.read_bytes()
    path.write_bytes(data.draw(spoilt_bytes(content)))
    readers: list[Callable[[], Any]] = [
        lambda: load_prefixes(str(path), split="train", bad=BadRows(skip)),
        lambda: read_eliciting(str(path), bad=BadRows(skip)).texts,
        lambda: load_dialogues(str(path), bad=BadRows(skip)),
        lambda: read_human_turns(path, BadRows(skip)),
    ]
    if "z" in name:
        readers = [lambda: read_convokit(path, BadRows(skip)), lambda: read_human_turns(path, BadRows(skip))]
    for read in readers:
        found = taken(read, str(path))
        for item in found or ():
            for text in [getattr(item, "text", ""), *getattr(item, "turns", ()), *getattr(item, "replies", ())]:
                text.encode("utf-8")
                assert "\0" not in text


# --- settings --------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "seed",
        "loss.tau",
        "loss.kind",
        "data.train",
        "evaluation.scorers",
        "rollout.trees_per_batch",
        "loss",
        "loss.",
        "a.b.c",
    ]
)
YAML = st.one_of(
    st.text(max_size=30),
    values.map(json.dumps),
    st.sampled_from(
        ["&a [*a]", "{a: 1, a: 2}", "2001-02-30", "!!int x", "!!python/object:os.system {}", "!!binary =", "- - -", "%",
         '"\\ud800"', '"\\0"', "[" * 2000, "9" * 5000, "!!timestamp x", "? [a]\n: b", "!!set {a}", "!!float x", "1e999",
         "!!bool x", "!!omap 3", "<<: 3", "{<<: [1]}", "\ufeff0", "0x", "190:20:30", ".nan"]
    ),
)  # fmt: skip


@pytest.mark.slow
@given(KEYS | st.text(max_size=8), YAML)
@example("loss.tau", "!!python/object/apply:os.getcwd []")
def test_any_override_gives_settings_or_one_line(key: str, value: str) -> None:
    found = taken(lambda: settings_from({}, [f"{key}={value}"]))
    if found is not None:
        json.dumps(found.as_dict(), ensure_ascii=False, allow_nan=False).encode("utf-8")
        assert "\0" not in found.data.train


@given(YAML.map(str.encode) | st.binary(max_size=40), st.data())
def test_any_preset_file_gives_settings_or_names_itself(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    path = tmp_path / "mine.yaml"
    whole = b"summary: s\nwhy: w\nextends: embedded\nsettings:\n  loss: {tau: 0.2}\n  seed: 3\n"
    path.write_bytes(data.draw(st.sampled_from([content, whole + b"  " + content, whole]) | spoilt_bytes(whole)))
    found = taken(lambda: load_settings(str(path)), "mine")
    if found is not None:
        assert settings_from(found.as_dict()) == found


def test_settings_are_read_back_as_they_were_written() -> None:
    chosen = load_settings("demo", ["loss.tau=0.3", "data.train='#odd: ü'", "evaluation.scorers=[word:a]"])
    assert settings_from(plain_yaml(to_yaml(chosen))) == chosen


def test_words_that_older_yaml_takes_for_truth_are_words(tmp_path: Path) -> None:
    said = ["defender.chat=on", "scorer.safe_token=No", "scorer.unsafe_token=Yes", "training.shard=true"]
    settings = load_settings("embedded", said)
    assert (settings.defender.chat, settings.scorer.safe_token, settings.scorer.unsafe_token) == ("on", "No", "Yes")
    assert settings.training.shard is True
    (tmp_path / "mine.yaml").write_text(
        "{summary: s, why: w, settings: {defender: {chat: on}, training: {shard: yes}}}"
    )
    settings = load_settings(str(tmp_path / "mine.yaml"))
    assert (settings.defender.chat, settings.training.shard) == ("on", True)


def test_mistakes_in_a_preset_name_the_file_and_those_in_an_override_do_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("summary: s\nwhy: w\nsettings: {loss: {tau: -1}}\n")
    with pytest.raises(UserError, match=r"mine\.yaml': setting loss\.tau=-1"):
        load_settings(str(path), ["seed=1"])
    path.write_text("summary: s\nwhy: w\nsettings: {seed: 1}\nsettings: {}\n")
    with pytest.raises(UserError, match=r"mine\.yaml' is not valid YAML: a key occurs twice.*line 1"):
        load_settings(str(path))
    path.write_text("summary: s\nwhy: w\nsettings: {seed: 1}\n")
    with pytest.raises(UserError, match=r"^setting loss\.tau=-1"):
        load_settings(str(path), ["loss.tau=-1"])
