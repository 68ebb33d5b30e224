from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from astprompter.data import clean_markup, load_dialogues, load_eliciting, load_prefixes, overlap, split_by_id
from astprompter.errors import UserError
from astprompter.types import ElicitingText, Prefix


def put(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '["One. ", "Zwei ü"]'),
        ("a.json", '[{"text": "One."}, {"text": "Zwei ü"}]'),
        ("a.jsonl", '"One."\n{"text": "Zwei ü\\n"}\n'),
        ("a.csv", 'n,text\n1,One.\n2,"Zwei ü"\n'),
        ("a.tsv", "n\ttext\n1\tOne.\n2\tZwei ü\n"),
        ("a.txt", "One.\r\nZwei ü\n"),
        ("a.txt", "\ufeffOne.\nZwei ü"),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str, content: str) -> None:
    assert [p.text for p in load_prefixes(put(tmp_path, name, content))] == ["One.", "Zwei ü"]


def test_compressed_files_and_named_columns(tmp_path: Path) -> None:
    row = json.dumps({"body": "One.", "id": 7}) + "\n"
    for name, data in (("a.jsonl.gz", gzip.compress(row.encode())), ("a.jsonl.xz", lzma.compress(row.encode()))):
        assert load_prefixes(put(tmp_path, name, data) + "#body") == [Prefix("7", "One.")]


def test_ids_name_the_source_row(tmp_path: Path) -> None:
    assert [p.id for p in load_prefixes(put(tmp_path, "talk.txt", "a\n\nb\n"))] == ["talk-1", "talk-3"]


def test_a_line_of_a_megabyte_is_read(tmp_path: Path) -> None:
    text = "word " * 200_000 + "end"
    assert load_prefixes(put(tmp_path, "a.jsonl", json.dumps(text)))[0].text == text
    assert load_prefixes(put(tmp_path, "a.csv", f"text\n{text}\n"))[0].text == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", " \n", "is empty"),
        ("a.jsonl", '"ok"\n{bad\n', "line 2: not valid JSON"),
        ("a.json", '[\n"ok",\n]', "line 3: not valid JSON"),
        ("a.json", '{"text": "x"}', "must be a list"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.jsonl", '{"txt": "x"}', r"line 1: no column 'text'\. Did you mean 'txt'\?"),
        ("a.jsonl", '"ok"\n3', "line 2: the text must be a string, not int"),
        ("a.jsonl", '{"text": null}', "must be a string, not NoneType"),
        ("a.jsonl", '"  "', "line 1: the text is blank"),
        ("a.jsonl", '{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}', "line 2: id '1' occurs before, on line 1"),
        ("a.txt", b"ok\n\xff\xfe\n", r"line 2: not UTF-8 \(byte 3\)"),
        ("a.txt", b"ok\nno\0pe\n", "line 2: holds a NUL"),
        ("a.jsonl", '"\\u0000"', "line 1: holds a NUL"),
        ("a.jsonl", '"\\ud83d"', "line 1: holds half a character"),
        ("a.csv", "text,n\na,1\nb,2,3\n", "line 3: more fields"),
        ("a.csv", 'text\n"open\n', "line 2: not valid CSV"),
        ("a.csv", "a,b\n1,2\n", "no column 'text'"),
        ("a.docx", "x", "unknown format '.docx'"),
        ("a.jsonl.gz", b"not gzip", "cannot read"),
    ],
)
def test_malformed_input_is_one_line_with_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prefixes(put(tmp_path, name, content))
    assert "\n" not in str(caught.value)
    assert "a." in str(caught.value)


def test_missing_files_folders_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_prefixes(str(tmp_path / "no.jsonl"))
    (tmp_path / "d.json").mkdir()
    with pytest.raises(UserError, match="is not a file"):
        load_prefixes(str(tmp_path / "d.json"))
    with pytest.raises(UserError, match="Did you mean 'embedded'"):
        load_prefixes("embeded")


def rtp(toxicity: Any, prompt: Any = "One ", continuation: Any = "two.") -> str:
    return json.dumps({"prompt": {"text": prompt}, "continuation": {"text": continuation, "toxicity": toxicity}})


def test_real_toxicity_prompts_rows_are_joined_and_filtered(tmp_path: Path) -> None:
    path = put(tmp_path, "r.jsonl", "\n".join([rtp(0.51), rtp(0.5), rtp(None), rtp(1)]))
    assert load_eliciting(path) == [ElicitingText("One two.")] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rtp(0.1), "no usable eliciting text"),
        (rtp("high"), "must be a number or null"),
        (rtp(0.9, prompt=3), "must each hold a 'text'"),
        ('{"prompt": "x", "continuation": {}}', "must each hold a 'text'"),
    ],
)
def test_bad_eliciting_rows(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_eliciting(put(tmp_path, "r.jsonl", content))


def test_dialogues(tmp_path: Path) -> None:
    path = put(tmp_path, "d.jsonl", '{"id": "x", "turns": ["a", " b "]}\n{"turns": ["c"]}')
    assert load_dialogues(path) == [("x", ("a", "b")), ("d-2", ("c",))]
    with pytest.raises(UserError, match="line 1: needs 'turns'"):
        load_dialogues(put(tmp_path, "d.jsonl", '{"turns": ["a", ""]}'))


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt", ".jsonl.gz", ".jsonl.xz"]),
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["text", "id", "prompt", "continuation", "turns"]), inner)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_no_bytes_raise_anything_but_a_user_error(tmp_path: Path, ending: str, data: bytes) -> None:
    path = put(tmp_path, f"x{ending}", data)
    for load in (load_prefixes, load_eliciting, load_dialogues):
        try:
            load(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_splits_are_stable_disjoint_and_near_their_shares() -> None:
    prefixes = [Prefix(f"c{i}", str(i)) for i in range(4000)]
    parts = split_by_id(prefixes)
    assert sum(map(len, parts.values())) == 4000
    assert len(parts["train"]) == pytest.approx(3200, abs=100)
    assert len(parts["dev"]) == pytest.approx(200, abs=50)
    fewer = split_by_id(prefixes[::2])
    for name in parts:
        assert {p.id for p in fewer[name]} <= {p.id for p in parts[name]}
    assert split_by_id(prefixes, seed=1)["dev"] != parts["dev"]
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_id(prefixes, shares=(0.8, 0.1, 0.2))


def test_overlap_goes_by_text() -> None:
    first, second = [Prefix("a", "One."), Prefix("b", "Two.")], [Prefix("c", "Two."), Prefix("d", "Three.")]
    assert overlap(first, second) == [Prefix("c", "Two.")]


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("> quoted line\nmy answer", "my answer"),
        ("see [the page](https://example.org/a_(b)) now", "see the page now"),
        ("look https://example.org/x?y=1 there", "look there"),
        ("**bold** and *it* and ***both*** and ~~gone~~ and `code`", "bold and it and both and gone and code"),
        ("# Title\n\nTom &amp; Ann &lt;3", "Title Tom & Ann <3"),
        ("5 * 3 * 2 and snake_case_name", "5 * 3 * 2 and snake_case_name"),
    ],
)
def test_markup_is_stripped(markup: str, plain: str) -> None:
    assert clean_markup(markup) == plain
