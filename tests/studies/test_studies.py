"""Studies: plans, the pool of jobs, pooling over seeds, tables and findings."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.base.progress import Silent
from astprompter.config import load_settings
from astprompter.data import load_dialogues, load_prefixes
from astprompter.evaluation.grid import comma_separated, guarded, latex, markdown
from astprompter.evaluation.statistics import Options, describe, paired_difference
from astprompter.evaluation.summarise import METRICS, Measured, compare, figures_of
from astprompter.runs.schema.study import Case, CaseModels, Experiment, Finding, StudyAdversary
from astprompter.studies import runner as module
from astprompter.studies.done import is_done
from astprompter.studies.jobs import Measurement, Training, jobs_of
from astprompter.studies.paper.findings import CLAIMS, judged
from astprompter.studies.paper.tables import every_figure, grids, write_all
from astprompter.studies.plan import (
    adversaries_of,
    load_plan,
    plan_names,
    settings_differences,
    settings_of,
)
from astprompter.studies.runner import Runner, output_file
from astprompter.studies.summary import experiment_of
from astprompter.workflows.resume import texts_hash
from helpers.commands import SMALL, call
from helpers.files import config_file, read_rows
from helpers.report_runs import adversary as adversary_row
from helpers.report_runs import write_run
from helpers.tiny import SENTENCES, write_models

OPTIONS = Options(seed=0, resamples=200, level=0.95)


# ---- plans


def test_every_shipped_plan_expands(tmp_path: Path) -> None:
    assert plan_names() == ["ablations", "front", "paper", "scaling", "variants"]
    for name in plan_names():
        plan = load_plan(name, ["models.large=big"])
        jobs = jobs_of(plan, tmp_path)
        folders = [job.folder for job in jobs]
        assert len(set(folders)) == len(folders)
        assert {job.seed for job in jobs} == {0, 1, 2}
        trainings = [job for job in jobs if isinstance(job, Training)]
        for place, job in enumerate(jobs):
            if isinstance(job, Measurement) and job.needs:
                assert job.needs in jobs[:place]
        assert {job.case for job in trainings} <= {"small-vs-small", "small-vs-large", "large-vs-large"}


def test_ablations_differ_in_what_they_are_named_for() -> None:
    plan = load_plan("paper")
    ours = settings_of(plan, plan.pairs[0], 0, plan.train["ours"])
    found = {name: settings_of(plan, plan.pairs[0], 0, item) for name, item in plan.train.items()}
    assert {name: settings_differences(ours, settings) for name, settings in found.items()} == {
        "ours": {},
        "sft": {"training.objective": "sft", "training.dev_every": 10},
        "no-reply": {"reward.alpha": 0},
        "no-turn": {"reward.beta": 0},
        "no-likelihood": {"reward.lambda": 0},
        "no-supervision": {"supervision.q": 0},
        "neither": {"reward.lambda": 0, "supervision.q": 0},
    }  # fmt: skip
    assert ours == load_settings("embedded")


def test_overrides_reach_the_plan_and_the_settings_but_not_the_ablations() -> None:
    overrides = ["seeds=[4]", "models.small=./a", "preset=gpt2", "reward.lambda=0.3", "human=h.jsonl"]
    plan = load_plan("paper", overrides)
    ours = settings_of(plan, ("small", "small"), 4, plan.train["ours"])
    assert (ours.seed, ours.adversary.path, ours.defender.path, ours.reward.lambda_) == (4, "./a", "./a", 0.3)
    assert ours.training.learning_rate == 5e-7
    assert settings_of(plan, ("small", "small"), 4, plan.train["neither"]).reward.lambda_ == 0
    targets = {job.name: job.target for job in jobs_of(plan, Path("o")) if isinstance(job, Measurement)}
    assert targets["human"] == "human:h.jsonl"
    assert targets["untuned"] == "untuned"
    assert targets["sft"] == "o/runs/small-vs-small/seed-4/sft/best"


def test_pairs_of_models_that_are_not_named_are_left_out() -> None:
    assert load_plan("paper").pairs == [("small", "small")]
    assert len(load_plan("paper", ["models.large=x"]).pairs) == 3
    with pytest.raises(UserError, match=r"add models\.large=PATH"):
        load_plan("scaling")


def test_sweep_moves_one_setting_at_a_time_and_leaves_out_ours() -> None:
    plan = load_plan("front", ["reward.lambda=0.1"])
    trained = adversaries_of(plan)
    swept = {name: item for name, item in trained.items() if item.role == "sweep"}
    ours = settings_of(plan, plan.pairs[0], 0, plan.train["ours"])
    assert "lambda-0.1" not in swept
    assert "tau-0.05" not in swept
    for item in swept.values():
        assert len(settings_differences(ours, settings_of(plan, plan.pairs[0], 0, item))) == 1
    assert settings_of(plan, plan.pairs[0], 0, swept["tau-0.5"]).loss.tau == 0.5


def test_transfer_measures_on_the_other_defenders() -> None:
    plan = load_plan("scaling", ["models.large=big", "seeds=[0]"])
    found = {(job.case, job.name) for job in jobs_of(plan, Path()) if isinstance(job, Measurement) and "@" in job.name}
    assert found == {
        ("small-vs-large", "ours@small"), ("small-vs-small", "ours@large"), ("large-vs-small", "ours@large"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("[1]", [], "must be a YAML mapping"),
        ("a: [", [], "not valid YAML"),
        ("summary: s", [], "why: Field required"),
        ("{summary: s, why: w, trian: {}}", [], "trian: Extra inputs"),
        ("{summary: s, why: w, seeds: [1, 1]}", [], "a seed or a pair occurs twice"),
        ("{summary: s, why: w, train: {human: {}}}", [], "cannot name it"),
        ("{summary: s, why: w, train: {../x: {}}}", [], "cannot name it"),
        ("{summary: s, why: w, pairs: [[smal, small]]}", [], "no model 'smal'. Did you mean 'small'?"),
        ("{summary: s, why: w, transfer: [ours]}", [], "transfer names 'ours'"),
        ("{summary: s, why: w, sweep: {loss.tau: [1]}}", [], "a sweep varies 'ours'"),
        ("{summary: s, why: w}", ["sede=1"], "unknown key 'sede'"),
        ("{summary: s, why: w}", ["seed=1"], "Use seeds="),
        ("{summary: s, why: w}", ["seeds"], "not of the form key=value"),
        ("{summary: s, why: w, pairs: [[small, small], [small, small]]}", [], "a seed or a pair occurs twice"),
        ("{summary: s, why: w, train: {mine: {role: ours}}}", [], "name it 'ours' too"),
        ("{summary: s, why: w}", ["name=../evil"], "cannot name the folder"),
        ("{summary: s, why: w}", ["defender.path=mine"], "use models.NAME=… instead of 'defender.path'"),
    ],
)
def test_mistakes_in_plans(tmp_path: Path, content: str, overrides: list[str], message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        load_plan(str(file), overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"loss.tua": [1]}, r"sweep of unknown setting 'loss\.tua'"),
        ({"loss.tau": ["much"]}, r"setting loss\.tau='much'"),
        ({"data.eliciting": ["../../x.jsonl"]}, "is no name of a folder"),
        ({"adversary.dtype": ["bfloat16"], "defender.dtype": ["bfloat16"]}, "stands for another adversary too"),
        ({"evaluation.scorers": [["word:e"]]}, "is a list, which a sweep cannot vary"),
    ],
)
def test_mistakes_in_sweeps(sweep: dict[str, Any], message: str) -> None:
    plan = load_plan("front").model_copy(update={"sweep": sweep})
    with pytest.raises(UserError, match=message):
        adversaries_of(plan)


def test_values_of_a_sweep_are_those_of_the_setting() -> None:
    plan = load_plan("front").model_copy(update={"sweep": {"loss.tau": ["1e-3", 0.001, "5e-2", 1, 1.0]}})
    assert [name for name, item in adversaries_of(plan).items() if item.role == "sweep"] == ["tau-0.001", "tau-1.0"]
    with pytest.raises(UserError, match="Did you mean 'paper'"):
        load_plan("papre")


@pytest.mark.parametrize(
    ("overrides", "adversary", "dtype"),
    [
        ([], "embedded", "float32"),
        (["preset=gpt2"], "openai-community/gpt2", "float32"),
        (["preset=gpt2", "models.small.dtype=bfloat16"], "openai-community/gpt2", "bfloat16"),
        (["models.small=./m", "models.small.dtype=bfloat16"], "./m", "bfloat16"),
        (["models.small.dtype=bfloat16", "models.small=./m"], "./m", "bfloat16"),
    ],
)
def test_models_are_the_presets_or_the_named_ones(overrides: list[str], adversary: str, dtype: str) -> None:
    plan = load_plan("paper", overrides)
    settings = settings_of(plan, plan.pairs[0], 0, plan.train["ours"])
    assert (settings.adversary.path, settings.adversary.dtype) == (adversary, "float32")  # tuned in float32 always
    assert (settings.defender.path, settings.defender.dtype) == (adversary, dtype)


# ---- the pool of jobs, with a stand-in for the command line

FAKE = """
import json, pathlib, sys, time, yaml
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
settings = yaml.safe_load(open(arguments[arguments.index("--preset") + 1]))["settings"]
log = open(out.parents[3] / "calls.txt", "a")
print(json.dumps([arguments[0], out.name, settings["seed"], "--resume" in arguments]), file=log, flush=True)
print("some output\\nlast words of", out.name)
if (out.parents[3] / f"break-{out.name}").exists() or (out.parents[2] / f"break-{out.name}").exists():
    sys.exit(1)
def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
if arguments[0] == "train":
    config = json.loads((out.parents[4] / "config.json").read_text())
    write(out / "config.json", config | {"settings": settings})
    stop = (out.parents[3] / f"stop-{out.name}").exists()
    updates = 3 if stop else settings["training"]["updates"]
    state = {"format": config["format"], "progression": {"updates": updates}, "log_bytes": {}}
    write(out / "checkpoint" / "state.json", state)
    if stop:
        time.sleep(60)
    (out / "best").mkdir(exist_ok=True)
    hashes = {"defender": "a", "reference": "a"}
    write(out / "frozen.json", {"format": config["format"], "before": hashes, "after": hashes})
else:
    summary = json.loads((out.parents[4] / "summary.json").read_text())
    summary["config"] |= {"settings": settings, "targets": [arguments[1]]}
    write(out / "summary.json", summary)
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: Any) -> Any:
    (tmp_path / "fake.py").write_text(FAKE)
    (write_run(tmp_path / "measured") / "summary.json").rename(tmp_path / "summary.json")
    config_file(load_settings("embedded"), data_sha256={}).write(tmp_path / "config.json")
    rewrite(tmp_path / "summary.json", adversaries={"x": adversary_row(0.1, 2.0)}, comparisons=[])
    monkeypatch.setattr(module, "PROGRAM", (sys.executable, str(tmp_path / "fake.py")))
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    plan = tmp_path / "mine.yaml"
    plan.write_text("{summary: s, why: w, seeds: [0, 1], attacks: [untuned], train: {ours: {}, dpo: {preset: dpo}}}")
    jobs = jobs_of(load_plan(str(plan)), tmp_path / "out")
    (tmp_path / "out").mkdir()
    return jobs, tmp_path / "out"


def calls(out: Path) -> list[list[Any]]:
    return read_rows(out / "calls.txt") if (out / "calls.txt").exists() else []


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow)])
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
    (out / "stop-ours").touch()
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
    (out / "stop-ours").unlink()
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


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


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
    (out / "stop-ours").touch()
    pool = Runner(out, jobs=1, progress=Silent())
    pool._plan = jobs
    pool._start(jobs[1], None)
    assert not (jobs[2].folder / "summary.json").exists()  # gone before the training begins, in case it is killed
    pool._stop(9)
    (out / "stop-ours").unlink()
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


@pytest.mark.parametrize(
    "content", ["[]", '{"config": [], "adversaries": []}', '{"config": {}, "adversaries": {}}', "{"]
)
def test_odd_summaries_are_measured_again(study: Any, content: str) -> None:
    jobs, out = study
    Runner(out, jobs=1, progress=Silent()).run(jobs[:1])
    assert is_done(jobs[0])
    (jobs[0].folder / "summary.json").write_text(content)
    assert not is_done(jobs[0])


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


# ---- pooling


def pooled(seed: int, seeds: int = 2, *, shift: float = 0.0, holes: bool = True) -> Measured:
    rng = np.random.default_rng(seed)
    tables = {metric: rng.random((seeds, 9, 3)) for metric in METRICS}
    tables["nll"] = 2.0 + shift + rng.random((seeds, 9, 3))
    tables["utterance_perplexity"] = np.exp(tables["nll"])
    if holes:
        for table in tables.values():
            table[0, 4, 1] = np.nan
    row = {"distinct_1": 0.5, "vendi": None}
    prefixes = tuple(map(str, range(9)))
    return Measured(tuple(range(seeds)), prefixes, tables, (row,) * seeds, {"other": 3})


def test_pooled_figures_by_hand() -> None:
    item = pooled(0)
    row = figures_of(item, OPTIONS)
    table = item.tables["tox_reply"]
    valid = table[~np.isnan(table)]
    assert row.tox_reply.mean == pytest.approx(valid.mean())
    assert row.tox_reply.std == pytest.approx(valid.std(ddof=1))
    assert row.tox_reply.share == pytest.approx((valid > 0.5).mean())
    assert (row.tox_reply.valid, row.tox_reply.errors, row.errors) == (53, 1, 1)
    assert row.tox_reply.per_turn[2].mean == pytest.approx(table[:, :, 2].mean())
    by_seed = [np.nanmean(values) for values in table]
    assert [seed.mean for seed in row.tox_reply.by_seed] == pytest.approx(by_seed)
    assert row.tox_reply.seed_std.mean == pytest.approx(np.std(by_seed, ddof=1))
    assert row.nll.perplexity == pytest.approx(np.exp(np.nanmean(item.tables["nll"])))
    assert row.utterance_perplexity.std == pytest.approx(np.nanstd(np.exp(item.tables["nll"]), ddof=1))
    failed = np.any(table > 0.5, axis=2)
    open_ = np.isnan(table).any(axis=2) & ~failed
    assert row.failure_within_horizon.failed == failed.sum()
    assert row.failure_within_horizon.share == pytest.approx(failed[~open_].mean())
    clean = item.tables["tox_utterance"] <= 0.5  # false for nan
    after_clean = row.replies_by_utterance.clean
    assert (after_clean.turns, after_clean.share) == (clean.sum(), pytest.approx((table[clean] > 0.5).mean()))
    assert row.diversity == {"distinct_1": 0.5, "vendi": None}


def test_one_seed_pooled_is_that_seed() -> None:
    item = pooled(1, seeds=1)
    ours, theirs = figures_of(item, OPTIONS).tox_reply, describe(item.tables["tox_reply"], [0], OPTIONS)
    assert ours == theirs
    assert ours.ci is not None
    assert ours.seed_std.plain() == {"mean": None, "share": None}
    row = compare(item, pooled(2, seeds=1), ("a", "b"), OPTIONS)
    expected = paired_difference(item.tables["tox_reply"], pooled(2, seeds=1).tables["tox_reply"], [0], OPTIONS)
    assert row.tox_reply == expected


def test_more_seeds_of_the_same_prefixes_are_no_more_prefixes() -> None:
    one = pooled(3, seeds=1, holes=False)
    tables = {metric: np.repeat(table, 4, axis=0) for metric, table in one.tables.items()}
    four = Measured((0, 1, 2, 3), one.prefixes, tables, one.diversity * 4, one.strategies)
    assert figures_of(four, OPTIONS).nll.ci == pytest.approx(figures_of(one, OPTIONS).nll.ci)


def test_comparisons_are_paired() -> None:
    a, b = pooled(4, holes=False), pooled(4, holes=False, shift=0.5)
    row = compare(b, a, ("b", "a"), OPTIONS)
    assert row.nll.mean.difference == pytest.approx(0.5)
    assert row.nll.mean.ci == pytest.approx([0.5, 0.5])
    assert row.perplexity_change == pytest.approx(np.expm1(0.5))
    other = Measured(a.seeds, tuple("abcdefghi"), a.tables, a.diversity, a.strategies)
    with pytest.raises(UserError, match="different prefixes"):
        compare(a, other, ("a", "b"), OPTIONS)


def test_comparisons_are_over_the_seeds_of_both() -> None:
    a, b = pooled(4, seeds=3, holes=False), pooled(5, seeds=2, holes=False)
    row = compare(a, b, ("a", "b"), OPTIONS)
    assert row.seeds == [0, 1]
    difference = a.tables["tox_reply"][:2].mean() - b.tables["tox_reply"].mean()
    assert row.tox_reply.mean.difference == pytest.approx(difference)
    shares = (a.tables["tox_reply"][:2] > 0.5).mean(axis=(1, 2)) - (b.tables["tox_reply"] > 0.5).mean(axis=(1, 2))
    assert [own.share for own in row.tox_reply.by_seed] == pytest.approx(list(shares))
    elsewhere = dataclasses.replace(b, inputs=("other prefixes", ""))
    assert compare(a, elsewhere, ("a", "b"), OPTIONS).seeds == [0, 1]  # what is not known is not held against it
    with pytest.raises(UserError, match="different prefixes or defenders"):
        compare(dataclasses.replace(a, inputs=("prefixes", "")), elsewhere, ("a", "b"), OPTIONS)


# ---- findings, judged by figures that are written here by hand


def comparison(a: str, b: str, share: float, nll: float, *, ratio: float = 3.0, width: float = 0.01) -> dict[str, Any]:
    def difference(value: float) -> dict[str, Any]:
        return {"difference": value, "ci": [value - width, value + width]}

    return {
        "a": a,
        "b": b,
        "nll": {"mean": difference(nll), "by_seed": [{"mean": nll} for _ in range(2)]},
        "tox_reply": {"share": {**difference(share), "ratio": ratio}, "by_seed": [{"share": share} for _ in range(2)]},
        "perplexity_change": float(np.expm1(nll)),
    }


def adversary(kind: str, preset: str, share: float, nll: float, std: float = 5.0) -> dict[str, Any]:
    strategies = (
        {"politics": 4, "sexual": 3, "profanity": 9, "other": 4}
        if kind == "ours"
        else {"politics": 1, "sexual": 0, "profanity": 2}
    )
    return {
        "kind": kind, "preset": preset, "tox_reply": {"share": share}, "nll": {"mean": nll},
        "utterance_perplexity": {"std": std}, "strategies": strategies, "failure_within_horizon": {"assessed": 100},
    }  # fmt: skip


def case(defender: str = "small", model: str = "small") -> dict[str, Any]:
    rows = {
        "untuned": adversary("untuned", "", 0.05, 2.0), "human": adversary("human", "", 0.08, 4.0),
        "ours": adversary("ours", "", 0.25, 2.03), "sft": adversary("baseline", "sft", 0.1, 2.6),
        "no-reply": adversary("variant", "no-reply", 0.15, 1.95), "no-turn": adversary("variant", "no-turn", 0.06, 2.0),
        "no-likelihood": adversary("variant", "no-likelihood", 0.4, 2.8),
        "no-supervision": adversary("variant", "no-supervision", 0.2, 2.0, std=11.0),
        "neither": adversary("variant", "neither", 0.6, 3.5),
    }  # fmt: skip
    pairs = [(name, base) for base in ("untuned", "ours") for name in rows if name != base]
    comparisons = [
        comparison(
            a, b, rows[a]["tox_reply"]["share"] - rows[b]["tox_reply"]["share"],
            rows[a]["nll"]["mean"] - rows[b]["nll"]["mean"],
            ratio=rows[a]["tox_reply"]["share"] / rows[b]["tox_reply"]["share"],
        )
        for a, b in pairs
    ]  # fmt: skip
    return {"adversary": model, "defender": defender, "adversaries": rows, "comparisons": comparisons}


def story() -> dict[str, Any]:
    """A summary with the paper's shape."""
    cases = {"small-vs-small": case(), "small-vs-large": case("large"), "large-vs-large": case("large", "large")}
    scaling = [comparison("large-vs-large", "small-vs-large", -0.05, -0.2)]
    plan = {"models": {"small": "s", "large": "l"}, "pairs": [["small", "small"], ["small", "large"]]}
    return {"cases": cases, "scaling": scaling, "plan": plan}


def as_models(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Attributes instead of keys, as models have, but for what is a mapping in them too."""
    if isinstance(value, list):
        return [as_models(item, path) for item in value]
    if not isinstance(value, dict) or path[:1] == ("plan",):
        return value
    found = {key: as_models(item, (*path, key)) for key, item in value.items()}
    mapping = path[-1:] in ([("cases",), ("adversaries",), ("strategies",)])
    return found if mapping else SimpleNamespace(**found)


def outcomes(summary: dict[str, Any]) -> list[Any]:
    return judged(CLAIMS, as_models(summary))


def verdicts(summary: dict[str, Any]) -> dict[str, str]:
    return {item.id: item.verdict for item in outcomes(summary)}


def test_a_summary_of_the_papers_shape_reproduces_everything() -> None:
    assert set(verdicts(story()).values()) == {"reproduced"}
    assert list(verdicts(story())) == ["1", "2a", "2b", "3a", "3b", "4a", "4b", "5", "6a", "6b", "7"]


def test_nothing_measured_is_nothing_measurable() -> None:
    empty = {**story(), "cases": {}, "scaling": []}
    assert set(verdicts(empty).values()) == {"not measurable"}


def row_of(summary: dict[str, Any], a: str, b: str, name: str = "small-vs-small") -> dict[str, Any]:
    return next(row for row in summary["cases"][name]["comparisons"] if (row["a"], row["b"]) == (a, b))


def rows_of(summary: dict[str, Any]) -> dict[str, Any]:
    return dict(summary["cases"]["small-vs-small"]["adversaries"])


def set_share(row: dict[str, Any], value: float) -> None:
    row["tox_reply"]["share"] |= {"difference": value, "ci": [value - 0.01, value + 0.01]}


def widen(row: dict[str, Any], metric: str) -> None:
    found = row["nll"]["mean"] if metric == "nll" else row["tox_reply"]["share"]
    found["ci"] = [-9.0, 9.0]


SHARE = "share"
BREAKS: list[tuple[str, Any]] = [  # every condition of every claim
    ("1", lambda s: row_of(s, "ours", "untuned").update(perplexity_change=0.2)),
    ("1", lambda s: row_of(s, "ours", "untuned")["tox_reply"]["share"].update(ratio=1.9)),
    ("2a", lambda s: widen(row_of(s, "sft", "ours"), "nll")),
    ("2a", lambda s: widen(row_of(s, "sft", "ours"), SHARE)),
    ("2a", lambda s: row_of(s, "sft", "ours").update(perplexity_change=0.04)),
    ("2b", lambda s: set_share(row_of(s, "human", "ours"), 0.2)),
    ("2b", lambda s: widen(row_of(s, "human", "ours"), "nll")),
    ("2b", lambda s: row_of(s, "human", "ours")["nll"]["by_seed"][1].update(mean=-0.1)),
    ("3a", lambda s: set_share(row_of(s, "no-reply", "ours"), 0.0)),
    ("3a", lambda s: widen(row_of(s, "no-reply", "ours"), "nll")),
    ("3a", lambda s: row_of(s, "no-reply", "ours")["tox_reply"]["by_seed"][0].update(share=0.1)),
    ("3b", lambda s: set_share(row_of(s, "no-turn", "untuned"), 0.15)),
    ("4a", lambda s: set_share(row_of(s, "no-likelihood", "ours"), -0.1)),
    ("4a", lambda s: widen(row_of(s, "no-likelihood", "ours"), "nll")),
    ("4a", lambda s: row_of(s, "no-likelihood", "ours").update(perplexity_change=0.04)),
    ("4b", lambda s: rows_of(s)["no-supervision"].update(utterance_perplexity={"std": 6.0})),
    ("4b", lambda s: widen(row_of(s, "no-supervision", "ours"), SHARE)),
    ("5", lambda s: rows_of(s)["sft"].update(nll={"mean": 9.0})),
    ("5", lambda s: rows_of(s)["no-reply"].update(tox_reply={"share": 0.9})),
    ("6a", lambda s: set_share(row_of(s, "ours", "untuned", "small-vs-large"), 0.0)),
    ("6b", lambda s: s["scaling"][0]["nll"].update(mean={"difference": 0.1, "ci": [0.05, 0.15]})),
    ("6b", lambda s: widen(s["scaling"][0], SHARE)),
    *(("7", lambda s, name=name: rows_of(s)["ours"]["strategies"].update({name: 0}))
      for name in ("politics", "sexual", "profanity")),
    ("7", lambda s: rows_of(s)["untuned"].update(failure_within_horizon={"assessed": 20})),
]  # fmt: skip


@pytest.mark.parametrize(("number", "harm"), BREAKS)
def test_each_condition_of_each_finding_can_fail_alone(number: str, harm: Any) -> None:
    summary = story()
    harm(summary)
    assert {id_ for id_, verdict in verdicts(summary).items() if verdict == "not reproduced"} == {number}


def test_no_gain_at_all_reproduces_no_sparse_reward() -> None:
    summary = story()
    widen(row_of(summary, "ours", "untuned"), SHARE)
    assert (verdicts(summary)["1"], verdicts(summary)["3b"]) == ("not reproduced", "not reproduced")


def test_claims_are_judged_on_the_first_pair_only() -> None:
    summary = story()
    del summary["cases"]["small-vs-small"]
    assert {id_ for id_, verdict in verdicts(summary).items() if verdict != "not measurable"} == {"6a", "6b"}


def test_undecided_differences_tell_their_direction() -> None:
    summary = story()
    row_of(summary, "sft", "ours")["tox_reply"]["share"]["ci"] = [-0.3, 0.1]
    (finding,) = [item for item in outcomes(summary) if item.id == "2a"]
    assert finding.verdict == "not reproduced"
    assert "(direction agrees)" in finding.evidence


@pytest.mark.parametrize(("gone", "ids"), [("sft", {"2a"}), ("no-turn", {"3b"}), ("ours", {"1", "2a", "3b", "7"})])
def test_missing_adversaries_make_their_claims_not_measurable(gone: str, ids: set[str]) -> None:
    summary = story()
    main = summary["cases"]["small-vs-small"]
    del main["adversaries"][gone]
    main["comparisons"] = [row for row in main["comparisons"] if gone not in (row["a"], row["b"])]
    assert ids <= {id_ for id_, verdict in verdicts(summary).items() if verdict == "not measurable"}


def test_probing_stands_in_for_human_and_is_named() -> None:
    summary = story()
    text = json.dumps(summary["cases"]["small-vs-small"]).replace('"human"', '"probing"')
    summary["cases"]["small-vs-small"] = json.loads(text)
    (finding,) = [item for item in outcomes(summary) if item.id == "2b"]
    assert finding.verdict == "reproduced"
    assert "probing − ours" in finding.evidence
    summary["plan"]["human"] = "people.json"  # planned and not measured: nothing stands in
    assert verdicts(summary)["2b"] == "not measurable"


# ---- the whole, through the command line


class InProcess:
    """Runs a job's command in this process: as :class:`subprocess.Popen`, without its seconds of loading."""

    def __init__(self, command: Sequence[str], *, stdout: Any, env: Any, **options: Any) -> None:
        from contextlib import redirect_stderr, redirect_stdout

        from astprompter.cli import app as cli

        del options
        assert command[:3] == [sys.executable, "-m", "astprompter"]
        assert env["OMP_NUM_THREADS"]
        text = io.StringIO()
        before = sys.argv
        try:
            sys.argv = ["astprompter", *command[3:]]
            with redirect_stdout(text), redirect_stderr(text):
                cli.main()
            self.code = 0
        except SystemExit as stop:
            self.code = int(stop.code or 0)
        finally:
            sys.argv = before
        stdout.write(text.getvalue().encode())

    def poll(self) -> int:
        return self.code


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("study")
    write_models(folder, small=0, large=3)
    rows = [{"dialogue": [[text, "Yes."], ["Is it so?", ""]]} for text in SENTENCES]
    (folder / "human.json").write_text(json.dumps(rows))
    plan = """
        summary: s
        why: w
        models: {small: null, large: null}
        pairs: [[small, small], [small, large]]
        train: {ours: {role: ours}, sft: {preset: sft, role: baseline, pairs: first}}
        transfer: [ours]
        seeds: [0, 1]
        attacks: [untuned]
        claims: [1, 4a]
    """
    (folder / "mini.yaml").write_text(plan)
    data = [f"data.{name}={folder / 'texts.jsonl'}" for name in ("train", "dev", "test", "eliciting")]
    small = [value for value in SMALL if "scorer" not in value and "updates" not in value]
    return [str(folder / "mini.yaml"), f"models.small={folder / 'small'}", f"models.large={folder / 'large'}",
            f"human={folder / 'human.json'}", *data, *small, "scorer.spec=word:e", "training.updates=2"]  # fmt: skip


@pytest.mark.slow
def test_a_study_end_to_end(inputs: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0)
    out = str(tmp_path / "out")
    code, text, err = call(capsys, "experiment", *inputs, "--out", out, "--dry-run")
    assert (code, text.count("to do"), text.count("done ")) == (0, 24, 0)
    assert f"astprompter train --preset {out}/runs/small-vs-small/seed-0/ours.yaml" in text
    code, text, err = call(capsys, "experiment", *inputs, "--out", out)
    assert code == 0, err + text
    folder = tmp_path / "out" / "mini"
    assert {path.name for path in folder.iterdir()} == {
        "experiment.json", "tables.md", "tables.tex", "tables.csv", "findings.md",
    }  # fmt: skip
    summary = json.loads((folder / "experiment.json").read_text())
    assert summary["missing"] == []
    main = summary["cases"]["small-vs-small"]["adversaries"]
    assert list(main) == ["untuned", "human", "ours", "sft", "ours@large"]
    assert list(summary["cases"]["small-vs-large"]["adversaries"]) == ["untuned", "human", "ours", "ours@small"]
    assert main["ours"]["seeds"] == [0, 1]
    assert [main[name]["kind"] for name in main] == ["untuned", "human", "ours", "baseline", "transfer"]
    measured = tmp_path / "out" / "evaluations" / "small-vs-small"
    rows = [
        turn["nll"]
        for seed in (0, 1)
        for row in read_rows(measured / f"seed-{seed}" / "sft" / "trajectories.jsonl")
        for turn in row["turns"]
    ]  # fmt: skip
    assert main["sft"]["nll"]["mean"] == pytest.approx(np.mean(rows))
    assert len(summary["transfer"]) == 4
    assert len(summary["front"]) == 9
    assert [item["id"] for item in summary["findings"]] == ["1", "4a"]  # those that the plan names
    assert {item["id"]: item["verdict"] for item in summary["findings"]}["4a"] == "not measurable"
    assert Experiment.read(folder / "experiment.json").plain() == summary  # nothing is written that is not described
    assert "Transfer" in (folder / "tables.md").read_text()
    table = list(csv.DictReader(io.StringIO((folder / "tables.csv").read_text())))
    found = [row for row in table if row["adversary"] == "sft" and row["metric"] == "nll" and row["turn"] == "all"]
    assert float(found[0]["mean"]) == pytest.approx(main["sft"]["nll"]["mean"])
    assert "not measurable" in text
    code, text, err = call(capsys, "experiment", *inputs, "--out", out, "--dry-run")
    assert (code, text.count("to do"), text.count("done ")) == (0, 0, 24)
    run = json.loads((tmp_path / "out" / "runs" / "small-vs-small" / "seed-1" / "sft" / "config.json").read_text())
    assert run["settings"]["training"]["objective"] == "sft"


@pytest.mark.slow
def test_tables_of_a_part_say_so(inputs: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    code, _, err = call(capsys, "experiment", *inputs, "--out", str(tmp_path), "--tables-only")
    assert code == 2
    assert "nothing of experiment 'mini' is measured yet" in err
    plan = load_plan(inputs[0], inputs[1:])
    jobs = jobs_of(plan, tmp_path)
    Runner(tmp_path, jobs=2, progress=Silent()).run(jobs[:2])
    code, _, err = call(capsys, "experiment", *inputs, "--out", str(tmp_path), "--tables-only")
    assert code == 0, err
    for name in ("tables.md", "findings.md"):
        assert "22 jobs are still to be done" in (tmp_path / "mini" / name).read_text()
    assert experiment_of(plan, tmp_path).cases["small-vs-small"].adversaries.keys() == {"untuned", "human"}


def test_cells_cannot_be_formulas_or_markup() -> None:
    assert [guarded(cell) for cell in ("=1+1", "+a", "-a", "@a", "a=b", -1.5)] == [
        "'=1+1",
        "'+a",
        "'-a",
        "'@a",
        "a=b",
        -1.5,
    ]
    summary = minimal("=cmd|' /C calc'!A0 & 50_%")
    text = comma_separated(every_figure(summary))
    assert all(not cell.startswith("=") for row in csv.reader(io.StringIO(text)) for cell in row)
    (grid, *_) = grids(summary)
    assert "| =cmd\\|' /C calc'\\!A0 \\& 50\\_% |" in markdown(grid)
    assert r"=cmd\textbar{}' /C calc'!A0 \& 50\_\%" in latex(grid)
    assert "90 % interval" in grid.note
    table = list(csv.DictReader(io.StringIO(text)))
    found = {row["metric"]: row for row in table if row["turn"] == "all"}
    assert float(found["diversity vendi"]["mean"]) == 3.0
    assert float(found["failure_within_horizon"]["mean"]) <= 1.0
    assert (found["nll"]["share"], found["nll"]["threshold"], found["nll"]["seed_std_share"]) == ("", "", "")
    assert (found["tox_reply"]["share"] != "", found["tox_reply"]["threshold"]) == (True, "0.5")


def minimal(name: str) -> Experiment:
    row = StudyAdversary(
        **dict(figures_of(pooled(0), OPTIONS)), kind="variant", preset="", trained_on=None, changes={}, reward=None,
        tau=None,
    )  # fmt: skip
    row = row.model_copy(update={"diversity": {"distinct_utterances": 0.5, "self_bleu": None, "vendi": 3.0}})
    models = CaseModels(adversary="a", defender="d")
    case = Case(
        adversary="a", defender="d", models=models, scorer="w", test="t", horizon=3, level=0.9, likelihood="defender",
        adversaries={name: row}, comparisons=[],
    )  # fmt: skip
    return Experiment(
        experiment="x", summary="s", command=[], plan={}, versions={}, pooling="p", cases={"c": case}, scaling=[],
        transfer=[], front=[], missing=[], findings=[],
    )  # fmt: skip


def test_writing_replaces_all_files(tmp_path: Path) -> None:
    finding = Finding(id="1", claim="one claim", verdict="not measurable", evidence="", figures={})
    summary = minimal("one").model_copy(update={"findings": [finding]})
    write_all(summary, tmp_path)
    assert "one claim" in (tmp_path / "findings.md").read_text()
    write_all(minimal("two").model_copy(update={"experiment": "two"}), tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text())["experiment"] == "two"
    for name in ("tables.md", "tables.tex", "tables.csv"):
        text = (tmp_path / name).read_text()
        assert "two" in text
        assert "one" not in text
    assert not (tmp_path / "findings.md").exists()  # of a plan that names no claims


def test_a_plan_is_judged_by_the_claims_that_it_names() -> None:
    assert load_plan("paper").claims == list(CLAIMS)
    for name in plan_names():
        assert set(load_plan(name, ["models.large=big"]).claims) <= set(CLAIMS)
    assert load_plan("variants", ["claims=[]"]).claims == []
    with pytest.raises(UserError, match="no claim '9'; known: 1, 2a"):
        load_plan("paper", ["claims=[9]"])


def test_experiments_are_listed(capsys: Any) -> None:
    code, text, _ = call(capsys, "experiments")
    assert code == 0
    assert all(name in text for name in plan_names())


@pytest.mark.parametrize("arguments", [["experiments"], ["experiment", "--dry-run"], ["experiment", "--tables-only"]])
def test_what_trains_nothing_loads_no_torch(inputs: list[str], tmp_path: Path, arguments: list[str]) -> None:
    command, *options = arguments
    words = [command, *options, *([*inputs, "--out", str(tmp_path)] if options else [])]
    code = (
        "import atexit, sys\n"
        "from astprompter.cli.app import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'transformers' in sys.modules))\n"
        f"sys.argv = ['astprompter', *{words!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "False False", done.stdout + done.stderr
    assert done.returncode == (2 if "--tables-only" in options else 0), done.stderr
