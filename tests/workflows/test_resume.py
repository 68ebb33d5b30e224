"""With which settings a run may go on."""

from __future__ import annotations

from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.config import Settings, settings_from
from astprompter.workflows.resume import check_resumable


def training(**values: Any) -> Settings:
    return settings_from({"training": {"updates": 100, **values}})


def test_a_run_of_constant_rate_may_be_trained_longer() -> None:
    assert check_resumable(training(updates=200), training()).training.updates == 200


@pytest.mark.parametrize(
    ("now", "recorded", "message"),
    [
        (training(updates=50), training(), "training.updates: 100 in the run, 50 now"),
        (training(updates=200, schedule="linear"), training(schedule="linear"), "a linear schedule's rates"),
        (training(updates=200, schedule="linear"), training(), "training.schedule: 'constant' in the run"),
    ],
)
def test_other_numbers_of_updates_are_refused(now: Settings, recorded: Settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_resumable(now, recorded)


def test_settings_of_a_repair_decide_nothing_else() -> None:
    other = training(objective="preference").changed(harden={"keep": 7.0})
    assert check_resumable(other, training()).harden.keep == 7.0
    with pytest.raises(UserError, match=r"harden\.keep"):
        check_resumable(training(objective="harden").changed(harden={"keep": 7.0}), training(objective="harden"))
