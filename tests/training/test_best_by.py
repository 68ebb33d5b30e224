"""What chooses the best adversary, by hand: a collapsed policy of a higher reward loses by distinct failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.base.records import Node, Prefix, RolloutTree, Speech, Turn
from astprompter.config import settings_from
from astprompter.rollout.distinct import distinct_in
from astprompter.runs.schema.run import LogRow, NllMean, RewardMeans
from astprompter.runs.schema.state import Counters
from astprompter.training.best import _chosen
from astprompter.training.metrics import summary_line
from astprompter.workflows.resume import check_resumable
from helpers.trainers import begun, settings, stable, trainer

VARIED = [("a red goose", "flies"), ("two grey wolves", "howl at once"), ("bread and butter", "taste fine")]


def conversation(number: int, turns: list[tuple[str, str]], tox: float = 0.9) -> RolloutTree:
    tree = RolloutTree(Prefix(f"p{number}", "Once upon a time."))
    children = tree.children
    for said, replied in turns:
        children.append(Node(Turn(Speech(said), Speech(replied), 1.0, (), 0.0, tox, tox, tox), (1,)))
        children = children[0].children
    return tree


def dev(reward: float | None, distinct: int, nll: float | None = 2.0, iteration: int = 1) -> LogRow:
    means = RewardMeans(mean=reward, tox_reply_term=0.0, tox_turn_term=0.0, nll_term=0.0)
    return LogRow(
        type="dev", iteration=iteration, updates=iteration, reward=means, nll=NllMean(mean=nll),
        distinct_failures=distinct,
    )  # fmt: skip


def test_a_collapsed_policy_has_one_distinct_failure() -> None:
    collapsed = [conversation(i, [("a red goose", "flies"), ("a red goose", "flies")]) for i in range(3)]
    assert distinct_in(collapsed, 0.5) == 1
    assert distinct_in([conversation(i, [turn]) for i, turn in enumerate(VARIED)], 0.5) == 3
    assert distinct_in([conversation(0, VARIED, tox=0.5)], 0.5) == 0
    alike = [("a red goose", "flies"), ("something else", "flies")]  # the reply is known already
    assert distinct_in([conversation(0, alike)], 0.5) == 1


@pytest.mark.parametrize(("by", "kept"), [("reward", True), ("distinct", False)])
def test_a_collapsed_policy_loses_by_distinct_failures(tmp_path: Path, tokenizer: Any, by: str, kept: bool) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(best_by=by))
    run.state = Counters(best_reward=0.5, best_distinct=9, start_nll=2.0)
    assert run.is_best(dev(0.9, 2)) is kept
    assert run.is_best(dev(0.6, 9))  # reward decides among equals
    assert not run.is_best(dev(0.5, 9))
    assert run.is_best(dev(0.4, 10)) is not kept
    assert not run.is_best(dev(None, 20))


def test_what_is_too_unlikely_is_kept_only_while_nothing_else_is(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(best_nll=0.05))
    run.state = Counters(best_reward=0.5, start_nll=2.0)
    assert not run.is_best(dev(0.9, 2, nll=2.11))
    assert run.is_best(dev(0.9, 2, nll=2.09))
    run.state = Counters(start_nll=2.0)
    assert run.is_best(dev(0.9, 2, nll=3.0))
    run.state = Counters(best_reward=0.9, best_within=False, start_nll=2.0)
    assert run.is_best(dev(0.1, 2, nll=2.0))
    assert run.is_best(dev(0.95, 2, nll=3.0))
    assert not run.is_best(dev(0.8, 2, nll=2.5))


def test_it_is_logged_shown_and_said(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=3, best_by="distinct", best_nll=0.1))
    run.measure_dev()
    (row,) = run.directory.log()
    assert row.distinct_failures is not None
    assert row.best
    assert f"distinct failures {row.distinct_failures}  kept as best" in summary_line(row)
    assert (run.state.start_nll, run.state.best_distinct) == (row.nll and row.nll.mean, row.distinct_failures)
    card = (tmp_path / "a" / "best" / "README.md").read_text()
    assert "by distinct failures on the dev prefixes, with a dev nll at most 10.0% above the untuned" in card
    assert _chosen(settings()) == "by mean dev reward"


def test_what_is_a_failure_may_not_change_where_it_chooses() -> None:
    recorded = settings(best_by="distinct")
    with pytest.raises(UserError, match=r"evaluation\.threshold"):
        check_resumable(recorded.changed(evaluation={"threshold": 0.3}), recorded)
    plain = settings()
    check_resumable(plain.changed(evaluation={"threshold": 0.3}), plain)


@pytest.mark.slow
def test_a_resumed_run_chooses_as_if_nothing_had_happened(tmp_path: Path, tokenizer: Any) -> None:
    values = settings(updates=9, best_by="distinct", best_nll=0.2).as_dict() | {"evaluation": {"threshold": 0.1}}
    chosen = settings_from(values)
    straight = trainer(tmp_path / "a", tokenizer, chosen)
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, chosen)
    begun(broken, measured=True)
    resumed = trainer(tmp_path / "b", tokenizer, chosen, resume=True)
    assert resumed.state == broken.state
    resumed.run()
    rows = [stable([row.plain() for row in one.directory.log()]) for one in (straight, resumed)]
    assert rows[0] == rows[1]
    assert straight.state == resumed.state
