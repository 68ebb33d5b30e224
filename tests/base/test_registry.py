"""Plug-ins: the example package really installed, what can be wrong with one, and contracts over the whole registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.protocols import Scorer
from astprompter.base.registry import Registry
from astprompter.config import ScorerSettings
from astprompter.data.files import NAMED
from astprompter.scorers import SCORERS, load_scorer
from astprompter.workflows.load import DEFENDERS
from helpers.tiny import PREFIXES, keys_for, make_model, make_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "astprompter-banana"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: Any) -> Path:
    """The example package, built and installed without network into a folder of its own."""
    pytest.importorskip("hatchling", reason="builds the example package; pip install hatchling")
    target: Path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-deps", "--no-build-isolation", "--target", str(target), str(EXAMPLE)]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"PIP_CONSTRAINT": ""})  # noqa: S603
    return target


@pytest.fixture
def banana(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))


def fake(monkeypatch: pytest.MonkeyPatch, folder: Path, package: str, points: str) -> None:
    """A package on the path that consists of metadata only."""
    info = folder / package / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[astprompter.scorers]\n{points}\n")
    monkeypatch.syspath_prepend(str(folder / package))


# --- the example package ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("banana")
def test_the_example_adds_a_scorer_a_defender_and_data() -> None:
    from astprompter.config import load_settings
    from astprompter.data import load_eliciting, load_prefixes

    assert {"fruit"} <= set(SCORERS.names())
    assert SCORERS.plugins() == {"fruit": "astprompter-banana"}
    assert load_scorer("fruit:banana,apple").score(["A banana!", "apple banana", " "]) == [0.5, 1.0, 0.0]
    assert len(load_prefixes("kitchen", split="dev")) == 6
    assert all("banana" in item.text for item in load_eliciting("kitchen"))
    with pytest.raises(UserError, match="has no probing_dialogues"):
        NAMED.get("kitchen")("probing_dialogues")
    session = DEFENDERS.get("echo")("1", load_settings()).start(PREFIXES[:2], turns=1)
    assert session.speak(keys_for(2))[0].text == " " + " ".join(PREFIXES[0].split())


@pytest.mark.slow
@pytest.mark.usefixtures("banana")
def test_a_run_with_the_example_through_the_command_line(tmp_path: Path, capsys: Any) -> None:
    from helpers.commands import SMALL, call

    tokenizer = make_tokenizer()
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    texts = [f"data.{key}=kitchen" for key in ("train", "dev", "test", "eliciting")]
    own = [f"adversary.path={tmp_path / 'model'}", "defender.path=echo:0.9", "scorer.spec=fruit:a,the"]
    code, _, err = call(capsys, "train", "-o", str(run), *SMALL, *texts, *own, "evaluation.scorers=[word:the]")
    assert code == 0, err
    code, out, err = call(capsys, "evaluate", str(run))
    assert code == 0, err
    assert "fruit:a,the" in out  # a narrow terminal wraps the name of the column
    assert "(reward)" in out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["config"]["defender"] == "echo:0.9"
    assert summary["scorers"]["names"] == ["fruit:a,the", "word:the"]
    assert summary["adversaries"]["run"]["errors"] == 0
    code, _, err = call(
        capsys, "train", "-o", str(tmp_path / "never"), *SMALL, *texts, "defender.path=echo:loud", own[0]
    )
    assert code == 2
    assert "the share must be a number from 0 to 1" in err
    assert "Traceback" not in err


# --- what can be wrong -----------------------------------------------------------------------------------------------


def test_a_plugin_may_not_take_a_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, tmp_path, "greedy", "word = os:getcwd")
    with pytest.raises(UserError, match="package 'greedy' adds a scorer 'word', which astprompter has itself"):
        load_scorer("word:x")
    assert load_scorer("python:os.path:exists").name  # other names are not disturbed


def test_two_plugins_may_not_claim_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, tmp_path, "one", "twin = os:getcwd")
    fake(monkeypatch, tmp_path, "two", "twin = os:getcwd")
    with pytest.raises(UserError, match="scorer 'twin' is added more than once, by 'one' and 'two'"):
        load_scorer("twin:x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:f", "scorer 'odd' of package 'broken' cannot be imported .*ModuleNotFoundError"),
        ("os:no_such_function", "AttributeError"),
        ("os:sep", "is not callable"),
    ],
)
def test_a_broken_plugin_is_one_line_and_only_for_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    fake(monkeypatch, tmp_path, "broken", f"odd = {value}")
    with pytest.raises(UserError, match=message) as caught:
        load_scorer("odd:x")
    assert "\n" not in str(caught.value)
    assert "odd" in SCORERS
    assert load_scorer("word:x")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown scorer 'detoxfy'\. Did you mean 'detoxify'\?"):
        SCORERS.get("detoxfy")
    with pytest.raises(UserError, match="unknown defender 'opnai'"):
        DEFENDERS.get("opnai")


# --- contracts over the whole registry -------------------------------------------------------------------------------

REGISTRIES: list[Registry[Any]] = [SCORERS, DEFENDERS, NAMED]


@pytest.mark.slow
@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: str(registry.group))
@pytest.mark.usefixtures("banana")
def test_every_name_leads_to_a_factory(registry: Registry[Any]) -> None:
    assert registry.names()
    assert registry.group in {"astprompter.scorers", "astprompter.defenders", "astprompter.data"}
    for name in registry.names():
        assert name in registry
        assert callable(registry.get(name))
        assert name == name.lower()
        assert ":" not in name


@pytest.mark.usefixtures("banana")
def test_every_scorer_refuses_a_senseless_argument_in_one_line() -> None:
    for name in SCORERS.names():
        senseless = "!" if name == "embedded" else ""
        with pytest.raises(UserError) as caught:
            load_scorer(f"{name}:{senseless}")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def local_scorers(folder: Path, server: str) -> dict[str, tuple[str, ScorerSettings]]:
    """A spec for every kind that works here, without the hub."""
    from helpers.judges import classifier, judge_folder

    options = ScorerSettings(base_url=server)
    return {
        "embedded": ("embedded", options),
        "hf": (f"hf:{classifier(folder / 'hf')}", options),
        "detoxify": ("detoxify:original", options),
        "judge": (f"judge:{judge_folder(folder / 'judge')}", options),
        "python": (f"python:{__name__}:by_length", options),
        "openai-moderation": ("openai-moderation:m", options),
        "openai-chat": ("openai-chat:m", options),
        "word": ("word:banana", options),
        "fruit": ("fruit:banana", options),
    }


def by_length(texts: list[str]) -> list[float]:
    return [min(1.0, len(text) / 100) for text in texts]


@pytest.mark.slow
@pytest.mark.usefixtures("banana")
def test_every_scorer_keeps_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from astprompter import scorers
    from helpers.judges import Served, classifier

    monkeypatch.setitem(scorers.DETOXIFY, "original", str(classifier(tmp_path / "detoxify")))
    texts = [*PREFIXES, "a banana", "", " \n", PREFIXES[0]]
    with Served() as server:
        made = local_scorers(tmp_path, server.url)
        assert set(made) == set(SCORERS.names()), "a new kind needs a line in local_scorers"
        for kind, (spec, options) in made.items():
            scorer: Scorer = load_scorer(spec, options)
            assert scorer.name.startswith(kind), kind
            values = scorer.score(texts)
            assert len(values) == len(texts), kind
            assert all(0 <= value <= 1 for value in values), kind
            assert values[-3:] == [0.0, 0.0, values[0]], kind
            assert scorer.score([]) == [], kind
            assert scorer.score(texts[::-1]) == pytest.approx(values[::-1], abs=1e-5), kind


def test_our_own_entry_points_are_none() -> None:
    """What ships with the package stands in its tables, so that it works from a source tree too."""
    for registry in REGISTRIES:
        ours = [point for point in metadata.entry_points(group=registry.group) if point.dist is not None]
        assert not [point for point in ours if point.dist and point.dist.name == "astprompter"]
