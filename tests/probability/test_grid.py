"""Which limits hold where the truth is known, also of what the adversary misses; the whole grid: ``make grid``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.probability.estimate import NATURAL, Component


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("probability_grid")


def test_worlds_are_what_they_say(grid: Any) -> None:
    for missed in (0.0, 0.3, 1.0):
        world = grid.World.new(0.01, missed, np.random.default_rng(0))
        said = world.natural > 0
        assert world.natural.sum() == pytest.approx(1.0)
        assert world.natural @ world.fails == pytest.approx(0.01)
        assert np.exp(world.ratios[said]).T @ world.natural[said] == pytest.approx(1.0)
        assert world.variance((NATURAL,), np.ones(1)) == pytest.approx(0.01 * 0.99)  # counting
    draws = world.draw([NATURAL, Component(frozenset({0}), 3)], [15, 5], 2, np.random.default_rng(0))
    assert draws.component.tolist() == ([0] * 15 + [1] * 5) * 2


@pytest.mark.slow
@pytest.mark.parametrize(("missed", "gain"), [(0.0, 50.0), (0.01, 5.0)])
def test_far_fewer_conversations_where_little_is_missed(grid: Any, missed: float, gain: float) -> None:
    found = grid.cell(1e-3, missed, 40)
    assert found.gain > gain
    assert found.interval >= 0.9
    assert found.conservative >= 0.95
    assert found.proven >= 0.95
    if not missed:
        assert abs(found.ratio - 1.0) < 3.5 * found.error


@pytest.mark.slow
def test_the_interval_fails_where_natural_draws_do_not_meet_what_is_missed_and_the_conservative_limit_holds(
    grid: Any,
) -> None:
    found = grid.cell(1e-4, 0.3, 40)  # 0.012 of the missed failures are met
    assert found.interval < 0.5
    assert found.conservative >= 0.95
    assert found.proven >= 0.95
