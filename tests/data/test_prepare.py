"""Data sets by name: archives, downloads over a real socket that break and resume, cleaning, and the command line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.progress import Silent
from astprompter.data import archives as archive_room
from astprompter.data import load_dialogues, load_eliciting, load_prefixes
from astprompter.data.archives import member_rows
from astprompter.data.catalog import CATALOG
from astprompter.data.download import fetch, size_of
from astprompter.data.prepare import prepare_dialogues, prepare_eliciting, prepare_prefixes, statistics
from astprompter.data.published import read_convokit, read_human_turns
from astprompter.data.readers import BadRows, made
from astprompter.scorers.words import WordScorer
from helpers.commands import call

SCORER = WordScorer("banana")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ASTPROMPTER_CACHE", str(folder))
    return folder


def utterance(conversation: str, own: str, text: Any, **more: Any) -> dict[str, Any]:
    """A line of utterances.jsonl as ConvoKit writes it."""
    parent = None if own == conversation else conversation
    return {"id": own, "conversation_id": conversation, "text": text, "speaker": "someone", "reply-to": parent,
            "timestamp": 1538352000, "meta": {"score": 1}, "vectors": [], **more}  # fmt: skip


def thread(name: str, *texts: str) -> list[dict[str, Any]]:
    return [
        utterance(name, name, "the opening post"),
        *(utterance(name, f"{name}-{i}", t) for i, t in enumerate(texts)),
    ]


def corpus(folder: Path, rows: list[dict[str, Any]], *, inside: str = "", meta: Any = None) -> Path:
    path = folder / "reddit-corpus-small.corpus.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{inside}utterances.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        archive.writestr(f"{inside}conversations.json", json.dumps(meta or {}))
        archive.writestr(f"{inside}index.json", "{}")
    return path


def bad(text: str, labels: str = "__notok__", speaker: str = "human") -> str:
    persona = "your persona: i like tea.\\nyour persona: i have a cat."
    return f"text:{text}\tlabels:{labels}\tepisode_done:True\tspeaker_to_eval:{speaker}\tbot_persona:{persona}\n"


def bad_archive(folder: Path, lines: str, name: str = "test.txt") -> Path:
    path = folder / "dialogue_datasets_v0.2.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(f"bot_adversarial_dialogue_datasets_with_persona/{name}")
        member.size = len(lines.encode())
        archive.addfile(member, io.BytesIO(lines.encode()))
    return path


# --- archives --------------------------------------------------------------------------------------------------------


def lines_of(path: Path, name: str) -> list[str]:
    return list(made(member_rows(path, name), lambda row: str(row.value), BadRows()))


def test_nothing_in_an_archive_becomes_a_path_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.txt", "one\ntwo")
        archive.writestr("/etc/absolute.txt", "three")
    before = sorted(tmp_path.rglob("*"))
    assert lines_of(path, "*.txt") == ["one", "two", "three"]
    assert sorted(tmp_path.rglob("*")) == before
    tar = tmp_path / "links.tar"
    with tarfile.open(tar, "w") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match=r"holds no file '\*.txt'"):
        lines_of(tar, "*.txt")


@pytest.mark.slow
def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_room, "_ALWAYS_ALLOWED", 10_000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("utterances.jsonl", b"x\n" * 5_000_000)
    assert path.stat().st_size < 20_000
    read = 0
    with pytest.raises(UserError, match="over 100 times its size; it is not the archive that was published"):
        for _ in member_rows(path, "utterances.jsonl"):
            read += 2
    assert read < 5_000_000
    monkeypatch.setattr(archive_room, "_ALWAYS_ALLOWED", 10**9)
    monkeypatch.setattr(archive_room, "_LONGEST_LINE", 1000)
    line = tmp_path / "line.zip"
    with zipfile.ZipFile(line, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("utterances.jsonl", b"x" * 2_000_000)
    with pytest.raises(UserError, match="a line of more than 1,000 bytes"):
        lines_of(line, "utterances.jsonl")


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    whole = corpus(tmp_path, thread("a", "one", "two") * 200).read_bytes()
    for name, data in (("cut.zip", whole[: len(whole) // 2]), ("text.zip", b"no archive"), ("empty.zip", b""),
                       ("cut.tar.gz", gzip.compress(b"x" * 5000)[:-9])):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="cannot read") as caught:
            lines_of(tmp_path / name, "utterances.jsonl")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        lines_of(tmp_path / "none.zip", "x")
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes("ok\nGrün".encode("latin-1"))
    with pytest.raises(UserError, match=r"'a\.txt', line 2: not UTF-8"):
        lines_of(tmp_path / "latin", "a.txt")


# --- published forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "reddit-corpus-small/"])
def test_convokit_zips_old_and_new(tmp_path: Path, inside: str) -> None:
    rows = [*thread("a", "one", "two"), {"id": "b1", "root": "b", "text": None, "user": "x"}]
    meta = {"a": {"meta": {"subreddit": "tea", "title": "T"}, "vectors": []}, "b": {"subreddit": "cats"}, "c": 3}
    found = {item.id: item for item in read_convokit(corpus(tmp_path, rows, inside=inside, meta=meta))}
    assert (found["a"].opening, found["a"].replies, found["a"].subreddit) == ("the opening post", ["one", "two"], "tea")
    assert (found["b"].opening, found["b"].replies, found["b"].subreddit) == (None, [""], "cats")


@pytest.mark.parametrize(
    ("line", "message"),
    [("{bad", "'utterances.jsonl', line 2: not valid JSON"), ("[]", "line 2: no utterance of ConvoKit"),
     ('{"text": "x"}', "line 2: no utterance of ConvoKit"), ('{"conversation_id": "a", "text": 3}', "no utterance")],
)  # fmt: skip
def test_convokit_lines_that_are_wrong(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "utterances.jsonl").write_text(json.dumps(utterance("a", "a", "x")) + "\n" + line + "\n")
    with pytest.raises(UserError, match=message):
        read_convokit(tmp_path / "c")


def test_human_turns_of_the_bad_archive(tmp_path: Path) -> None:
    lines = (
        bad("Hello there.")
        + bad("Hello there.\\nHi!", speaker="bot")
        + bad("Hello there.\\nHi!\\nYou are a\\ttoaster__PIPE__.")  # the longest of the three
        + bad("Nice day.\\nIt is.", labels="__ok__", speaker="bot")
        + bad("Bots go first.\\nDo they?\\n\\nOh no.\\n")  # a blank line keeps its place, a last one has none
        + "\n"
    )
    expected = [("Hello there.", "You are a toaster|."), ("Do they?", "Oh no.")]
    assert read_human_turns(bad_archive(tmp_path, lines)) == expected
    (tmp_path / "valid.txt").write_text(lines)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "valid.txt").write_text(bad("Somebody else's."))
    assert read_human_turns(tmp_path / "valid.txt") == expected  # the file that was named, and no other
    pairs = [{"dialogue": [["Hello there.", "Hi!"]]}, {"dialogue": [["Hello there.", "Hi!"], ["You!", ""]]}]
    (tmp_path / "bad.json").write_text(json.dumps(pairs))
    assert read_human_turns(tmp_path / "bad.json") == [("Hello there.", "You!")]


def test_dialogues_in_our_own_form(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "turns": ["One.", "Two.", "Three."]}\n')
    assert prepare_dialogues(tmp_path / "mine.jsonl").files == {
        "probing_dialogues": [{"id": "bad-1", "turns": ["One.", "Two.", "Three."]}]
    }


def test_bad_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"train.txt', line 1: a dialogue must be an object with 'turns' or a line of ParlAI, not a text",
    ):
        read_human_turns(bad_archive(tmp_path, "just text\n", "train.txt"))
    (tmp_path / "x.json").write_text('[{"said": ["a"]}]')
    with pytest.raises(UserError, match="item 1: no column 'turns'"):
        read_human_turns(tmp_path / "x.json")
    with pytest.raises(UserError, match="no dialogue that turned offensive"):
        prepare_dialogues(bad_archive(tmp_path, bad("fine", labels="__ok__")))


# --- cleaning --------------------------------------------------------------------------------------------------------


def test_prefixes_follow_the_method(tmp_path: Path) -> None:
    rows = [
        *thread("gone", "one", "[removed]", "three"),
        *thread("short", "only one"),
        *thread("toxic", "you", "banana"),
        *thread("marked", "first", "a **bold** [link](https://x.org) ", "> quoted\nlast &amp; least"),
        *thread("twin", "A bold  LINK", "last & least"),
        *(row for i in range(60) for row in thread(f"t{i}", "zero", f"number {i}", f"answer {i}")),
    ]
    path = corpus(tmp_path, rows, meta={"marked": {"meta": {"subreddit": "tea"}}})
    prepared = prepare_prefixes(path, SCORER, seed=0)
    texts = {row["id"]: row for rows in prepared.files.values() for row in rows}
    assert texts["marked"] == {"id": "marked", "text": "a bold link last & least", "subreddit": "tea"}
    assert texts["t7"]["text"] == "number 7 answer 7"
    assert prepared.counts == {"read": 65, "with removed or deleted text": 1, "too short": 1, "toxic": 1,
                               "duplicates": 1, "kept": 61}  # fmt: skip
    sizes = {name: len(rows) for name, rows in prepared.files.items()}
    assert sum(sizes.values()) == 61
    assert sizes["prefixes_train"] > sizes["prefixes_test"] > 0
    again = prepare_prefixes(path, SCORER, seed=0)
    assert again.files == prepared.files
    assert prepare_prefixes(path, SCORER, seed=1).files != prepared.files


def test_too_few_texts_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leaves no texts for prefixes_.* \(1 read, 1 kept\)"):
        prepare_prefixes(corpus(tmp_path, thread("a", "one", "two")), SCORER)


class Unsure(WordScorer):
    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [float("nan") if "7" in text else value for text, value in zip(texts, super().score(texts), strict=True)]


def test_texts_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,body\n" + "".join(f"x{i},plain text {i}\n" for i in range(80)))
    prepared = prepare_prefixes(tmp_path / "p.csv", Unsure("banana"), column="body")
    assert prepared.counts["not scored"] == sum("7" in str(i) for i in range(80))


def test_eliciting_texts_are_filtered_and_counted(tmp_path: Path) -> None:
    def row(text: str, toxicity: float | None) -> str:
        return json.dumps({"prompt": {"text": text}, "continuation": {"text": " end", "toxicity": toxicity}}) + "\n"

    path = tmp_path / "prompts.jsonl"
    path.write_text(row("a", 0.9) + row("a", 0.8) + row("b", 0.5) + row("c", None) + row("d", 0.51))
    prepared = prepare_eliciting(path)
    assert prepared.files == {"eliciting": [{"text": "a end"}, {"text": "d end"}]}
    assert prepared.counts == {"read": 5, "mild": 1, "not scored": 1, "duplicates": 1, "kept": 2}


def test_statistics_by_hand() -> None:
    figures = statistics(["one two", "ONE  two", "a b c d"])
    assert figures == {"texts": 3, "distinct": 2, "words": 8, "words_mean": 8 / 3, "words_least": 2, "words_median": 2,
                       "words_most": 4}  # fmt: skip
    assert statistics([]) == {"texts": 0}


# --- downloads -------------------------------------------------------------------------------------------------------


class Files:
    """A file server on a real socket that can break off, lie, or change the file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.etag = data, '"v1"'
        self.breaks: list[int] = []  # bytes after which the next answers break off
        self.statuses: list[int] = []
        self.ranges, self.announce = True, True
        self.requests: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.send_response(200 if served.announce else 405)
                self.send_header("Content-Length", str(len(served.data)))
                self.end_headers()

            def do_GET(self) -> None:
                served.respond(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/files/set.zip"

    def respond(self, handler: Any) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append(wanted)
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        partial = bool(wanted) and self.ranges and handler.headers.get("If-Range") in (None, self.etag)
        if partial and start >= len(self.data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.data)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = self.data[start:] if partial else self.data
        handler.send_response(206 if partial else 200)
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        cut = self.breaks.pop(0) if self.breaks else len(body)
        handler.wfile.write(body[:cut])
        if cut < len(body):
            handler.close_connection = True

    def __enter__(self) -> Files:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


DATA = bytes(range(256)) * 4000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def files() -> Any:
    with Files(DATA) as served:
        yield served


class Noted(Silent):
    """Counts what a progress bar would show."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def task(self, description: str, total: int, unit: str) -> Any:
        del description
        self.total, self.done, self.unit = total, 0, unit
        from contextlib import nullcontext

        def advance(count: int) -> None:
            self.done += count

        return nullcontext(advance)


def get(files: Any, path: Path, **options: Any) -> Any:
    return fetch(files.url, path, sleep=lambda seconds: None, **options)


def test_a_download_is_checked_kept_and_not_repeated(files: Any, tmp_path: Path) -> None:
    path, shown = tmp_path / "deep" / "set.zip", Noted()
    fetched = get(files, path, progress=shown)
    assert (fetched.path.read_bytes(), fetched.sha256, fetched.verified) == (DATA, SHA, "first use")
    assert (shown.done, shown.total, shown.unit) == (1000, 1000, "KiB")
    assert {p.name for p in path.parent.iterdir()} == {"set.zip", "set.zip.sha256.json"}
    assert get(files, path, offline=True).verified == "recorded"
    kept = fetch(
        "http://mirror.invalid/set.zip", path, offline=True
    )  # what is there keeps its own address and checksum
    assert (kept.url, kept.verified) == (files.url, "recorded")
    assert json.loads((path.parent / "set.zip.sha256.json").read_text())["url"] == files.url
    assert files.requests == [""]
    assert size_of(files.url) == len(DATA)
    files.announce = False
    assert size_of(files.url) is None
    assert size_of("http://127.0.0.1:9/x") is None


def test_a_broken_transfer_is_continued_where_it_stopped(files: Any, tmp_path: Path) -> None:
    files.breaks = [300_000, 200_000, 1]
    shown = Noted()
    fetched = get(files, tmp_path / "set.zip", sha256=SHA.upper(), progress=shown)
    assert fetched.path.read_bytes() == DATA
    assert fetched.verified == "given"
    assert len(files.requests) == 4
    starts = [int(wanted[6:-1]) for wanted in files.requests[1:]]
    assert 0 < starts[0] <= starts[1] <= starts[2] <= 500_001
    assert shown.done == shown.total == 1000


def test_a_later_call_continues_what_an_earlier_one_left(files: Any, tmp_path: Path) -> None:
    files.breaks = [400_000, 0, 0]
    with pytest.raises(UserError, match=r"bytes are kept\); run the command again to continue"):
        get(files, tmp_path / "set.zip", attempts=2)
    assert not (tmp_path / "set.zip").exists()
    kept = (tmp_path / "set.zip.part").stat().st_size
    assert 0 < kept <= 400_000
    files.breaks = []
    assert get(files, tmp_path / "set.zip").path.read_bytes() == DATA
    assert files.requests[-1] == f"bytes={kept}-"


def test_a_file_that_changed_on_the_server_starts_anew(files: Any, tmp_path: Path) -> None:
    files.breaks = [400_000, 0]
    with pytest.raises(UserError, match="run the command again"):
        get(files, tmp_path / "set.zip", attempts=2)
    files.data, files.etag = DATA[::-1], '"v2"'
    assert get(files, tmp_path / "set.zip").path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_glued_together(files: Any, tmp_path: Path, etag: str) -> None:
    files.etag, files.breaks = etag, [400_000]
    assert get(files, tmp_path / "set.zip").path.read_bytes() == DATA
    assert files.requests == ["", ""]


def test_servers_without_ranges_and_whole_parts(files: Any, tmp_path: Path) -> None:
    files.ranges, files.breaks = False, [400_000]
    assert get(files, tmp_path / "a.zip").path.read_bytes() == DATA
    files.ranges = True
    (tmp_path / "b.zip.part").write_bytes(DATA)  # whole, but killed before it was renamed
    (tmp_path / "b.zip.part.json").write_text(json.dumps({"url": files.url, "validator": '"v1"'}))
    assert get(files, tmp_path / "b.zip", sha256=SHA).path.read_bytes() == DATA
    (tmp_path / "c.zip.part").write_bytes(DATA + b"more")
    (tmp_path / "c.zip.part.json").write_text(json.dumps({"url": files.url, "validator": '"v1"'}))
    assert get(files, tmp_path / "c.zip", sha256=SHA).path.read_bytes() == DATA


def test_overload_is_waited_out_and_absence_is_told(files: Any, tmp_path: Path) -> None:
    files.statuses = [503, 429, 200]
    assert get(files, tmp_path / "set.zip").path.read_bytes() == DATA
    files.statuses = [404]
    with pytest.raises(UserError, match="HTTP 404; check the address, or name a mirror by --url"):
        get(files, tmp_path / "other.zip")
    for url, message in (("http://127.0.0.1:9/x", "cannot download"), ("file:///etc/passwd", "not a web address"),
                         ("no address", "not a web address")):  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            fetch(url, tmp_path / "n.zip", sleep=lambda seconds: None, attempts=2)
        assert "\n" not in str(caught.value)


def test_another_checksum_is_refused(files: Any, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with pytest.raises(UserError, match=f"{SHA}, which is not the known one, {'0' * 64}"):
        get(files, path, sha256="0" * 64)
    assert not path.exists()
    assert not (tmp_path / "set.zip.part").exists()
    get(files, path)
    path.unlink()
    files.data = DATA[::-1]  # the record of the first use outlives the file
    with pytest.raises(UserError, match="which is not the one recorded at the first download"):
        get(files, path)
    files.data = DATA
    get(files, path)
    path.write_bytes(b"damaged on disk")
    with pytest.raises(UserError, match="or delete the file to fetch it again"):
        get(files, path)
    with pytest.raises(UserError, match="the network is off; run once without --offline"):
        get(files, tmp_path / "never.zip", offline=True)


# --- the command line ------------------------------------------------------------------------------------------------


def served(monkeypatch: pytest.MonkeyPatch, files: Any, name: str, data: bytes, file_name: str) -> None:
    """Let a catalog entry point to the local server."""
    import dataclasses

    files.data = data
    entry = dataclasses.replace(CATALOG[name], url=files.url.replace("set.zip", file_name), sha256=None)
    monkeypatch.setitem(CATALOG, name, entry)


def many_threads() -> list[dict[str, Any]]:
    return [row for i in range(60) for row in thread(f"t{i}", f"number {i}", f"answer {i}")]


@pytest.mark.slow
def test_prepare_reddit_through_the_command_line(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, cache: Path
) -> None:
    served(monkeypatch, files, "reddit-corpus-small", corpus(tmp_path, many_threads()).read_bytes(), "r.corpus.zip")
    arguments = ["data", "prepare", "reddit-corpus-small", "scorer.spec=word:banana"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert "nothing was downloaded" in err
    assert "none stated for the texts" in out
    assert "0.0 MB" in out
    assert files.requests == []
    code, out, err = call(capsys, *arguments, "--offline", "--yes")
    assert code == 2
    assert "the network is off" in err
    code, out, err = call(capsys, *arguments, "--yes")
    assert code == 0, err
    assert "data.train=reddit-corpus-small data.dev=reddit-corpus-small" in out
    assert len(load_prefixes("reddit-corpus-small", split="train")) > 30
    card = json.loads((cache / "prepared" / "reddit-corpus-small" / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256(files.data).hexdigest()
    assert card["sha256_compared_with"] == "first use"
    assert (card["scorer"], card["counts"]["kept"], card["split_seed"]) == ("word:banana", 60, 0)
    code, out, err = call(capsys, *arguments, "--offline")  # a second time: all is here
    assert code == 0, err
    with pytest.raises(UserError, match="holds prefixes_dev, prefixes_test, prefixes_train, and no eliciting"):
        load_eliciting("reddit-corpus-small")
    code, out, _ = call(capsys, "data", "stats", "reddit-corpus-small")
    assert "no prefix stands in more than one split" in out
    code, out, _ = call(capsys, "data", "show", "reddit-corpus-small", "-n", "2")
    assert code == 0
    assert "number" not in out  # masked
    code, out, _ = call(capsys, "data", "show", "reddit-corpus-small", "-n", "1", "--show-text")
    assert "number" in out


@pytest.mark.slow
def test_prepare_the_other_sets_from_local_files(tmp_path: Path, capsys: Any) -> None:
    rtp = tmp_path / "prompts.jsonl"
    rtp.write_text(json.dumps({"prompt": {"text": "a"}, "continuation": {"text": " b", "toxicity": 0.9}}) + "\n")
    code, out, err = call(capsys, "data", "prepare", "real-toxicity-prompts", "--file", str(rtp))
    assert code == 0, err
    assert "data.eliciting=real-toxicity-prompts" in out
    assert [item.text for item in load_eliciting("real-toxicity-prompts")] == ["a b"]
    code, out, err = call(capsys, "data", "show", "real-toxicity-prompts", "--show-text")  # what it was prepared as
    assert (code, out) == (0, "1  a b\n"), err
    again = tmp_path / "again.txt"
    again.write_text("One.\nTwo.\none. \n")
    code, out, _ = call(capsys, "data", "show", str(again))
    assert "warning: 1 of 3 texts occur before" in out
    code, _, err = call(capsys, "data", "show", str(rtp))
    assert code == 2
    assert "say --as eliciting or --as dialogues" in err
    archive = bad_archive(tmp_path, bad("Hello.\\nHi.\\nOh.\\nYes.\\nNo."))
    code, out, err = call(capsys, "data", "prepare", "bot-adversarial-dialogue", "--file", str(archive))
    assert code == 0, err
    assert load_dialogues("bot-adversarial-dialogue") == [("bad-1", ("Hello.", "Oh.", "No."))]
    for given in (["--as", "dialogues"], []):
        code, out, _ = call(capsys, "data", "stats", "bot-adversarial-dialogue", *given)
        assert code == 0
        assert "dialogues" in out
    own = tmp_path / "own.csv"
    own.write_text("body\n" + "".join(f"plain *text* {i}\n" for i in range(80)))
    code, out, err = call(capsys, "data", "prepare", str(own), "--as", "prefixes", "--column", "body", "--name", "mine",
                          "scorer.spec=word:banana")  # fmt: skip
    assert code == 0, err
    assert "warning: prefixes_test has fewer than 100 rows" in out
    assert {p.text for p in load_prefixes("mine", split="test")} <= {f"plain text {i}" for i in range(80)}
    code, out, _ = call(capsys, "data", "show")
    assert all(name in out.replace("\n", "") for name in ("mine", "embedded"))
    assert "Apache-2.0" in out


def test_hub_data_sets(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional package, played by a double; with the package itself, see below."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    arguments = ["data", "prepare", "hub:someone/texts", "--as", "eliciting", "--column", "body", "--yes"]
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "pip install 'astprompter[hub]'" in err
    double: Any = types.ModuleType("datasets")
    double.DownloadConfig = lambda local_files_only: None
    double.load_dataset = lambda name, split, download_config: [{"body": f"{name} {split}"}]
    monkeypatch.setitem(sys.modules, "datasets", double)
    code, out, err = call(capsys, *arguments, "--split", "validation")
    assert code == 0, err
    assert "see that page" in out
    assert [item.text for item in load_eliciting("texts")] == ["someone/texts validation"]

    def fails(name: str, split: str, download_config: Any) -> None:
        raise ConnectionError("no way\nthere")

    double.load_dataset = fails
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "cannot load data set 'someone/texts', split 'train' (ConnectionError: no way there)" in err


@pytest.mark.filterwarnings("default")  # the package warns about its own dependencies
def test_hub_data_sets_with_the_package_itself(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'astprompter[hub]' to test it")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "train.jsonl").write_text('{"body": "One."}\n{"body": "Two."}\n')
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    code, _, err = call(
        capsys, "data", "prepare", f"hub:{tmp_path / 'saved'}", "--as", "eliciting", "--column", "body", "--offline"
    )
    assert code == 0, err
    assert [item.text for item in load_eliciting("saved")] == ["One.", "Two."]
    code, _, err = call(capsys, "data", "prepare", f"hub:{tmp_path / 'saved'}", "--as", "eliciting", "--split", "tset")
    assert code == 2
    assert "split 'tset'" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redit-corpus-small", "--as", "prefixes"], "Did you mean 'reddit-corpus-small'?"),
        (["x.csv"], "say what 'x.csv' is with --as"),
        (["x.csv", "--as", "prefix"], "unknown kind of texts 'prefix'. Did you mean 'prefixes'?"),
        (["reddit-corpus-small", "--as", "eliciting"], "becomes prefixes; leave out --as"),
        (["{own}", "--as", "eliciting", "--name", "a/b"], "cannot name a data set"),
        (["{own}", "--as", "eliciting", "--name", "embedded"], "cannot name a data set"),
        (["{own}", "--as", "eliciting", "--name", "real-toxicity-prompts"], "is the name of a published data set"),
        (["reddit-corpus-small", "--file", "nowhere.zip"], "'nowhere.zip' does not exist"),
        (["{own}", "--as", "eliciting", "--sha256", "00"], "not the given one"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys: Any, arguments: list[str], message: str) -> None:
    own = tmp_path / "own.txt"
    own.write_text("One.\n")
    code, _, err = call(capsys, "data", "prepare", *(a.format(own=own) for a in arguments))
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_the_catalog_tells_what_a_user_must_know() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.licence
        assert entry.page.startswith("https://")
        assert entry.url.startswith("http")
        assert entry.download.suffix


@pytest.mark.slow
def test_looking_at_data_loads_no_torch() -> None:
    import os
    import subprocess

    code = ("import sys; from astprompter.data.looking import statistics_of; statistics_of('embedded', 'prefixes'); "
            "import astprompter.cli.commands.data; sys.exit('torch' in sys.modules)")  # fmt: skip
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})  # noqa: S603
