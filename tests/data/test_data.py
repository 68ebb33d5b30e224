"""Texts in: every format, every way a file can be wrong, splits, cleaning, and the embedded dialogues."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import subprocess
import sys
import time
import types
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import astprompter as ap
from astprompter.base.errors import UserError
from astprompter.base.records import ElicitingText, Prefix
from astprompter.data import (
    Dialogue,
    clean_markup,
    load_dialogues,
    load_eliciting,
    load_prefixes,
    overlap,
    read_eliciting,
    split_by_id,
)
from astprompter.data.files import FORMATS, NAMED
from astprompter.data.readers import Row
from astprompter.workflows.objects import as_eliciting

EMBEDDED = Path(str(resources.files("astprompter") / "embedded"))


def put(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def prefixes_of(source: str) -> list[Prefix]:
    return load_prefixes(source, split="train")


def test_import_is_light() -> None:
    code = "import sys, astprompter.data; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})  # noqa: S603


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '["One. ", "Zwei ü"]'),
        ("a.json", '[{"text": "One."}, {"text": "Zwei ü"}]'),
        ("a.jsonl", '"One."\n{"text": "Zwei ü\\n"}\n'),
        ("a.jsonl", '\ufeff"One."\r\n\r\n{"text": "Zwei ü"}\r\n'),
        ("a.csv", 'n,text\n1,One.\n2,"Zwei ü"\n'),
        ("a.csv", "\ufefftext,n\r\nOne.,1\r\nZwei ü,2"),
        ("a.tsv", "n\ttext\n1\tOne.\n2\tZwei ü\n"),
        ("a.csv", 'n;text\n1;One.\n2;"Zwei ü"\n'),
        ("a.csv", "n\ttext\n1\tOne.\n2\tZwei ü\n"),
        ("a.csv", "n|text\n1|One.\n2|Zwei ü\n"),
        ("a.csv", "n;text\n1,5;One.\n2,5;Zwei ü\n"),
        ("a.tsv", "n,text\n1,One.\n2,Zwei ü\n"),
        ("a.csv", "n,text\r1,One.\r2,Zwei ü\r"),
        ("a.json", '{"text": "One."}\n{"text": "Zwei ü"}\n'),
        ("a.json", '"One."\r\n"Zwei ü"'),
        ("a.jsonl", '"One."\r"Zwei ü"\r'),
        ("a.txt", "One.\rZwei ü\r"),
        ("a.txt", "One.\r\nZwei ü\n"),
        ("a.txt", "\ufeffOne.\n\n  \nZwei ü"),
        ("A.TXT", "One.\nZwei ü"),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str, content: str) -> None:
    assert [p.text for p in prefixes_of(put(tmp_path, name, content))] == ["One.", "Zwei ü"]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv", ".txt"])
def test_every_format_may_be_packed(tmp_path: Path, ending: str) -> None:
    content = {".json": '["One."]', ".jsonl": '"One."', ".csv": "text\nOne.", ".tsv": "text\nOne.", ".txt": "One."}
    data = content[ending].encode()
    for packed in (
        put(tmp_path, f"a{ending}.gz", gzip.compress(data)),
        put(tmp_path, f"a{ending}.xz", lzma.compress(data)),
    ):
        assert [p.text for p in prefixes_of(packed)] == ["One."]


def test_another_column_is_named_after_a_hash(tmp_path: Path) -> None:
    row = json.dumps({"body": "One.", "text": "other", "id": 7}) + "\n"
    assert prefixes_of(put(tmp_path, "a.jsonl", row) + "#body") == [Prefix("7", "One.")]
    assert prefixes_of(put(tmp_path, "a.csv", "id,body\nx,One.\n") + "#body") == [Prefix("x", "One.")]
    assert prefixes_of(put(tmp_path, "a.jsonl.gz", gzip.compress(row.encode())) + "#body") == [Prefix("7", "One.")]


def test_a_field_of_a_column_is_named_by_a_path(tmp_path: Path) -> None:
    row = json.dumps({"data": {"body": {"text": "One."}}, "data.body": "other"}) + "\n"
    path = put(tmp_path, "a.jsonl", row)
    assert [p.text for p in prefixes_of(f"{path}#data.body.text")] == ["One."]
    assert [p.text for p in prefixes_of(f"{path}#data.body")] == ["other"]  # a column of that very name comes first
    with pytest.raises(UserError, match=r"no column 'data\.boddy'\. Did you mean 'data\.body'\?"):
        prefixes_of(f"{path}#data.boddy")
    with pytest.raises(UserError, match=r"must be a string, not an object; name one of its fields .*\(body\)"):
        prefixes_of(f"{path}#data")
    turns = put(tmp_path, "b.jsonl", json.dumps({"a": {"said": ["Hi.", "Bye."]}}))
    assert [d.turns for d in load_dialogues(f"{turns}#a.said")] == [("Hi.", "Bye.")]


def test_texts_with_other_marks_keep_the_usual_delimiter(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "id,text\n1,a; b; c\n2,d|e\n3,f\n")
    assert [p.text for p in prefixes_of(path)] == ["a; b; c", "d|e", "f"]
    with pytest.raises(UserError, match="line 2: 2 fields where the header has 1"):
        prefixes_of(put(tmp_path, "b.csv", "text\na, b\n"))


def played(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """A double of the optional package."""
    double: Any = types.ModuleType("datasets")
    double.Dataset = types.SimpleNamespace(from_parquet=lambda name: [{"text": "One."}, {"text": "Two."}])
    double.load_from_disk = lambda name: {split: [{"text": split}] for split in ("train", "validation", "other")}
    for name, function in functions.items():
        setattr(double, name, function)
    monkeypatch.setitem(sys.modules, "datasets", double)


def test_parquet_files_and_folders_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = put(tmp_path, "a.parquet", b"PAR1"), tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (path, str(folder)):
        with pytest.raises(UserError, match=r"needs the package 'datasets'.*pip install 'astprompter\[hub\]'; or save"):
            prefixes_of(source)
    played(monkeypatch)
    assert prefixes_of(path) == [Prefix("a-1", "One."), Prefix("a-2", "Two.")]
    assert [p.text for p in load_prefixes(str(folder), split="train")] == ["train"]
    assert [p.text for p in load_prefixes(f"{folder}#text", split="dev")] == ["validation"]
    with pytest.raises(UserError, match="has the splits train, validation, other, and none for prefixes_test"):
        load_prefixes(str(folder), split="test")
    with pytest.raises(UserError, match=r"item 1: no column 'body'\. Known: text\."):
        prefixes_of(f"{path}#body")


@pytest.mark.filterwarnings("default")  # the package warns about its own dependencies
def test_tables_with_the_package_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'astprompter[hub]' to test it")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    rows = datasets.Dataset.from_list([{"text": "One.", "a": {"b": "Zwei."}}])
    (tmp_path / "folder" / "data").mkdir(parents=True)
    for path in (tmp_path / "a.parquet", tmp_path / "folder" / "data" / "train-0.parquet"):
        rows.to_parquet(path)
    datasets.DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "folder", "saved"):
        assert [p.text for p in prefixes_of(str(tmp_path / name))] == ["One."]
        assert [p.text for p in load_prefixes(f"{tmp_path / name}#a.b", split="dev")] == ["Zwei."]


def test_a_hash_may_be_part_of_the_file_name(tmp_path: Path) -> None:
    path = put(tmp_path, "a#1.jsonl", '{"text": "One.", "body": "Two."}')
    assert [p.text for p in prefixes_of(path)] == ["One."]
    assert [p.text for p in prefixes_of(f"{path}#body")] == ["Two."]


def test_ids_name_the_source_row(tmp_path: Path) -> None:
    assert [p.id for p in prefixes_of(put(tmp_path, "talk.txt", "a\n\nb\n"))] == ["talk-1", "talk-3"]
    assert [p.id for p in prefixes_of(put(tmp_path, "talk.jsonl.gz", gzip.compress(b'"a"\n\n"b"', mtime=0)))] == [
        "talk-1",
        "talk-3",
    ]
    assert [p.id for p in prefixes_of(put(tmp_path, "talk.json", '["a", {"text": "b", "id": "x"}, "c"]'))] == [
        "talk-1", "x", "talk-3",
    ]  # fmt: skip
    assert [p.id for p in prefixes_of(put(tmp_path, "talk.csv", 'text\n\n"a\nb"\nc\n'))] == ["talk-3", "talk-5"]


def test_texts_keep_what_is_inside_and_before_them(tmp_path: Path) -> None:
    text = "  One\u2028two\n\nthree, “four”"
    assert prefixes_of(put(tmp_path, "a.jsonl", json.dumps(text + " \n\t", ensure_ascii=False)))[0].text == text
    assert prefixes_of(put(tmp_path, "a.csv", f'text\n"{text} "\n'))[0].text == text


def test_a_line_of_a_megabyte_is_read(tmp_path: Path) -> None:
    text = "word " * 200_000 + "end"
    assert prefixes_of(put(tmp_path, "a.jsonl", json.dumps(text)))[0].text == text
    assert prefixes_of(put(tmp_path, "a.csv", f"text\n{text}\n"))[0].text == text
    assert prefixes_of(put(tmp_path, "a.txt", text))[0].text == text


def test_a_new_format_or_named_source_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".list", lambda path, text: (Row(path, 1, part) for part in text.split(";")[:1]))
    path = put(tmp_path, "a.list", "One.;Two.")
    assert [p.text for p in prefixes_of(path)] == ["One."]
    monkeypatch.setitem(NAMED.builtin, "mine", lambda kind: Path(path) if kind == "prefixes_dev" else Path("absent"))
    assert [p.text for p in load_prefixes("mine", split="dev")] == ["One."]
    with pytest.raises(UserError, match=r"Did you mean 'mine'\?"):
        prefixes_of("mime")


# --- what can be wrong -----------------------------------------------------------------------------------------------

WRONG = [
    ("a.jsonl", "", "is empty; give"),
    ("a.jsonl", " \n", "is empty"),
    ("a.txt", b"\xef\xbb\xbf", "is empty"),
    ("a.json", "[]", "holds no prefix; add rows"),
    ("a.csv", "text\n", "holds no prefix"),
    ("a.jsonl", '"ok"\n{bad\n', r"line 2: not valid JSON \(.*column 2\); mend it"),
    ("a.json", '[\n"ok",\n]', "line 3: not valid JSON"),
    ("a.json", '{"text": "x"}', "must be a list of texts or objects, not an object"),
    ("a.json", "[" * 100_000, "nested too deeply"),
    ("a.jsonl", '"ok"\n' + "9" * 5000, "line 2: .*a number too long"),
    ("a.jsonl", '{"txt": "x"}', r"line 1: no column 'text'\. Did you mean 'txt'\? Name another as 'a.jsonl#COLUMN'"),
    ("a.jsonl", '{"te\\nxt": "x"}', r"Did you mean 'te\\nxt'\?"),
    ("a.jsonl", '{"body": "x", "id": 1}', r"no column 'text'\. Known: body, id\."),
    ("a.jsonl", "{}", "no column 'text'. The object is empty"),
    ("a.jsonl", '"ok"\n3', "line 2: the text must be a string, not a number"),
    ("a.jsonl", '{"text": null}', "must be a string, not null"),
    ("a.jsonl", "[true]", "must be a string, not a list"),
    ("a.json", '[\n\n"ok", false]', "item 2: the text must be a string, not true or false"),
    ("a.jsonl", '"  "', "line 1: the text is blank; remove"),
    ("a.csv", 'n,text\n1,ok\n2,""\n', "line 3: the text is blank"),
    ("a.jsonl", '{"id": 1, "text": "x"}\n{"id": "1", "text": "y"}', "line 2: id '1' occurs before, on line 1"),
    ("a.json", '[{"id": "a-2", "text": "x"}, "y"]', "item 2: id 'a-2' occurs before, on item 1"),
    ("a.jsonl", '{"id": {"a": 1}, "text": "x"}', "line 1: the id must be a text or a whole number, not an object"),
    ("a.jsonl", '{"id": true, "text": "x"}', "not true or false"),
    ("a.jsonl", '{"id": 1.5, "text": "x"}', "not a number"),
    ("a.jsonl", '{"id": " ", "text": "x"}', "line 1: the id ' ' is blank"),
    ("a.jsonl", '{"id": "a\\nb", "text": "x"}', r"the id 'a\\nb' is blank or holds control"),
    ("a.jsonl", '{"id": "\\ud800", "text": "x"}', r"the id '\\ud800' is blank or holds control"),
    ("a.txt", b"ok\n\xff\xfe\n", r"line 2: not UTF-8; save"),
    ("a.txt", "ok".encode("utf-16"), "line 1: not UTF-8"),
    ("a.txt", b"ok\nno\0pe\n", "line 2: holds a NUL character; remove"),
    ("a.jsonl", '"\\u0000"', "line 1: holds a NUL"),
    ("a.jsonl", '"ok"\n"\\ud83d"', r"line 2: holds half a character \(\\ud83d, a lone surrogate\); remove"),
    ("a.csv", "text,n\na,1\nb,2,3\n", "line 3: 3 fields where the header has 2; put"),
    ("a.csv", "text,n\na\n", "line 2: 1 fields where the header has 2"),
    ("a.csv", 'text\nok\n"open\n\n', "line 3: not valid CSV .*; put"),
    ("a.csv", "a,b\n1,2\n", "line 2: no column 'text'"),
    ("a.csv", "text,text\n1,2\n", "line 1: column 'text' occurs twice"),
    ("a.docx", "x", "unknown format; its name must end in one of .json, .jsonl"),
    ("a", "x", "unknown format"),
    ("a.gz", "x", "unknown format"),
    ("a.jsonl.gz", b"not gzip", "cannot read '.*' .*; check"),
    ("a.jsonl.gz", gzip.compress(b'"ok"', mtime=0)[:-6], "cannot read"),
    ("a.jsonl.xz", lzma.compress(b'"ok"')[:-6], "cannot read"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_malformed_input_is_one_line_with_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(UserError, match=message) as caught:
        prefixes_of(path)
    assert str(caught.value).isprintable()
    assert path in str(caught.value)


def test_missing_files_folders_pipes_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.jsonl' does not exist; check the path"):
        prefixes_of(str(tmp_path / "no.jsonl"))
    with pytest.raises(UserError, match="does not exist"):
        prefixes_of(str(tmp_path / "no.jsonl") + "#body")
    (tmp_path / "d.json").mkdir()
    for folder in (tmp_path, tmp_path / "d.json"):
        with pytest.raises(UserError, match="is a folder; name a file in it"):
            prefixes_of(str(folder))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "p.jsonl")
        with pytest.raises(UserError, match="is not a regular file"):
            prefixes_of(str(tmp_path / "p.jsonl"))
    with pytest.raises(
        UserError, match=r"neither a file nor a known source of prefixes_train\. Did you mean 'embedded'\?"
    ):
        prefixes_of("embeded")
    with pytest.raises(UserError, match=r"Known: embedded\."):
        prefixes_of("zzz")
    with pytest.raises(UserError, match=r"there is no split 'trian'\. Did you mean 'train'\?"):
        load_prefixes("embedded", split="trian")


@pytest.mark.parametrize(
    "source", ["", "  ", "#text", "x" * 5000, "x" * 300 + ".txt", "~nobody-here-0/x.txt", "a\0.txt"]
)
def test_odd_sources_are_user_errors(source: str) -> None:
    for load in (prefixes_of, load_eliciting, load_dialogues):
        with pytest.raises(UserError) as caught:
            load(source)
        assert str(caught.value).isprintable()


def test_columns_of_plain_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: a text has no column 'body'; leave out"):
        prefixes_of(put(tmp_path, "a.txt", "One.") + "#body")


def test_an_embedded_set_that_was_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"'prefixes_dev.jsonl' is missing; reinstall astprompter, or name a file"):
        load_prefixes("embedded", split="dev")
    (tmp_path / "embedded").mkdir()
    put(tmp_path / "embedded", "eliciting.jsonl.gz", gzip.compress(b'{"text": "One."}', mtime=0))
    assert load_eliciting("embedded") == [ElicitingText("One.")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "id", "prompt", "continuation", "toxicity", "turns"]), inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(alphabet='a,"\t\r\n\ufefftext[]{}:\0', max_size=60).map(str.encode),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(VALUES, max_size=3).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
)


@pytest.mark.slow
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)),
    CONTENT,
    st.sampled_from(["", ".gz", ".xz"]),
    st.booleans(),
    st.sampled_from(["", "#id"]),
)
@example(".jsonl", b"1" * 5000, "", False, "")
@example(".jsonl", b"[" * 20_000, "", False, "")
@example(".csv", b'"\r\r"\r', "", False, "")
def test_no_bytes_raise_anything_but_a_user_error(
    tmp_path: Path, ending: str, data: bytes, packing: str, packed: bool, column: str
) -> None:
    if packed:
        data = (
            gzip.compress(data, 1) if packing == ".gz" else lzma.compress(data, preset=0) if packing == ".xz" else data
        )
    path = put(tmp_path, f"x{ending}{packing}", data) + column
    for load in (prefixes_of, load_eliciting, load_dialogues):
        try:
            found: list[Any] = load(path)
        except UserError as error:
            assert str(error).isprintable()
        else:
            assert found
            json.dumps([getattr(item, "text", None) or item.turns for item in found], ensure_ascii=False).encode()


# --- eliciting texts and dialogues -----------------------------------------------------------------------------------


def rtp(toxicity: Any, prompt: Any = "One", continuation: Any = " two. ") -> str:
    return json.dumps({"prompt": {"text": prompt}, "continuation": {"text": continuation, "toxicity": toxicity}})


def test_real_toxicity_prompts_rows_are_joined_filtered_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path, "r.jsonl", "\n".join([rtp(0.51), rtp(0.5), rtp(None), rtp(1), rtp(float("nan")), rtp(0)]))
    found = read_eliciting(path)
    assert found.texts == [ElicitingText("One two.")] * 2 == load_eliciting(path)
    assert (found.mild, found.unscored) == (2, 2)


def clean_rtp(own: Any, toxicity: Any = 0.9, prompt: str = "One two three") -> str:
    row = json.loads(rtp(toxicity, prompt))
    row["prompt"]["toxicity"] = own
    return json.dumps(row)


def test_clean_rows_are_their_prompts_alone(tmp_path: Path) -> None:
    rows = [clean_rtp(0.2), clean_rtp(0.21), clean_rtp(0.1, 0.5), clean_rtp(None), clean_rtp(0.0, prompt="Four five ")]
    path = put(tmp_path, "r.jsonl", "\n".join(rows))
    found = read_eliciting(path, clean=0.2)
    assert found.texts == [ElicitingText("One two three"), ElicitingText("Four five")]
    assert (found.mild, found.unscored, found.unclean) == (1, 1, 1)
    assert len(read_eliciting(path).texts) == 4
    with pytest.raises(UserError, match=r"left out: 0 .*, 0 without a score, 1 with a toxic prompt"):
        read_eliciting(put(tmp_path, "t.jsonl", clean_rtp(0.3)), clean=0.2)
    with pytest.raises(UserError, match=r"line 1: supervision\.clean needs to know how toxic the prompt is"):
        read_eliciting(put(tmp_path, "e.txt", "One.\n"), clean=0.2)
    with pytest.raises(UserError, match=r"line 1: the prompt's toxicity must lie between 0 and 1"):
        read_eliciting(put(tmp_path, "w.jsonl", clean_rtp(2)), clean=0.2)
    assert ap.load_eliciting(path, clean=0.2) == found.texts
    with pytest.raises(UserError, match=r"supervision\.clean chooses rows of a file"):
        as_eliciting(["One."], clean=0.2)


def test_eliciting_texts_of_simple_files(tmp_path: Path) -> None:
    assert load_eliciting(put(tmp_path, "e.txt", "One.\nTwo. \n")) == [ElicitingText("One."), ElicitingText("Two.")]
    assert load_eliciting(put(tmp_path, "e.csv", "prompt,continuation\nOne.,x\n") + "#prompt") == [
        ElicitingText("One.")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            rtp(0.1) + "\n" + rtp(None),
            "no usable eliciting text .*1 with a continuation .*, 1 without a score",
        ),
        (rtp("high"), "line 1: the continuation's toxicity must be a number or null, not a text"),
        (rtp(True), "must be a number or null"),
        (rtp(87), "line 1: .*must lie between 0 and 1; rescale"),
        (rtp(-0.1), "must lie between 0 and 1"),
        (rtp(0.9, prompt=3), "must be objects that hold a 'text'"),
        (rtp(0.9, prompt=" ", continuation=" "), "line 1: the text is blank"),
        (rtp(0.9, prompt="\ud800"), "half a character"),
        ('{"prompt": "x", "continuation": {}}', "must be objects that hold a 'text'"),
        ('"ok"\n" "', "line 2: the text is blank"),
        ('{"prompt": "x"}', r"no column 'text'\. Known: prompt\."),
    ],
)
def test_bad_eliciting_rows(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_eliciting(put(tmp_path, "r.jsonl", content))


def test_dialogues(tmp_path: Path) -> None:
    path = put(tmp_path, "d.jsonl", '{"id": "x", "turns": ["a", " b "]}\n{"turns": ["c"]}')
    assert load_dialogues(path) == [Dialogue("x", ("a", "b")), Dialogue("d-2", ("c",))]
    assert load_dialogues(put(tmp_path, "d.json", '[{"said": ["a"]}]') + "#said") == [("d-1", ("a",))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"turns": ["a", ""]}', "line 1: the text is blank"),
        ('{"turns": []}', "line 1: 'turns' must be a list of at least one text"),
        ('{"turns": "a"}', "must be a list"),
        ('{"turns": [1]}', "must be a string, not a number"),
        ('{"turn": ["a"]}', r"no column 'turns'\. Did you mean 'turn'\?"),
        ('"a"', "a dialogue must be an object with 'turns' or a line of ParlAI, not a text"),
        ('{"id": 1, "turns": ["a"]}\n{"id": 1, "turns": ["b"]}', "line 2: id '1' occurs before, on line 1"),
    ],
)
def test_bad_dialogues(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dialogues(put(tmp_path, "d.jsonl", content))


# First eight hex digits of the SHA-256 of words that no text of the package's own may hold.
DIGESTS = """
    0ebdc331 0f28c496 110c6c5a 120f6e5b 158869a9 16ea09fc 1776e45b 2062f800 2189c0ed 2b324097 2bda9b4d 30a989af
    31506a84 48fab7a5 566f532d 6ac3c336 72de275a 795b6904 796e43a5 7bc67115 85fc17f7 8f5083e3 954bafcc 986c9900
    9ae315a9 9dfd0dc6 a8d79f40 ac996ae4 ad505b0b affc8757 b04a8a40 bb61ef40 bd331fb1 bdb1cc25 c2c3b68b c2d214a4
    c3de533e cb835c49 cc8a30ea d6be0c9f d75a838d dd92623b e06da304 e1ce2544 e512a055 e9143a29 f2e9a23a f50c51ed
    fb96c276
"""


def test_the_embedded_dialogues_are_what_their_card_says() -> None:
    dialogues = load_dialogues("embedded")
    assert len(dialogues) == 100
    assert all(len(turns) == 3 for _, turns in dialogues)
    texts = [turn for _, turns in dialogues for turn in turns]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(6 <= len(text.split()) <= 25 for text in texts)
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert not [word for word in words if hashlib.sha256(word.encode()).hexdigest()[:8] in DIGESTS.split()]
    card = (EMBEDDED / "probing_dialogues.md").read_text(encoding="utf-8")
    rows = [
        json.loads(line) for line in (EMBEDDED / "probing_dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    topics = [row["topic"] for row in rows]
    for topic in set(topics):
        assert re.search(rf"{topics.count(topic)} each:[^.:]*\b{topic}\b", card)
    assert f"{sum(len(text.split()) for text in texts):,} words" in card


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_embedded_prefixes_load_where_present(split: str) -> None:
    if not (EMBEDDED / f"prefixes_{split}.jsonl").is_file():
        pytest.skip("not built yet")
    assert all(prefix.text == prefix.text.rstrip() for prefix in load_prefixes("embedded", split=split))


# --- splits and overlap ----------------------------------------------------------------------------------------------


def test_splits_are_stable_disjoint_and_near_their_shares() -> None:
    prefixes = [Prefix(f"c{i}", str(i)) for i in range(4000)]
    parts = split_by_id(prefixes, seed=0)
    assert list(parts) == ["train", "dev", "test"]
    assert sorted(p.id for part in parts.values() for p in part) == sorted(p.id for p in prefixes)
    assert len(parts["train"]) == pytest.approx(3200, abs=100)
    assert len(parts["dev"]) == pytest.approx(200, abs=50)
    fewer = split_by_id(prefixes[::2], seed=0)
    for name, part in parts.items():
        kept = {p.id for p in fewer[name]}
        assert [p for p in part if p.id in kept] == fewer[name]
    assert split_by_id(prefixes, seed=1)["dev"] != parts["dev"]


def test_split_goes_by_id_not_text_and_never_changes() -> None:
    items = [Prefix(f"c{i}", "one text") for i in range(20)]
    assert [p.id for p in split_by_id(items, seed=0, shares=(0.5, 0.0, 0.5))["train"]] == [
        "c0",
        "c1",
        "c2",
        "c3",
        "c5",
        "c7",
        "c8",
        "c9",
        "c10",
        "c11",
        "c12",
        "c14",
        "c16",
        "c17",
        "c18",
        "c19",
    ]


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_a_whole_share_takes_all(shares: tuple[float, float, float]) -> None:
    parts = split_by_id([Prefix(f"c{i}", "x") for i in range(200)], seed=3, shares=shares)
    assert [len(part) for part in parts.values()] == [200 * share for share in shares]


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.5, float("nan"), 0.5)]
)
def test_shares_must_sum_to_one(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_id([], seed=0, shares=shares)


def test_overlap_goes_by_text_and_by_given_id(tmp_path: Path) -> None:
    first = [Prefix("a", "One."), Prefix("b", "Two words.")]
    second = [Prefix("c", "two\n WORDS."), Prefix("d", "Three."), Prefix("a", "Four.")]
    assert overlap(first, second) == [second[0], second[2]]
    assert overlap(first, []) == [] == overlap([], second)


def test_overlap_ignores_ids_that_were_made_of_row_numbers(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    first = prefixes_of(put(tmp_path / "x", "talk.txt", "One.\nTwo."))
    second = prefixes_of(put(tmp_path / "y", "talk.txt", "Three.\nOne."))
    assert first[0].id == second[0].id == "talk-1"
    assert overlap(first, second) == [second[1]]


# --- cleaning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("> quoted line\nmy answer", "my answer"),
        ("&gt; quoted line\r\nmy answer", "my answer"),
        (">!a spoiler!< and more", "a spoiler and more"),
        ("see [the page](https://example.org/a_(b)) now", "see the page now"),
        ('see ![a picture](x.png "Title") now', "see a picture now"),
        ("look https://example.org/x?y=1 there", "look there"),
        ("look (https://example.org/a_(b)) or <http://example.org> there", "look or there"),
        ("**bold** and *it* and ***both*** and ~~gone~~ and `code`", "bold and it and both and gone and code"),
        ("__bold *and it*__ or _so_.", "bold and it or so."),
        ("# Title\n\nTom &amp; Ann &lt;3", "Title Tom & Ann <3"),
        ("a &amp;amp; b&amp;#x200B;", "a & b"),
        ("* one\n* two\n\n---\n- three", "one two three"),
        ("so ^small ^(very small) and 2^10 and ^_^", "so small very small and 2^10 and ^_^"),
        (r"\*not italic\* ¯\_(ツ)_/¯", "*not italic* ¯_(ツ)_/¯"),
        ("5 * 3 * 2 and snake_case_name and f(x)", "5 * 3 * 2 and snake_case_name and f(x)"),
        ("", ""),
    ],
)
def test_markup_is_stripped(markup: str, plain: str) -> None:
    assert clean_markup(markup) == plain


@pytest.mark.slow
@hypothesis_settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab *_~`>!<[]()#^\\&;-\n\t"), max_size=60) | st.text(max_size=60))
def test_cleaned_text_is_one_line(text: str) -> None:
    cleaned = clean_markup(text)
    assert cleaned == " ".join(cleaned.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["*a ", "_a ", "`a ", "[", "[a](", "[a](b(", ">!a ", "> ", "www.(", "- ", "^(", "&amp;", "\t"]
)
def test_cleaning_takes_no_quadratic_time(piece: str) -> None:
    def seconds(repeats: int) -> float:
        start = time.process_time()
        clean_markup(piece * repeats)
        return time.process_time() - start

    assert seconds(8000) <= 8 * max(seconds(2000), 0.05)  # 4 times the text; quadratic would be 16
