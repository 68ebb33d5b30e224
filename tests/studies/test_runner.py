"""The pool of jobs: everything once and in order, resumed, refused, noticed when inputs changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.progress import Silent
from astprompter.data import load_dialogues, load_prefixes
from astprompter.studies import runner as module
from astprompter.studies.done import is_done
from astprompter.studies.jobs import Training, jobs_of
from astprompter.studies.plan import load_plan
from astprompter.studies.runner import Runner, output_file
from astprompter.workflows.resume import texts_hash
from helpers import pretending
from helpers.files import read_rows
from helpers.pretending import rewrite
from helpers.report_runs import write_templates


@pytest.fixture
def study(tmp_path: Path, monkeypatch: Any) -> Any:
    write_templates(tmp_path)
    monkeypatch.setattr(module, "PROGRAM", (sys.executable, pretending.__file__))
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    plan = tmp_path / "mine.yaml"
    plan.write_text("{summary: s, why: w, seeds: [0, 1], attacks: [untuned], train: {ours: {}, dpo: {preset: dpo}}}")
    jobs = jobs_of(load_plan(str(plan)), tmp_path / "out")
    (tmp_path / "out").mkdir()
    return jobs, tmp_path / "out"


def calls(out: Path) -> list[list[Any]]:
    """Commands that were started: command, adversary, seed, and whether it was resumed."""
    rows = read_rows(out / "calls.txt") if (out / "calls.txt").exists() else []
    return [[*row[:3], row[3] == "resumed"] for row in rows if row[3] in ("begun", "resumed")]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_pool_runs_everything_once_and_in_order(study: Any, count: int) -> None:
    jobs, out = study
    Runner(out, jobs=count, progress=Silent()).run(jobs)
    assert all(map(is_done, jobs))
    done = calls(out)
    assert len(done) == len(jobs) == 10
    for name in ("ours", "dpo"):
        for seed in (0, 1):
            assert done.index(["train", name, seed, False]) < done.index(["evaluate", name, seed, False])
    if count == 1:
        assert done[:3] == [
            ["evaluate", "untuned", 0, False],
            ["train", "ours", 0, False],
            ["evaluate", "ours", 0, False],
        ]
    Runner(out, jobs=count, progress=Silent()).run(jobs)
    assert len(calls(out)) == 10  # nothing is done twice
    assert output_file(jobs[1]).read_text().endswith("last words of ours\n")


@pytest.mark.slow
def test_a_failed_job_takes_with_it_only_what_needs_it(study: Any, caplog: Any) -> None:
    jobs, out = study
    (out / "break-dpo").touch()
    caplog.set_level("INFO", "astprompter")
    with pytest.raises(UserError, match=r"2 of the jobs failed, first 'train dpo .*last words of dpo .*dpo\.txt"):
        Runner(out, jobs=2, progress=Silent()).run(jobs)
    assert [job.name for job in jobs if not is_done(job)] == ["dpo"] * 4
    assert sum(line.startswith("failed") for line in caplog.messages) == 2
    (out / "break-dpo").unlink()
    Runner(out, jobs=2, progress=Silent()).run(jobs)
    assert all(map(is_done, jobs))


@pytest.mark.slow
def test_an_interrupted_training_is_resumed(study: Any) -> None:
    jobs, out = study
    (out / "hold-ours-0").touch()
    before = time.monotonic()

    pool = Runner(out, jobs=1, progress=Silent())
    collect = pool._collect

    def interrupted(*arguments: Any) -> None:
        collect(*arguments)
        if any(isinstance(entry.job, Training) and pool._trained(entry.job) == 3 for entry in pool._running):
            raise KeyboardInterrupt

    pool._collect = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pool.run(jobs)
    assert time.monotonic() - before < 30  # the job was ended, not waited for
    (out / "hold-ours-0").unlink()
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    assert calls(out)[1:3] == [["train", "ours", 0, False], ["train", "ours", 0, True]]
    assert all(map(is_done, jobs))


@pytest.mark.slow
def test_runs_under_other_settings_are_refused(study: Any) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    config = jobs[1].folder / "config.json"
    content = json.loads(config.read_text())
    content["settings"]["loss"]["tau"] = 0.7
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"other settings than the plan's \(loss\.tau: 0\.7 in the run, 0\.05 now"):
        Runner(out, jobs=1, progress=Silent()).run(jobs)


@pytest.mark.slow
def test_what_is_only_evaluated_otherwise_is_not_trained_again(study: Any) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    other = jobs_of(load_plan(str(out.parent / "mine.yaml"), ["evaluation.prefixes=7"]), out)
    assert [is_done(job) for job in other] == [isinstance(job, Training) for job in other]


@pytest.mark.slow
def test_a_run_trained_anew_is_measured_anew(study: Any) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    shutil.rmtree(jobs[1].folder)
    assert [is_done(job) for job in jobs[:3]] == [True, False, False]
    (out / "hold-ours-0").touch()
    pool = Runner(out, jobs=1, progress=Silent())
    pool._plan = jobs
    pool._start(jobs[1], None)
    assert not (jobs[2].folder / "summary.json").exists()  # gone before the training begins, in case it is killed
    pool._stop(9)
    (out / "hold-ours-0").unlink()
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    assert [call[:3] for call in calls(out)[-2:]] == [["train", "ours", 0], ["evaluate", "ours", 0]]


@pytest.mark.slow
def test_texts_that_changed_under_their_name_are_noticed(study: Any, tmp_path: Path) -> None:
    jobs, out = study
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "One."}\n{"text": "Two."}\n')
    plan = load_plan(str(out.parent / "mine.yaml"), [f"data.test={file}", f"data.train={file}", f"human={file}"])
    jobs = jobs_of(plan, out)
    Runner(out, jobs=2, progress=Silent()).run(jobs)
    training = next(job for job in jobs if isinstance(job, Training))
    untuned, human = (next(job for job in jobs if job.name == name) for name in ("untuned", "human"))
    hashes = {name: texts_hash(load_prefixes(str(file), split="test")) for name in ("train",)}
    rewrite(training.folder / "config.json", data_sha256=hashes)
    config = json.loads((untuned.folder / "summary.json").read_text())["config"]
    config["prefixes"] |= {"sha256": hashes["train"]}
    rewrite(untuned.folder / "summary.json", config=config)
    assert is_done(training)
    assert is_done(untuned)
    config = json.loads((human.folder / "summary.json").read_text())["config"]
    (tmp_path / "said.jsonl").write_text('{"turns": ["a", "b", "c"]}\n')
    human = dataclasses.replace(human, target=f"human:{tmp_path / 'said.jsonl'}")
    hashed = texts_hash(load_dialogues(str(tmp_path / "said.jsonl")))
    dialogues = {human.target: {"usable": 1, "sha256": hashed, "skipped": {"count": 0, "first": None}}}
    rewrite(human.folder / "summary.json", config=config | {"targets": [human.target], "dialogues": dialogues})
    assert is_done(human)
    (tmp_path / "said.jsonl").write_text('{"turns": ["a", "b", "d"]}\n')
    assert not is_done(human)
    file.write_text('{"text": "One."}\n{"text": "Three."}\n')
    assert not is_done(untuned)
    with pytest.raises(UserError, match=r"trained on other texts than .*texts\.jsonl' \(data\.train\) holds now"):
        is_done(training)
    file.unlink()
    assert is_done(training)  # a file that is not at hand has not changed


@pytest.mark.slow
def test_runs_that_are_no_good_are_neither_done_nor_thrown_away(study: Any) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs)
    run = jobs[1].folder
    proof = (run / "frozen.json").read_text()
    (run / "frozen.json").unlink()
    assert not is_done(jobs[1])  # the proof is made at the next start
    (run / "frozen.json").write_text(proof)
    rewrite(run / "frozen.json", after={"defender": "b", "reference": "a"})
    with pytest.raises(UserError, match="changed its defender or reference"):
        is_done(jobs[1])
    (run / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(UserError, match="whose checkpoints are gone or damaged"):
        Runner(out, jobs=1, progress=Silent()).run(jobs)
    assert (run / "best").is_dir()


@pytest.mark.slow
def test_odd_summaries_are_measured_again(study: Any) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs[:1])
    assert is_done(jobs[0])
    for content in ("[]", '{"config": [], "adversaries": []}', '{"config": {}, "adversaries": {}}', "{"):
        (jobs[0].folder / "summary.json").write_text(content)
        assert not is_done(jobs[0]), content


def test_a_folder_serves_one_experiment_at_a_time(study: Any) -> None:
    jobs, out = study
    with module._lock(out), pytest.raises(UserError, match="in use by another experiment"):
        Runner(out, jobs=1, progress=Silent()).run(jobs)


@pytest.mark.slow
def test_jobs_of_a_killed_experiment_keep_others_out(study: Any) -> None:
    jobs, out = study
    with module._lock(out) as handle:
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(handle,))
    try:
        with pytest.raises(UserError, match="in use by another experiment"):
            Runner(out, jobs=1, progress=Silent()).run(jobs)
    finally:
        orphan.kill()
        orphan.wait()
    Runner(out, jobs=3, progress=Silent()).run(jobs[:3])
