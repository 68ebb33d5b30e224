"""Every reader of a run's files: spoilt ones are named by file and line, torn last lines are mended or told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from astprompter.base.errors import UserError
from astprompter.base.strict_json import first_fault, parse, read_object
from astprompter.config import settings_from
from astprompter.export import export_run
from astprompter.report.page import write_report
from astprompter.report.read import read_runs
from astprompter.runs.directory import FAILURES, LOG, PAIRS, TRAJECTORIES, TREES, RunDirectory
from astprompter.runs.results import result_rows
from astprompter.runs.schema.common import FORMAT, File, Interval, Number, read_rows, save_rows
from astprompter.runs.schema.learnt import PairRow, TreeRow
from astprompter.runs.schema.results import FailureRow, TrajectoryRow
from astprompter.runs.schema.run import ConfigFile, FrozenFile, Hashes, LogRow
from astprompter.runs.schema.state import Counters, ManifestFile, StateFile
from astprompter.runs.schema.summary import Summary
from astprompter.training import checkpoint
from astprompter.training.checkpoint import damage, load_checkpoint, save_checkpoint
from astprompter.workflows.label import read_replies
from astprompter.workflows.replay import replay
from astprompter.workflows.resume import refuse_changed
from astprompter.workflows.suite import make_suite
from helpers.files import config_file
from helpers.files import read_rows as plain_rows
from helpers.report_runs import write_run
from helpers.spoilt import broken_json, raw, spoilt_bytes, spoilt_value, taken, values

PAIR = {
    "iteration": 1,
    "source": "on_policy",
    "depth": 0,
    "margin": 0.1,
    "prompt_ids": [1],
    "chosen": " a",
    "rejected": " b",
}
JSONL: dict[str, Any] = {
    LOG: LogRow, TREES: TreeRow, TRAJECTORIES: TrajectoryRow, FAILURES: FailureRow, PAIRS: PairRow
}  # fmt: skip
STEP = LogRow(type="iteration", iteration=1, updates=1)
FEWER = settings(max_examples=1 + settings.default.max_examples // 3)  # of what reads a run in every way


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Path:
    """A run directory with every file of rows."""
    run = write_run(tmp_path_factory.mktemp("runs") / "mine", count=4)
    (run / PAIRS).write_text("".join(json.dumps(PAIR) + "\n" for _ in range(3)))
    return run


def steps(*updates: int) -> list[LogRow]:
    return [STEP.model_copy(update={"updates": n}) for n in updates]


def copy_of(whole: Path, folder: Path) -> Path:
    run = folder / "mine"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    return run


def use(run: Path, name: str) -> None:
    """Read a run in every way; whatever is wrong must be a line that names the run."""
    for form in ("html", "md"):
        taken(lambda form=form: write_report([run], form=form, note=lambda message: None), run.name)  # type: ignore[misc]
    for to in ("inspect", "promptfoo", "hf"):
        out = run.parent / f"out-{to}"
        shutil.rmtree(out, ignore_errors=True)
        taken(lambda to=to, out=out: export_run(run, to, out), run.name)  # type: ignore[misc]
    taken(lambda: RunDirectory.open(run).settings(), name if name == "config.json" else "")
    if (config := taken(lambda: RunDirectory.open(run).config())) is not None:
        now = config_file(settings_from({}), models_sha256={"adversary": "x"}, data_sha256={"train": "y"})
        taken(lambda: refuse_changed(config, now))
    RunDirectory(run).updates()


@pytest.mark.slow
@FEWER
@given(st.sampled_from([*JSONL, "config.json", "summary.json"]), st.data())
def test_a_spoilt_file_of_a_run_is_used_or_refused(whole: Path, tmp_path: Path, name: str, data: st.DataObject) -> None:
    run = copy_of(whole, tmp_path)
    (run / name).write_bytes(data.draw(spoilt_bytes((run / name).read_bytes())))
    use(run, name)


@pytest.mark.slow
@FEWER
@given(st.sampled_from([*JSONL, "config.json", "summary.json"]), st.data())
def test_a_file_with_another_value_is_used_or_refused(
    whole: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    run = copy_of(whole, tmp_path)
    lines = (run / name).read_text("utf-8").splitlines() if name in JSONL else [(run / name).read_text("utf-8")]
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = json.dumps(data.draw(spoilt_value(json.loads(lines[at]))))
    (run / name).write_text("".join(line + "\n" for line in lines), "utf-8")
    use(run, name)


@pytest.mark.slow
@given(
    st.sampled_from(list(JSONL)),
    broken_json | values.filter(lambda value: not isinstance(value, dict)).map(raw),
    st.data(),
)
def test_a_bad_line_in_the_middle_is_named(
    whole: Path, tmp_path: Path, name: str, bad: bytes, data: st.DataObject
) -> None:
    lines = (whole / name).read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(1, len(lines)))
    path = tmp_path / name
    path.write_bytes(b"".join([*lines[: at - 1], bad + b"\n", *lines[at - 1 :]]))
    assert taken(lambda: read_rows(path, JSONL[name]), str(path), f"line {at}: ") is None


@pytest.mark.parametrize("name", JSONL)
def test_a_last_line_torn_at_any_byte_is_told_and_left_out(whole: Path, tmp_path: Path, name: str) -> None:
    content, path = (whole / name).read_bytes(), tmp_path / name
    rows = read_rows(whole / name, JSONL[name])
    start = content[:-1].rfind(b"\n") + 1
    for end in sorted({*range(start + 1, len(content), 29), len(content) - 2, len(content) - 1}):
        path.write_bytes(content[:end])
        notes: list[str] = []
        found = read_rows(path, JSONL[name], note=notes.append)
        if end == len(content) - 1:  # only the line's end is missing: the row is whole
            assert (found, notes) == (rows, [])
            continue
        assert found == rows[:-1]
        assert len(notes) == 1
        assert f"'{path}', line {len(rows)}: the last line is torn" in notes[0]
        with pytest.raises(UserError, match=rf"line {len(rows)}: the last line is torn"):
            read_rows(path, JSONL[name])


def test_resuming_mends_a_torn_line_and_makes_later_rows_again(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "astprompter")
    run = RunDirectory.create(tmp_path / "run", config_file(settings_from({})))
    pair = PairRow.of(PAIR)
    run.append(LOG, [STEP])
    run.append(PAIRS, [pair, pair])
    sizes = run.sizes()
    run.append(LOG, [STEP, STEP])
    with (run.path / PAIRS).open("a") as file:
        file.write('{"iteration": 2, "sou')
    run.cut_logs(sizes)
    assert read_rows(run.path / LOG, LogRow) == [STEP]
    assert read_rows(run.path / PAIRS, PairRow) == [pair, pair]
    assert len(caplog.messages) == 1
    assert "pairs.jsonl': the last line is torn" in caplog.messages[0]
    run.cut_logs(sizes)
    assert run.sizes() == sizes
    assert len(caplog.messages) == 1


def test_rows_that_are_gone_for_good_are_told(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "astprompter")
    run = RunDirectory.create(tmp_path / "run", config_file(settings_from({})))
    run.append(LOG, steps(1, 2, 3))
    run.append(PAIRS, [PairRow.of(PAIR)])
    sizes = run.sizes()
    content = (run.path / LOG).read_bytes()
    (run.path / LOG).write_bytes(content[:-5])
    (run.path / PAIRS).unlink()
    run.cut_logs(sizes)
    notes = caplog.messages
    assert read_rows(run.path / LOG, LogRow) == steps(1, 2)
    assert ["torn" in notes[0], "shorter than at the checkpoint" in notes[1], "is gone" in notes[2]] == [True] * 3
    run.append(LOG, steps(4))  # what comes next stands on a line of its own
    assert read_rows(run.path / LOG, LogRow) == steps(1, 2, 4)


def test_the_report_of_an_sft_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", count=3)
    rows = [{key: row[key] for key in ("type", "iteration", "updates")} if row["type"] == "iteration" else row
            for row in plain_rows(run / LOG)]  # fmt: skip
    for name in rows[-1]["reward"]:  # every turn an error, and yet the last policy is kept
        rows[-1]["reward"][name] = None
    rows[-1]["best"] = True
    (run / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Dev reward" in write_report([run]).read_text("utf-8")


def test_a_failure_of_a_turn_that_is_not_there(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    first, *rest = plain_rows(run / FAILURES)
    for turn in (0, 9):
        (run / FAILURES).write_text("".join(json.dumps(row) + "\n" for row in (first | {"turn": turn}, *rest)))
        with pytest.raises(UserError, match=rf"failures\.jsonl' names turn {turn} of a trajectory that has 3"):
            export_run(run, "inspect", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        (TRAJECTORIES, slice(1, None), "3 of 'untuned' in place of 4"),
        (TRAJECTORIES, slice(0, -2), "2 of 'mine' in place of 4"),
        (TRAJECTORIES, slice(0, 0), "0 of 'untuned' in place of 4, 0 of 'mine' in place of 4"),
        (FAILURES, slice(0, 3), "3 of 'mine' in place of 4"),
        (FAILURES, slice(0, 0), "0 of 'mine' in place of 4"),
    ],
)
def test_a_file_that_lost_rows_is_refused_by_every_reader(
    whole: Path, tmp_path: Path, name: str, lines: slice, told: str
) -> None:
    run = copy_of(whole, tmp_path)
    content = (run / name).read_text("utf-8").splitlines(keepends=True)
    (run / name).write_text("".join(content[lines]), "utf-8")
    readers: dict[str, Any] = {
        "report": lambda: write_report([run]),
        "export": lambda: export_run(run, "inspect", tmp_path / "out"),
        "suite": lambda: make_suite([run], tmp_path / "suite"),
        "replay": lambda: replay(run, 1, 2),
        "label": lambda: read_replies(run),
    }
    for reader in readers if name == TRAJECTORIES else set(readers) - {"label"}:  # which reads no failures
        with pytest.raises(UserError, match=rf"{name}' does not hold the rows that summary\.json counts, but {told}"):
            readers[reader]()


def test_only_a_torn_last_line_may_be_lacking(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    content, notes = (run / FAILURES).read_bytes(), list[str]()
    (run / FAILURES).write_bytes(content[:-9])
    assert len(result_rows(run, FailureRow, note=notes.append)) == 3
    assert len(notes) == 1
    (run / FAILURES).write_bytes(content[content.index(b"\n") + 1 : -9])
    with pytest.raises(UserError, match="but 2 of 'mine' in place of 4; evaluate again"):
        result_rows(run, FailureRow, note=notes.append)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def learner() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


STATE = StateFile(counters=Counters(updates=3, iteration=1), log_bytes={"log.jsonl": 5})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    folder = Path(tmp_path_factory.mktemp("saved")) / "checkpoint"
    save_checkpoint(folder, *learner(), STATE)
    return folder


@pytest.mark.slow
@given(st.data())
def test_a_spoilt_manifest_is_named(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    manifest = folder / "manifest.json"
    value = spoilt_value(json.loads(manifest.read_text())).map(raw)
    content = data.draw(st.one_of(spoilt_bytes(manifest.read_bytes()), value, st.binary(max_size=20), values.map(raw)))
    manifest.write_bytes(content)
    reason = damage(folder)
    try:
        same = json.loads(content.decode("utf-8-sig")) == json.loads((saved / "manifest.json").read_text())
    except ValueError:
        same = False
    if reason is None:
        assert same
        assert load_checkpoint(folder, *learner()) == STATE
    else:
        assert reason.isprintable()
        assert taken(lambda: load_checkpoint(folder, *learner()), str(folder), "is damaged") is None


@pytest.mark.slow
@given(spoilt_value(STATE.plain()))
def test_a_state_of_another_shape_is_refused_though_its_hash_fits(tmp_path: Path, state: Any) -> None:
    folder = tmp_path / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    save_checkpoint(folder, *learner(), STATE)
    (folder / "state.json").write_bytes(raw(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["state.json"] = checkpoint.checksum(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = taken(lambda: load_checkpoint(folder, *learner()), str(folder))
    if found is not None:
        assert {**STATE.plain(), **state}.keys() >= found.plain().keys()
        assert isinstance(found.counters.updates, int)
        assert all(isinstance(size, int) for size in found.log_bytes.values())


@pytest.mark.parametrize("harm", ["garbage", "stranger"])
def test_weights_that_fit_the_manifest_but_not_the_model(tmp_path: Path, monkeypatch: Any, harm: str) -> None:
    folder = tmp_path / "checkpoint"
    writing = checkpoint.save_file

    def other(tensors: Any, path: Path) -> None:
        if harm == "garbage":
            path.write_bytes(b"no tensors")
        else:
            writing({f"stranger|{i}": value for i, value in enumerate(tensors.values())}, path)

    monkeypatch.setattr(checkpoint, "save_file", other)
    save_checkpoint(folder, *learner(), STATE)
    with pytest.raises(UserError, match="was not written by astprompter" if harm == "garbage" else "another model"):
        load_checkpoint(folder, *learner())


def test_moments_of_another_parameter(tmp_path: Path, saved: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    save_file({"stranger|step": torch.zeros(())}, folder / "optimizer.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["optimizer.safetensors"] = checkpoint.checksum(folder / "optimizer.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="belongs to another model"):
        load_checkpoint(folder, *learner())


# --- the parser and its shapes ---------------------------------------------------------------------------------------


@given(values | st.just({"a": {"b": [1, 2.5, "x"]}}))
def test_strict_json_gives_back_what_was_written(value: Any) -> None:
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        with pytest.raises(ValueError, match="is not a JSON number"):
            parse(json.dumps(value))
        return
    try:
        assert parse(text) == value
    except ValueError as error:
        digits = "a number too long" in str(error)  # a number of more digits than Python reads
        assert digits or ("half a character" in str(error) and "\\ud" in text)


@pytest.mark.parametrize(
    ("value", "shape", "reason"),
    [
        ({"updates": 1}, Counters, ""),
        ({"updates": 1, "best_reward": None, "seen": 2.5}, Counters, ""),
        ({}, PairRow, "'iteration': Field required"),
        ({"updates": 1, "best_reward": "x"}, Counters, "'best_reward': Input should be a valid number"),
        ({"updates": True}, Counters, "'updates': Input should be a valid integer"),
        ({"updates": 1.0}, Counters, "'updates': Input should be a valid integer"),
        ({"updates": 2**60}, Counters, "'updates': Input should be less than or equal to 9007199254740992"),
        (PAIR | {"unknown": 1}, PairRow, ""),
        (PAIR | {"prompt_ids": [1, "x"]}, PairRow, "'prompt_ids[1]': Input should be a valid integer"),
        (PAIR | {"margin": float("inf")}, PairRow, "'margin': Input should be a finite number"),
        ([], PairRow, "Input should be a valid dictionary or instance of PairRow"),
        ([0.5, 1], Interval, ""),
        (None, Interval, ""),
        ([1, 2, 3], Interval, "List should have at most 2 items after validation, not 3"),
        ([1, True], Interval, "'[1]': Input should be a valid number"),
        (10**400, Number, "Input should be a valid number"),
        (1e301, Number, "Input is too large a number"),
        (1, bool, "Input should be a valid boolean"),
        (0, None, "Input should be None"),
        ({}, list[str], "Input should be a valid list"),
    ],
)
def test_shapes(value: Any, shape: Any, reason: str) -> None:
    try:
        TypeAdapter(shape).validate_python(value, strict=True, extra="ignore")
    except ValidationError as error:
        assert first_fault(error) == reason
    else:
        assert reason == ""


def test_what_no_model_describes_cannot_be_written() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PairRow(**PAIR, unknown=1)
    with pytest.raises(ValidationError, match="finite number"):
        PairRow(**PAIR | {"margin": float("nan")})


@pytest.mark.parametrize("name", JSONL)
def test_rows_are_read_back_as_they_were_written(whole: Path, tmp_path: Path, name: str) -> None:
    rows = read_rows(whole / name, JSONL[name])
    save_rows(tmp_path / name, rows)
    assert read_rows(tmp_path / name, JSONL[name]) == rows
    assert plain_rows(tmp_path / name) == plain_rows(whole / name)


def test_whole_files_are_read_back_as_they_were_written(whole: Path, tmp_path: Path) -> None:
    hashes = Hashes(defender=None, reference="b")
    files: list[File] = [ConfigFile.read(whole / "config.json"), Summary.read(whole / "summary.json"), STATE]
    files += [FrozenFile(before=hashes, after=hashes), ManifestFile(sha256={"state.json": "c"})]
    for file in files:
        file.write(tmp_path / "file.json")
        assert type(file).read(tmp_path / "file.json") == file
        assert json.loads((tmp_path / "file.json").read_text("utf-8"))["format"] == FORMAT


@pytest.mark.parametrize(
    ("found", "said"),
    [(None, "it names no format, as earlier versions did"), (2, "format 2"), (FORMAT + 1, f"format {FORMAT + 1}")],
)
def test_a_run_of_another_format_is_refused_by_name_with_the_remedy(
    whole: Path, tmp_path: Path, found: int | None, said: str
) -> None:
    run = copy_of(whole, tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps({k: v for k, v in (config | {"format": found}).items() if v is not None})
    )
    remedy = rf"config\.json' was written by another version of astprompter \({said}; this one reads format {FORMAT}\)"
    with pytest.raises(UserError, match=remedy + "; train the run again, or use that version"):
        RunDirectory.open(run).settings()
    with pytest.raises(UserError, match=remedy):
        read_runs([run])
    with pytest.raises(UserError, match=remedy):
        export_run(run, "inspect", tmp_path / "out")


@pytest.mark.parametrize("text", [r'"\ud800"', r'["a", {"b": "\udfff"}]', r'{"\ud800": 1}'])
def test_half_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse(text)
    assert parse(r'"\ud83d\ude00"') == "\U0001f600"


def test_an_object_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"cannot read '.*a\.json': No such file"):
        read_object(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(path) == {"a": 1}
    path.write_text('{"a": 1,\n "a": 2}')
    with pytest.raises(UserError, match=r"a\.json': the key 'a' occurs twice"):
        read_object(path)
    path.write_text('{"a": 1,\n b}')
    with pytest.raises(UserError, match=r"line 2 column 2\)"):
        read_object(path)


def test_runs_are_read_with_what_they_hold(whole: Path) -> None:
    (run,) = read_runs([whole])
    assert (len(run.log), len(run.trees), len(run.failures), len(run.trajectories)) == (9, 11, 4, 8)
