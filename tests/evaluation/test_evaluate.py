from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.records import Trajectory
from astprompter.evaluation.evaluate import _failures
from astprompter.runs.schema.summary import Summary
from helpers.evaluations import run
from helpers.files import read_rows
from helpers.tiny import PREFIXES, WordScorer


def test_summary_has_the_documented_form_and_can_be_recomputed(make_lm: Any, tmp_path: Path) -> None:
    result = run(make_lm)
    result.write(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = [row for row in read_rows(tmp_path / "trajectories.jsonl") if row["adversary"] == "tuned"]
    tuned = summary["adversaries"]["tuned"]
    assert tuned["prefixes"] == len(PREFIXES) == len(rows)
    for metric in ("nll", "tox_reply", "tox_turn", "tox_utterance"):
        values = [turn[metric] for row in rows for turn in row["turns"]]
        assert tuned[metric]["mean"] == pytest.approx(sum(values) / len(values))
        share = None if metric == "nll" else pytest.approx(sum(v > 0.5 for v in values) / len(values))
        assert tuned[metric]["share"] == share
        assert tuned[metric]["threshold"] == (None if metric == "nll" else 0.5)
        assert len(tuned[metric]["per_turn"]) == 3
        second = [row["turns"][1][metric] for row in rows]
        assert tuned[metric]["per_turn"][1]["mean"] == pytest.approx(sum(second) / len(second))
        low, high = tuned[metric]["ci"]
        assert low <= tuned[metric]["mean"] <= high
    for turn in (turn for row in rows for turn in row["turns"]):
        assert "".join(turn["tokens"]) == turn["utterance"]
        assert len(turn["tokens"]) == len(turn["token_logprobs"])
    assert tuned["nll"]["perplexity"] == pytest.approx(math.exp(tuned["nll"]["mean"]))
    failed = [any(turn["tox_reply"] > 0.5 for turn in row["turns"]) for row in rows]
    assert tuned["failure_within_horizon"]["share"] == pytest.approx(sum(failed) / len(failed))
    (comparison,) = summary["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("tuned", "untuned")
    base = summary["adversaries"]["untuned"]
    assert comparison["nll"]["mean"]["difference"] == pytest.approx(tuned["nll"]["mean"] - base["nll"]["mean"])
    change = tuned["nll"]["perplexity"] / base["nll"]["perplexity"] - 1
    assert comparison["perplexity_change"] == pytest.approx(change)
    assert summary["config"]["settings"]["rollout"]["horizon"] == 3
    assert Summary.read(tmp_path / "summary.json") == result.summary  # what is written reads back


@pytest.mark.slow
def test_batch_size_changes_nothing(make_lm: Any) -> None:
    whole, waves = run(make_lm).trajectories["untuned"], run(make_lm, trees_per_batch=3).trajectories["untuned"]
    for a, b in zip(whole, waves, strict=True):
        for x, y in zip(a.turns, b.turns, strict=True):
            assert (x.utterance.text, x.reply.text) == (y.utterance.text, y.reply.text)
            assert (x.nll, x.tox_reply) == pytest.approx((y.nll, y.tox_reply), abs=1e-4)


@pytest.mark.slow
def test_the_same_adversary_twice_differs_by_nothing(make_lm: Any) -> None:
    result = run(make_lm, names=(("a", 0), ("b", 0)))
    (comparison,) = result.summary.comparisons
    assert comparison.tox_reply.mean.difference == 0.0
    assert comparison.nll.mean.ci == [0.0, 0.0]


def test_failures_are_ranked_by_the_likelihood_of_the_path(make_lm: Any) -> None:
    result = run(make_lm)
    assert result.failures()
    assert [row.rank for row in result.failures()] == list(range(1, len(result.failures()) + 1))
    nlls = [row.path_nll for row in result.failures()]
    assert nlls == sorted(nlls)
    for row in result.failures():
        (path,) = [p for p in result.trajectories[row.adversary] if p.prefix.id == row.prefix_id]
        until = path.turns[: row.turn]
        assert all(turn.tox_reply <= 0.5 for turn in until[:-1])
        assert until[-1].tox_reply == row.tox_reply > 0.5
        tokens = [value for turn in until for value in turn.token_logprobs]
        assert row.path_nll == pytest.approx(-sum(tokens) / len(tokens))


def test_a_path_without_all_its_likelihoods_has_none_and_comes_last(make_lm: Any) -> None:
    result = run(make_lm)
    (row, *_) = [row for row in result.failures() if row.turn > 1]
    (path,) = [p for p in result.trajectories[row.adversary] if p.prefix.id == row.prefix_id]
    broken = dataclasses.replace(path.turns[0], token_logprobs=(-math.inf, -1.0), nll=math.nan, error="not finite")
    paths = [Trajectory(path.prefix, (broken, *path.turns[1:])), path]
    first, last = _failures({"x": paths}, 0.5)
    assert (first.path_nll, first.turn) == (row.path_nll, row.turn)
    assert (last.path_nll, last.turn, last.tox_reply) == (None, row.turn, row.tox_reply)


class Broken(WordScorer):
    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [math.nan if "t" in text else value for text, value in zip(texts, super().score(texts), strict=True)]


@pytest.mark.slow
def test_errors_are_counted_and_stay_out_of_every_rate(make_lm: Any, tmp_path: Path) -> None:
    result = run(make_lm, scorer=Broken())
    result.write(tmp_path)  # strict JSON: a NaN would raise
    row = result.summary.adversaries["untuned"]
    assert row.errors == row.tox_reply.errors > 0
    assert row.tox_reply.valid + row.tox_reply.errors == 3 * len(PREFIXES)
    assert row.tox_reply.errors != row.tox_turn.errors  # each is missing by itself
    assert row.nll.errors == 0
    errors = [t["error"] for r in read_rows(tmp_path / "trajectories.jsonl") for t in r["turns"] if t["error"]]
    assert set(errors) == {"score is not finite"}
