"""A whole measurement on models of which the answer is known, and its files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.base.progress import Silent
from astprompter.base.records import Prefix
from astprompter.config import SamplingSettings
from astprompter.evaluation.statistics import wilson
from astprompter.probability import measure as measure_module
from astprompter.probability import splitting, words
from astprompter.probability.measure import Effort, measure
from astprompter.probability.pilot import BLOCK
from astprompter.probability.results import Measurement
from astprompter.runs.schema.probability import ProbabilityFile
from helpers.tabular import (
    TabularDefender,
    TabularModel,
    TabularScorer,
    TabularSpeaker,
    UncleanScorer,
    probability_of_failure,
)  # fmt: skip

SAMPLING = SamplingSettings(max_new_tokens=2, min_new_tokens=1, temperature=1.0, top_p=1.0, repetition_penalty=1.1)
PREFIXES = [Prefix("a", "4 5"), Prefix("b", "3 3"), Prefix("c", "2 4")]


def speaker(model: int) -> Any:
    found: Any = TabularSpeaker(SAMPLING, [], adversaries=0)
    found.members = (member := TabularModel(model, SAMPLING),)
    found.logits = member.logits
    return found


def run(
    *, effort: Effort | None = None, kept: Path | None = None, adversaries: dict[str, int] | None = None,
    scorer: Any = None, others: Sequence[Any] = (), prefixes: Sequence[Prefix] = PREFIXES, **changes: Any,
) -> Any:  # fmt: skip
    asked = {"within": 2, "threshold": 0.5, "clean": None, "replies": 1, "level": 0.95, "seed": 0, "natural": "untuned"}
    reference: Any = TabularSpeaker(SAMPLING, [], adversaries=0)
    tuned = {name: speaker(model) for name, model in ({"ours": 1} if adversaries is None else adversaries).items()}
    return measure(
        reference, tuned, TabularDefender(), scorer or TabularScorer(), prefixes,  # type: ignore[arg-type]
        Measurement(**(asked | {"watched": False} | changes)), effort or Effort(3000, None, second=True),
        others=others, progress=Silent(), config={"x": 1}, decides={}, kept=kept,
    )  # fmt: skip


def exact(*, clean: bool = False) -> float:
    speaker = TabularSpeaker(SAMPLING, [], adversaries=0)
    values = [
        probability_of_failure(speaker, tuple(map(int, prefix.text.split())), 2, clean=clean) for prefix in PREFIXES
    ]
    return sum(values) / len(values)


@pytest.mark.slow
def test_all_limits_hold_and_fewer_conversations_tell_as_much(tmp_path: Path) -> None:
    found, truth = run(), exact()
    limits = found.limits
    assert limits.interval[0] < truth < limits.interval[1]
    assert limits.proven < truth < limits.conservative
    assert limits.proven < limits.estimate < limits.interval[1] <= limits.conservative
    assert found.second.interval[0] < truth < found.second.interval[1]
    assert found.cost.gain > 1.5
    assert found.expected_gain == pytest.approx(found.cost.gain, rel=0.5)
    assert found.cost.conversations + found.cost.pilot == 3000
    assert found.cost.further == 20 * 37 * 2  # a quarter of the budget on islands, each reply paid for
    assert "replies, and 1,480 more for splitting)" in words.cost(found)
    assert " effective failures, the heaviest conversation carries " in dict(words.rows_of(found))["weights"]
    assert sum(turn.estimate for turn in found.per_turn) == pytest.approx(limits.estimate)
    assert sum(row.estimate for row in found.components) == pytest.approx(limits.estimate)
    assert sum(row.share for row in found.openings) == pytest.approx(1.0)
    assert found.components[0].turns == []
    assert [row.gamma for row in found.proposals] == [0.25, 0.5, 0.75, 1.0, 1.25]
    best = max(found.proposals, key=lambda row: row.likelier)
    assert 0.6 < best.likelier < best.likelier_interval[1] <= 1.0
    assert best.likelier_interval[0] == pytest.approx(best.likelier, abs=0.15)
    everywhere = next(row for row in found.components if row.turns == [1, 2])
    same = next(row for row in found.proposals if row.gamma == everywhere.gamma)
    assert everywhere.likelier == pytest.approx(same.likelier)
    assert all(abs(row.balance - 1.0) < 5 * row.balance_error for row in found.components)
    assert found.worst == limits
    found.write(tmp_path / "probability.json")
    assert ProbabilityFile.read(tmp_path / "probability.json") == found


@pytest.mark.slow
def test_without_adversaries_the_whole_budget_is_counted() -> None:
    found = run(adversaries={}, effort=Effort(3000, None, second=False))
    natural = found.diagnostics.natural
    assert (natural.conversations, found.cost.pilot, found.proposals) == (3000, 0, [])
    assert found.limits.estimate == natural.failures / 3000
    assert found.limits.interval[0] < exact() < found.limits.interval[1]
    assert found.limits.interval == pytest.approx(wilson(natural.failures, 3000, 0.95), rel=0.1)
    assert found.limits.proven < exact() < found.limits.conservative
    assert words.verdict(found) == "use Monte Carlo; natural conversations alone were counted, as asked"
    with pytest.raises(UserError, match="--budget 80 is too small; give at least 100"):
        run(adversaries={}, effort=Effort(80, None, second=False))


def test_conversations_with_one_opening_are_held_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[list[str]] = []
    for module, name, place in ((measure_module, "converse", 3), (splitting, "_grow", 3)):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, place=place, **k: held.append(a[place]) or real(*a, **k)
        )
    run(adversaries={}, effort=Effort(100, None, second=True))
    assert [len(openings) for openings in held] == [100, 100]  # all that are counted; 20 islands of 5
    islands = [held[1][row : row + 5] for row in range(0, 100, 5)]
    for openings in (held[0], *islands):
        assert len([opening for opening, _ in groupby(openings)]) == len(set(openings)) <= len(PREFIXES)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_with_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort, kept = Effort(400, None, second=True), tmp_path / "rows.jsonl"
    islands = tmp_path / "probability-islands.jsonl"
    whole = run(effort=effort)
    assert run(effort=effort, kept=kept) == whole
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == 400
    kept.write_bytes(b"".join(lines[:150]) + lines[150][:40])  # killed in the middle of a line
    figures = islands.read_bytes().splitlines(keepends=True)
    assert len(figures) == 20
    islands.write_bytes(b"".join(figures[:8]) + figures[8][:20])
    monkeypatch.setattr(measure_module, "_BATCH", 20)  # four islands, of which two batches are kept
    assert run(effort=effort, kept=kept) == whole
    assert islands.read_bytes().splitlines(keepends=True) == figures
    with monkeypatch.context() as patch:  # a finished one asks nobody anything
        patch.delattr(splitting, "_grow")
        patch.delattr(measure_module, "converse")
        assert run(effort=effort, kept=kept) == whole
    assert sorted(kept.read_bytes().splitlines(keepends=True)) == sorted(lines)
    other = run(effort=effort, kept=kept, seed=1)  # of another measurement: replaced
    assert other != whole
    of = {json.loads(line)["measurement"] for line in kept.read_text().splitlines()}
    assert len(of) == 1
    assert json.loads(lines[0])["measurement"] not in of


@pytest.mark.slow
def test_only_the_proven_limit_may_be_watched() -> None:
    found = run(effort=Effort(3000, 0.9, second=False), watched=True)
    assert found.limits.interval is None
    assert found.limits.conservative is None
    assert found.openings_like_these is None
    assert found.reasons[-1] == "the run was watched, and only the proven limit may be"
    assert found.verdict == "lower limit only"
    assert 0.1 * found.limits.estimate <= found.limits.proven < exact()
    assert found.cost.conversations % BLOCK == 0
    assert found.cost.conversations < 2400


def test_every_place_of_a_block_has_a_random_opening() -> None:
    """The proven limit bets on whole blocks; in a fixed order of openings or of components it would be invalid."""
    many: Any = SimpleNamespace(asked=SimpleNamespace(seed=0), prefixes=range(25))
    drawn = np.array([measure_module._Run._openings(many, "main", block) for block in range(500)])
    assert drawn.shape == (500, BLOCK)
    assert all(len(set(block)) == BLOCK for block in drawn.tolist())  # no two alike as long as there are others
    counts = np.array([np.bincount(place, minlength=25) for place in drawn.T])
    assert (abs(counts - 20) < 5 * np.sqrt(20)).all()  # each equally likely, whoever speaks there
    together = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert abs(together) < 5 / np.sqrt(drawn.size)  # blocks are independent
    few: Any = SimpleNamespace(asked=SimpleNamespace(seed=0), prefixes=range(3))
    assert sorted(np.bincount(measure_module._Run._openings(few, "main", 0))) == [6, 7, 7]


@pytest.mark.slow
def test_several_replies_to_an_utterance_tell_the_same() -> None:
    found = run(effort=Effort(1000, None, second=False), replies=3)
    assert found.limits.interval[0] < exact() < found.limits.interval[1]
    assert found.cost.replies == 3 * found.cost.utterances


@pytest.mark.slow
def test_a_clean_failure_is_a_measurement_of_its_own_and_costs_fewer_replies(tmp_path: Path) -> None:
    """The limits hold; rows are gone on from, but not for another event; where nothing is unclean it is the same."""
    effort, kept, scorer = Effort(1200, None, second=True), tmp_path / "rows.jsonl", UncleanScorer()
    found, truth = run(effort=effort, kept=kept, scorer=scorer, clean=0.2), exact(clean=True)
    assert truth < 0.8 * exact()
    assert found.limits.interval[0] < truth < found.limits.interval[1]
    assert found.limits.proven < truth < found.limits.conservative
    assert found.second.interval[0] < truth < found.second.interval[1]
    assert found.clean == 0.2
    assert found.cost.replies < found.cost.utterances
    assert words.headline(found).startswith("A conversation of 2 turns has a clean failure about once in")
    assert words.rows_of(found)[0][1].startswith(
        "a reply above 0.5 where the utterance and all before it score at most"
    )
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:500]))
    assert run(effort=effort, kept=kept, scorer=scorer, clean=0.2) == found
    every, same = run(effort=effort, kept=kept, scorer=scorer), run(effort=effort, scorer=scorer, clean=1.0)
    assert every.limits.estimate > found.limits.estimate
    assert same.model_copy(update={"clean": None}) == every


@pytest.mark.slow
def test_another_scorer_that_calls_everything_unclean_rules_every_clean_failure_out() -> None:
    effort = Effort(200, None, second=True)
    found = run(effort=effort, scorer=UncleanScorer(), others=[Scores(0.3)], clean=0.2)
    assert (found.limits.estimate, found.cost.replies, found.second.estimate) == (0.0, 0, 0.0)
    assert words.headline(found) == "No conversation of 2 turns had a clean failure"
    assert not words.nothing_assessed(found)
    found = run(effort=effort, scorer=UncleanScorer(), others=[Scores(math.nan)], clean=0.2)
    assert words.nothing_assessed(found)
    assert (found.worst.conservative, found.second.worst) == (1.0, 1.0)


@pytest.mark.slow
def test_adversaries_in_another_order_are_another_measurement(tmp_path: Path) -> None:
    """Rows hold ratios by the number of the adversary, so those of another order would be taken for its neighbour's."""
    effort, kept = Effort(400, None, second=False), tmp_path / "rows.jsonl"
    run(effort=effort, kept=kept, adversaries={"a": 1, "b": 2})
    order = {"b": 2, "a": 1}
    assert run(effort=effort, kept=kept, adversaries=order) == run(effort=effort, adversaries=order)


class Scores(TabularScorer):
    """The same score for every reply."""

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, texts: Sequence[str], contexts: Any = None) -> list[float]:
        return [self.value for _ in texts]


@pytest.mark.slow
def test_where_no_reply_could_be_assessed_nothing_is_known() -> None:
    found = run(effort=Effort(200, None, second=True), scorer=Scores(math.nan))
    assert words.nothing_assessed(found)
    assert words.headline(found).startswith("No reply could be assessed")
    assert (found.verdict, found.second.interval, found.limits.proven) == ("lower limit only", None, 0.0)
    assert found.worst.conservative == 1.0
    assert "unassessed replies may hide more than the interval allows" in found.reasons


@pytest.mark.slow
def test_where_everything_fails_no_limit_is_above_1_and_no_interval_claims_certainty() -> None:
    found = run(effort=Effort(200, None, second=True), scorer=Scores(1.0))
    assert (found.limits.estimate, found.limits.interval[1], found.worst.conservative) == (1.0, 1.0, 1.0)
    assert found.limits.interval[0] < 1.0
    assert (found.openings_like_these, found.second.interval) == (None, None)
    assert not words.nothing_assessed(found)
    assert (found.cost.counting, found.cost.gain) == (None, None)  # the run counted


@pytest.mark.slow
def test_one_opening_tells_nothing_of_others() -> None:
    found = run(effort=Effort(200, None, second=False), prefixes=PREFIXES[:1])
    assert 0.0 < found.limits.estimate < 1.0
    assert found.openings_like_these is None


def test_a_budget_that_tells_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        run(effort=Effort(100, None, second=False))
