"""Failures that every scorer calls toxic: their share, their place in the lists, and the same over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astprompter.base.records import Prefix
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import Evaluation, measure
from astprompter.evaluation.grid import as_text
from astprompter.evaluation.statistics import Options
from astprompter.evaluation.summarise import figures_of, variety_of
from astprompter.evaluation.tables import of_summary
from astprompter.studies.pooling import pool
from helpers.files import read_rows
from helpers.tiny import PREFIXES, WordScorer

OPENINGS = [Prefix(f"p{i}", text) for i, text in enumerate(PREFIXES)]
SETTINGS = settings_from({"rollout": {"horizon": 3}, "evaluation": {"resamples": 100, "threshold": 0.2}})


class Vowels(WordScorer):
    """Calls texts with many of another letter toxic; has no score for some texts."""

    name = "letter o"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [min(1.0, 4 * text.count("o") / len(text)) if "z" not in text else float("nan") for text in texts]


@pytest.fixture
def result(make_lm: Any) -> Evaluation:
    adversaries = {"untuned": make_lm(seed=0), "tuned": make_lm(seed=3)}
    return measure(adversaries, make_lm(seed=0), WordScorer(), OPENINGS, SETTINGS, others=[Vowels()])


@pytest.mark.slow
def test_the_share_is_of_replies_that_all_call_toxic(result: Evaluation, tmp_path: Path) -> None:
    result.write(tmp_path)
    rows = read_rows(tmp_path / "trajectories.jsonl")
    for name, figures in result.summary.adversaries.items():
        assert figures.confirmed is not None
        paths = [row["turns"] for row in rows if row["adversary"] == name]
        scores = [[[s["tox_reply"] for s in turn["scores"].values()] for turn in turns] for turns in paths]
        known = [pair for turns in scores for pair in turns if None not in pair]
        both = [pair for pair in known if min(pair) > 0.2]
        assert figures.confirmed.tox_reply.share == pytest.approx(len(both) / len(known))
        assert figures.confirmed.tox_reply.valid == len(known)
        failed = sum(any(None not in pair and min(pair) > 0.2 for pair in turns) for turns in scores)
        assert figures.confirmed.failure_within_horizon.failed == failed
    assert sum(bool(f.confirmed and f.confirmed.tox_reply.share) for f in result.summary.adversaries.values())
    text = as_text(of_summary(result.summary)[0], 400)
    assert "confirmed" in text
    assert "replies that every scorer calls toxic" in text


@pytest.mark.slow
def test_confirmed_failures_come_first(result: Evaluation) -> None:
    rows = result.failures()
    marks = [row.confirmed for row in rows]
    assert {True, False} == set(marks)
    assert marks == sorted(marks, reverse=True)
    assert [row.rank for row in rows] == list(range(1, len(rows) + 1))
    for mark in (True, False):
        nlls = [row.path_nll for row in rows if row.confirmed is mark and row.path_nll is not None]
        assert nlls == sorted(nlls)


@pytest.mark.slow
def test_a_study_pools_confirmed_failures_too(result: Evaluation, tmp_path: Path) -> None:
    one = result.summary.adversaries["tuned"]
    alone = Evaluation(
        {"tuned": result.trajectories["tuned"]},
        result.summary.model_copy(update={"adversaries": {"tuned": one}, "comparisons": []}),
        result.defender,
        {scorer: {"tuned": tables["tuned"]} for scorer, tables in result.scores.items()},
        result.failures("tuned"),
    )
    alone.write(tmp_path)
    read, options = pool({0: tmp_path}, SETTINGS.evaluation.threshold), Options.of(SETTINGS.evaluation, seed=0)
    pooled = figures_of(read, options)
    assert pooled.confirmed is not None
    assert one.confirmed is not None
    assert pooled.confirmed.tox_reply.share == one.confirmed.tox_reply.share
    assert pooled.confirmed.failure_within_horizon.failed == one.confirmed.failure_within_horizon.failed
    assert pooled.clean == one.clean
    both = result.summary.variety
    assert both is not None
    mine = variety_of({"tuned": read}, options).variety.adversaries["tuned"]
    assert [at.distinct for at in mine.at] == [at.distinct for at in both.adversaries["tuned"].at]
    assert mine.failures == both.adversaries["tuned"].failures > 0


@pytest.mark.slow
def test_one_scorer_confirms_nothing(make_lm: Any) -> None:
    result = measure({"untuned": make_lm(seed=0)}, make_lm(seed=0), WordScorer(), OPENINGS, SETTINGS)
    assert result.summary.adversaries["untuned"].confirmed is None
    assert {row.confirmed for row in result.failures()} == {None}
