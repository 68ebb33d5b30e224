"""The command line as a user meets it: a run end to end, and every mistake answered by one line and exit code 2."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from astprompter.cli.commands.shared import OUT
from astprompter.cli.console import failure_blocks
from astprompter.config import load_settings, preset_names
from astprompter.runs.schema.results import FailureRow
from helpers.commands import call, settings
from helpers.report_runs import failure
from helpers.tiny import make_model, make_tokenizer


@pytest.mark.slow
def test_train_evaluate_and_look(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    code, out, err = call(capsys, "train", "-o", str(run), *settings(files, **{"defender.path": files["other"]}))
    assert code == 0, err
    assert "astprompter evaluate" in out
    assert "Content warning" in err
    assert {p.name for p in run.iterdir()} == {
        "config.json", "log.jsonl", "trees.jsonl", "checkpoint", "checkpoint.old", "best", "frozen.json",
    }  # fmt: skip
    code, out, err = call(capsys, "evaluate", str(run), files["model"])
    assert code == 0, err
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["adversaries"]) == ["untuned", "run", "model"]
    assert summary["comparisons"][1]["nll"]["mean"]["difference"] == 0.0  # the model folder is the untuned model
    assert "warning: 8 of 8 test prefixes also stand in the training set" in out
    texts = [t["utterance"].strip() for line in (run / "trajectories.jsonl").read_text().splitlines()
             for t in json.loads(line)["turns"]]  # fmt: skip
    assert not any(text in out for text in texts if len(text) > 8 and text.isalpha())  # masked


@pytest.mark.slow
def test_evaluate_tells_what_it_replaces_and_that_training_kept_its_start(
    files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    run, texts = tmp_path / "run", files["prefixes.jsonl"]
    code, _, err = call(
        capsys, "train", "-o", str(run), *settings(files), "training.learning_rate=1e-30", "training.updates=1"
    )
    assert code == 0, err
    assert "# Untuned adversary against" in (run / "best" / "README.md").read_text()
    code, out, err = call(capsys, "evaluate", str(run))
    assert code == 0, err
    assert "run: training kept its start (iteration 0)" in out
    assert "times as often" not in out
    assert "holds results" not in out
    code, out, err = call(capsys, "report", str(run), "--format", "md", "-o", str(tmp_path / "page.md"))
    assert code == 0, err
    assert "Training kept its start" in (tmp_path / "page.md").read_text()
    busy = os.open(run, os.O_RDONLY)
    fcntl.flock(busy, fcntl.LOCK_EX)
    code, _, err = call(capsys, "evaluate", str(run))
    assert code == 2
    assert f"another process is evaluating into '{run}'" in err
    os.close(busy)
    other = ["evaluate", files["other"], "--no-baseline", "-o", str(run), *settings(files)]
    code, _, err = call(capsys, *other)
    assert code == 2
    assert "and this evaluation has no 'untuned', no 'run': add --replace" in err
    code, out, err = call(capsys, *other, "--replace")
    assert code == 0, err
    assert re.search(rf"note: '{run}' holds results of 20[-0-9]+ [0-9:]+ \(untuned, run; 8 prefixes\); they are", out)
    assert not list(run.glob("*.tmp"))
    code, _, err = call(capsys, "evaluate", "untuned", "-o", str(tmp_path / "new"), f"data.test={texts}x")
    assert code == 2
    assert not (tmp_path / "new").exists()  # what was made for results that never came


@pytest.mark.slow
def test_model_files_can_be_read_by_others_like_any_file(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    before = os.umask(0o022)
    try:
        assert call(capsys, "train", "-o", str(tmp_path / "run"), *settings(files, **{"training.updates": "1"}))[0] == 0
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {"0o644"}


@pytest.mark.slow
def test_a_model_that_is_not_at_hand_is_refused_at_once_with_a_remedy(
    files: dict[str, str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astprompter.models.local import loading
    from astprompter.workflows import load, targets  # imported before the name is patched, which would else stay so

    loaded: list[str] = []
    for module in (load, targets):
        monkeypatch.setattr(module, "build_lm", lambda *given, **more: loaded.append("a model"))
    hub = loading.hub_constants()
    chosen = ["-p", "gpt2", *settings(files), "scorer.spec=detoxify:unbiased"]
    for command in (["train", "-o", str(tmp_path / "run"), *chosen],
                    ["evaluate", "untuned", "-o", str(tmp_path / "x"), *chosen]):  # fmt: skip
        code, _, err = call(capsys, *command)
        assert code == 2
        assert "'unitary/unbiased-toxic-roberta': it is not on this machine, and HF_HUB_OFFLINE is set" in err
        assert "scorer.spec=hf:./my-classifier" in err
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "reaches", lambda url: False)
    code, _, err = call(capsys, "train", "-o", str(tmp_path / "run"), *chosen)
    assert code == 2
    assert "cannot be reached; name a folder" in err
    assert loaded == []  # the scorer comes first


@pytest.mark.slow
def test_resume_through_the_command_line(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    run = str(tmp_path / "run")
    assert call(capsys, "train", "-o", run, *settings(files), "training.schedule=constant")[0] == 0
    before = (Path(run) / "log.jsonl").read_text()
    assert call(capsys, "train", "-o", run, "--resume")[0] == 0
    assert (Path(run) / "log.jsonl").read_text() == before  # nothing left to do
    recorded = json.loads((Path(run) / "config.json").read_text())
    done = recorded["settings"]["training"]["updates"]
    code, _, err = call(capsys, "train", "-o", run, "--resume", f"training.updates={done + 1}")
    assert code == 0, err
    assert json.loads((Path(run) / "log.jsonl").read_text().splitlines()[-1])["updates"] == done + 1
    recorded["settings"]["training"]["updates"] += 1
    assert json.loads((Path(run) / "config.json").read_text()) == recorded
    code, _, err = call(capsys, "train", "-o", run, "--resume", *settings(files, **{"loss.tau": "0.3"}))
    assert code == 2
    assert "loss.tau: 0.05 in the run, 0.3 now" in err


def test_print_config_reads_back(capsys: Any) -> None:
    import yaml

    code, out, _ = call(capsys, "train", "--print-config", "-p", "gpt2", "loss.tau=0.25", "reward.lambda=0")
    assert code == 0
    content = yaml.safe_load(out)
    assert content["training"]["batch_size"] == 8
    assert float(content["training"]["learning_rate"]) == 5e-7
    assert (content["loss"]["tau"], content["reward"]["lambda"]) == (0.25, 0)


@pytest.mark.parametrize(
    "preset",
    [name if name in ("embedded", "gpt2") else pytest.param(name, marks=pytest.mark.slow) for name in preset_names()],
)
def test_what_print_config_prints_is_a_preset(preset: str, tmp_path: Path, capsys: Any) -> None:
    text = "Answer: safe, or # not. " * 9
    odd = [f"scorer.instruction='{text}'", "scorer.safe_token=on", "scorer.answer_prefix=' '"]
    code, out, _ = call(capsys, "train", "--print-config", "-p", preset, *odd)
    assert code == 0
    (tmp_path / "mine.yaml").write_text(out)
    assert load_settings(str(tmp_path / "mine.yaml")) == load_settings(preset, odd)
    assert call(capsys, "train", "--print-config", "-p", str(tmp_path / "mine.yaml")) == (0, out, "")
    tuned = load_settings(f"{tmp_path / 'mine.yaml'}+sft", ["loss.tau=0.5"])
    assert (tuned.training.objective, tuned.loss.tau) == ("sft", 0.5)


@pytest.mark.slow
def test_settings_by_set_and_alone(capsys: Any, files: dict[str, str], tmp_path: Path) -> None:
    given = ("--set", "loss.tau=0.25", "seed=3", "--set", "reward.lambda=0", "--set=training.updates=7")
    code, out, _ = call(capsys, "train", "--print-config", *given)
    assert code == 0
    assert all(line in out for line in ("  tau: 0.25 ", "seed: 3 ", "  lambda: 0.0 ", "  updates: 7 "))
    for command in (["sft", "--print-config"], ["evaluate", "untuned"], ["play", str(tmp_path)],
                    ["experiment", "paper"], ["data", "prepare", files["prefixes.jsonl"], "--as", "prefixes"],
                    ["export", str(tmp_path), "--to", "trl", "-o", str(tmp_path / "x")]):  # fmt: skip
        code, _, err = call(capsys, *command, "--set", "loss.tua=1")
        assert code == 2, command
        if command[0] not in ("play", "export"):  # which look for the run first
            assert "'loss.tua'. Did you mean 'loss.tau'?" in err, command


@pytest.mark.slow
def test_a_folder_with_an_equals_sign_is_named_by_a_path(
    files: dict[str, str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files["model"], "seed=2")
    code, _, err = call(capsys, "evaluate", "lr=2", "-o", "x")
    assert code == 2
    assert "unknown setting 'lr'" in err
    assert "A folder of that name: './lr=2'" in err
    code, _, err = call(capsys, "evaluate", "./seed=2", "-o", "x", *settings(files), "evaluation.prefixes=2")
    assert code == 0, err
    assert list(json.loads(Path("x/summary.json").read_text())["adversaries"]) == ["untuned", "seed=2"]


def test_presets_are_listed(capsys: Any) -> None:
    code, out, _ = call(capsys, "presets")
    assert code == 0
    assert all(name in out for name in ("embedded", "demo", "gpt2", "gpt2-xl"))


@pytest.mark.slow
@pytest.mark.parametrize("width", ["40", pytest.param("80", marks=pytest.mark.slow)])
def test_lists_lose_nothing_on_a_narrow_page(width: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OUT, "_width", int(width))
    for command, words in (
        (["presets"], ["no-supervision", "training.learning_rate=5e-07", "training.updates=10000"]),
        (["experiments"], ["no-likelihood", "lambda-0.05"]),
        (["data", "show"], ["bot-adversarial-dialogue", "3.2 MB"]),
        (["data", "stats", "embedded"], ["45,712", "12,023", "30.5"]),
    ):
        code, out, _ = call(capsys, *command)
        assert code == 0
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= int(width)
        assert all(word in out for word in words), command


def test_failures_are_blocks_that_lose_nothing() -> None:
    values = {"rank": 12, "adversary": "ours-with-a-long-name", "prefix_id": "p", "turn": 3, "path_nll": 12.345,
              "tox_reply": 0.98, "utterance": " a [red] banana\x1b[31m", "reply": "word " * 30}  # fmt: skip
    row = FailureRow.of(failure("x", 0) | values)
    for width in (40, 80):
        for show_text in (True, False):
            page = Console(width=width, file=io.StringIO())
            page.print(failure_blocks([row], {"p": "It is so."}, show_text=show_text))
            text = page.file.getvalue()  # type: ignore[attr-defined]
            assert all(part in text for part in ("12. ours-with-a-long-name", "12.345", "0.98", "prefix", "reply"))
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= width
            assert text.split().count("word") == 30 * show_text
            assert ("a [red] banana·[31m" in text) == show_text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["-p", "dmeo"], "unknown preset 'dmeo'. Did you mean 'demo'?"),
        (["loss.tua=1"], "unknown setting 'loss.tua'. Did you mean 'loss.tau'?"),
        (["los.tau=1"], "unknown setting 'los'"),
        (["loss.tau=high"], "setting loss.tau='high'"),
        (["loss.tau=-1"], "setting loss.tau=-1: Input should be greater than 0"),
        (["loss.tau"], "not of the form key=value"),
        (["data.train=nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["data.train={empty}"], "is empty"),
        (["data.train={broken}"], "line 2: not valid JSON"),
        (["data.train={latin}"], "line 1: not UTF-8"),
        (["adversary.path=./no-model"], "model folder './no-model' does not exist"),
        (["adversary.path=no-such-model-anywhere"], "no-such-model-anywhere"),
        (["adversary.path={tmp}"], "cannot load"),
        (["scorer.spec=hf:./nothing"], "does not exist"),
        (["scorer.spec=word"], "needs a word"),
        (["rollout.horizon=16", "rollout.max_new_tokens=24"], "context of 256 tokens, too short for 16 turns"),
        (["adversary.device=quantum"], "device 'quantum' is not usable here"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    files: dict[str, str], tmp_path: Path, capsys: Any, changes: list[str], message: str
) -> None:
    for name, data in (("empty", b""), ("broken", b'"ok"\n{bad\n'), ("latin", "Grün".encode("latin-1"))):
        (tmp_path / f"{name}.jsonl").write_bytes(data)
    places = {name: str(tmp_path / f"{name}.jsonl") for name in ("empty", "broken", "latin")} | {"tmp": str(tmp_path)}
    run = tmp_path / "run"
    arguments = [*settings(files), *[change.format(**places) for change in changes]]
    code, _, err = call(capsys, "train", "-o", str(run), *arguments)
    assert code == 2
    assert message in err
    lines = [line for line in err.splitlines() if not line.startswith("Content warning") and line.strip()]
    assert sum(line.startswith("error:") for line in lines) == 1
    assert "Traceback" not in err
    assert not run.exists()


def test_a_folder_with_another_run_is_refused_before_anything_is_loaded(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    code, _, err = call(capsys, "train", "-o", str(tmp_path))
    assert code == 2
    assert "already holds a run; use --resume" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "some/model", "a.b=c"], "unknown setting"),
        (["evaluate", "./nothing", "-o", "x"], "does not exist"),
        (["evaluate", "some/model"], "--out"),
        (["train"], "--out"),
        (["train", "-o", "nowhere-at-all", "--resume"], "is not a run directory"),
    ],
)
def test_mistakes_of_arguments(capsys: Any, arguments: list[str], message: str) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err


@pytest.mark.slow
def test_importing_the_package_and_asking_for_help_loads_no_torch() -> None:
    program = "import sys, astprompter.cli.app; sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0  # noqa: S603
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "astprompter", "train", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "KEY=VALUE" in done.stdout


@pytest.mark.slow
def test_what_was_left_out_or_not_checked_is_said(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    rows = [
        {"prompt": {"text": f"A {i}"}, "continuation": {"text": " banana split", "toxicity": toxicity}}
        for i, toxicity in enumerate((0.9, 0.8, 0.2, None))
    ]
    eliciting = tmp_path / "rtp.jsonl"
    eliciting.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = tmp_path / "train.jsonl"
    train.write_bytes(Path(files["prefixes.jsonl"]).read_bytes())
    chosen = settings(files, **{"data.eliciting": str(eliciting), "data.train": str(train)})
    code, out, err = call(capsys, "train", "-o", str(tmp_path / "run"), *chosen)
    assert code == 0, err
    assert "2 eliciting texts; left out: 1 with a continuation at or below 0.5, 1 without a score" in out
    train.unlink()
    code, out, err = call(capsys, "evaluate", str(tmp_path / "run"))
    assert code == 0, err
    assert "not checked whether test prefixes also stand in the training set" in out


@pytest.mark.slow
def test_resume_refuses_other_texts_and_other_weights(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    train, model, run = tmp_path / "train.jsonl", tmp_path / "model", str(tmp_path / "run")
    train.write_bytes(Path(files["prefixes.jsonl"]).read_bytes())
    shutil.copytree(files["model"], model)
    chosen = settings(files, **{"data.train": str(train), "defender.path": str(model)})
    assert call(capsys, "train", "-o", run, *chosen)[0] == 0
    train.write_text(train.read_text().replace("garden", "orchard"))
    code, _, err = call(capsys, "train", "-o", run, "--resume")
    assert code == 2
    assert "cannot resume: data 'train' changed" in err
    train.write_bytes(Path(files["prefixes.jsonl"]).read_bytes())
    make_model("gpt2", len(make_tokenizer()), seed=9).save_pretrained(model)
    code, _, err = call(capsys, "train", "-o", run, "--resume")
    assert code == 2
    assert "cannot resume: model 'defender' changed" in err


@pytest.mark.slow
def test_one_process_at_a_time_trains_in_a_run(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert call(capsys, "train", "-o", str(run), *settings(files))[0] == 0
    code = "import sys, time; from pathlib import Path; from astprompter.runs.directory import RunDirectory as R; "
    code += f"r = R.open(Path({str(run)!r})); r.lock(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        status, _, err = call(capsys, "train", "-o", str(run), "--resume")
        assert status == 2
        assert "another process is training in" in err
        other.communicate("")
    assert call(capsys, "train", "-o", str(run), "--resume")[0] == 0
