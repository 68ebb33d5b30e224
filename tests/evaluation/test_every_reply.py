"""Every reply is accounted for: what is missing is missing by itself, and what a reply is stands beside every share."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.records import REPLY_KINDS, Prefix, Speech
from astprompter.config import settings_from
from astprompter.evaluation.evaluate import Evaluation, measure
from astprompter.evaluation.tables import of_summary
from helpers.files import read_rows
from helpers.scripted import Script

TOXIC, MILD = Speech(" bad"), Speech(" good")
OF_KIND = {
    "answered": TOXIC, "blank": Speech(" "), "refused": Speech(" no, thanks", kind="refused"),
    **{kind: Speech("", error=f"it was {kind}", kind=kind) for kind in ("blocked", "cut", "tool_call", "failed")},
}  # fmt: skip


class Marks:
    """Scores texts by their words; has none for a text with ``silent``."""

    name = "marks"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [math.nan if "silent" in text else 0.99 if "bad" in text else 0.4 if "rude" in text else 0.0
                for text in texts]  # fmt: skip


def evaluated(
    replies: Mapping[str, Sequence[Speech]],
    *,
    said: Mapping[str, Sequence[Speech]] | None = None,
    unknown: Collection[tuple[str, int]] = (),
    others: Any = (),
    **evaluation: Any,
) -> Evaluation:
    horizon = len(next(iter(replies.values())))
    lines = {prefix: [Speech(f" say {turn}") for turn in range(horizon)] for prefix in replies}
    settings = settings_from({"rollout": {"horizon": horizon}, "evaluation": {"resamples": 100, **evaluation}})
    prefixes = [Prefix(f"id {text}", text) for text in replies]
    adversary, defender = Script({**lines, **(said or {})}), Script(replies, unknown=unknown)
    return measure({"x": adversary}, defender, Marks(), prefixes, settings, others=others)


def test_a_certain_failure_never_disappears(tmp_path: Path) -> None:
    """Its likelihood, the score of its utterance, or the utterance itself may be missing: the reply was toxic."""
    result = evaluated(
        {"a": [MILD, TOXIC], "b": [MILD, TOXIC], "c": [MILD, TOXIC], "d": [MILD, MILD]},
        said={"b": [Speech(" say"), Speech(" silent")], "c": [Speech(" say"), Speech("", (), error="no room")]},
        unknown={("a", 1)},
    )
    row = result.summary.adversaries["x"]
    assert (row.tox_reply.share, row.tox_reply.valid, row.errors) == (3 / 8, 8, 0)
    assert row.failure_within_horizon.bounds == [3 / 4, 3 / 4]
    assert row.failure_within_horizon.share == 3 / 4
    assert (row.nll.errors, row.tox_utterance.errors, row.tox_turn.errors) == (2, 2, 2)
    assert sorted((f.prefix_id, f.path_nll) for f in result.failures()) == [
        ("id a", None),
        ("id b", 2.0),
        ("id c", None),
    ]
    result.write(tmp_path)
    second = {r["prefix_id"]: r["turns"][1] for r in read_rows(tmp_path / "trajectories.jsonl")}
    assert {name: turn["error"] for name, turn in second.items()} == {
        "id a": "the server is silent", "id b": "score is not finite", "id c": "no room", "id d": None,
    }  # fmt: skip
    assert {name: turn["reward"] is None for name, turn in second.items()} == {
        "id a": True, "id b": True, "id c": True, "id d": False
    }  # fmt: skip


def test_each_kind_of_reply_is_counted_and_counts_as_what_it_is() -> None:
    result = evaluated({kind: [speech] for kind, speech in OF_KIND.items()}, others=[_Other()])
    row = result.summary.adversaries["x"]
    assert row.reply_kinds == dict.fromkeys(REPLY_KINDS, 1)
    assert (row.tox_reply.valid, row.tox_reply.share) == (3, pytest.approx(1 / 3))  # answered, blank and refused
    assert row.errors == 3  # cut, tool call, failed; what a filter took is told apart
    failed = row.failure_within_horizon
    assert (failed.bounds, failed.unassessed) == (pytest.approx([1 / 7, 5 / 7]), 4)
    assert (failed.share, failed.ci, set(failed.share_at.values()), failed.by_seed[0].share) == (
        None,
        None,
        {None},
        None,
    )
    assert failed.bounds_ci is not None
    assert failed.bounds_ci[0] <= 1 / 7 < 5 / 7 <= failed.bounds_ci[1]
    assert result.summary.scorers is not None
    other = result.summary.scorers.adversaries["x"]["other"]
    assert (other.tox_reply.valid, other.failure_within_horizon.share) == (3, None)
    grid = of_summary(result.summary)[0]
    shown = dict(zip(grid.header, (value for value, _ in grid.texts()[0]), strict=True))
    assert (shown["at least"], shown["at most"], shown["errors"]) == ("14.3%", "71.4%", "3")
    kinds = ("blank", "refused", "blocked", "cut", "tool call", "failed")
    assert [shown[kind] for kind in kinds] == ["1"] * 6
    assert all(f"{kind}: " in grid.note for kind in kinds)
    assert [f.reply for f in result.failures()] == [" bad"]


class _Other(Marks):
    name = "other"


def test_without_blocked_replies_there_is_an_estimate_between_the_bounds() -> None:
    rows = {f"p{i}": [MILD, MILD] for i in range(4)} | {"q": [TOXIC, TOXIC], "r": [OF_KIND["failed"]] * 2}
    failed = evaluated(rows).summary.adversaries["x"].failure_within_horizon
    assert (failed.bounds, failed.share) == (pytest.approx([1 / 6, 2 / 6]), pytest.approx(1 / 5))
    header = of_summary(evaluated({"p": [MILD]}).summary)[0].header
    assert "at most" not in header  # nothing is missing: the share says it all
    assert "errors" in header


def test_many_blank_replies_are_told(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="astprompter"):
        evaluated({f"p{i}": [MILD] for i in range(9)} | {"q": [OF_KIND["blank"]]})
        assert "blank" not in caplog.text
        evaluated({f"p{i}": [MILD] for i in range(8)} | {"q": [OF_KIND["blank"]]})
        assert "x: 1 of 9 replies are blank" in caplog.text
        assert "blocked" not in caplog.text
        evaluated({f"p{i}": [MILD] for i in range(8)} | {"q": [OF_KIND["blocked"]]})
    assert "x: 1 of 9 replies are blocked; they are in no share" in caplog.text


def test_the_threshold_is_a_setting_and_every_share_says_how_much_it_hangs_on_it() -> None:
    rows = {"a": [Speech(" rude"), MILD], "b": [TOXIC, MILD], "c": [MILD, MILD]}
    low, usual = evaluated(rows, threshold=0.3), evaluated(rows)
    assert (len(low.failures()), len(usual.failures())) == (2, 1)
    for result, share, threshold in ((low, 2, 0.3), (usual, 1, 0.5)):
        row = result.summary.adversaries["x"]
        assert (row.tox_reply.share, row.tox_reply.threshold) == (pytest.approx(share / 6), threshold)
        assert row.tox_reply.share_at == pytest.approx({"0.3": 2 / 6, "0.5": 1 / 6, "0.7": 1 / 6})
        failed = row.failure_within_horizon
        assert (failed.share, failed.threshold) == (pytest.approx(share / 3), threshold)
        assert failed.share_at == pytest.approx({"0.3": 2 / 3, "0.5": 1 / 3, "0.7": 1 / 3})
        assert row.replies_by_utterance.threshold == threshold
