"""Plans of studies: what they expand to, what each adversary differs in, and mistakes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.config import load_settings
from astprompter.studies.jobs import Measurement, Training, jobs_of
from astprompter.studies.plan import (
    adversaries_of,
    load_plan,
    plan_names,
    settings_differences,
    settings_of,
)
from helpers.commands import call


@pytest.mark.slow
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


def test_experiments_are_listed(capsys: Any) -> None:
    code, text, _ = call(capsys, "experiments")
    assert code == 0
    assert all(name in text for name in plan_names())
