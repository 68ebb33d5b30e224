"""An estimate of failure does not take the place of another one, or of one of more, unless it is told to."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astprompter.base.errors import UserError
from astprompter.config import Settings, settings_from
from astprompter.probability.measure import told
from astprompter.runs.schema.probability import DrawnRow, ProbabilityFile
from astprompter.workflows.estimates import Asked, deciding_estimate
from astprompter.workflows.objects import changed
from helpers.report_runs import write_probability

FACTS = {"versions": {"torch": "2.5"}, "scorer": "word banana", "natural_sha256": "a", "prefixes_sha256": "p"}
NAMES = ["ours", "other"]


def facts_of(settings: Settings) -> dict[str, Any]:
    return {"settings": settings.as_dict(), **FACTS}


def write_rows(folder: Path, config: dict[str, Any] | None) -> None:
    row = DrawnRow(measurement="x", stage="pilot", number=0, prefix_id="p", component=0, turns=[], config=config)
    (folder / "probability.jsonl").write_text((json.dumps(row.plain()) + "\n") * 2 + '{"measurement": "x", "sta')


def config_of(asked: Asked, settings: Settings) -> dict[str, Any]:
    return {**facts_of(settings), **told(NAMES, asked.measurement(settings, "untuned"), asked.effort)}


SETTINGS, ASKED = settings_from({"seed": 3}), Asked(400)


@pytest.mark.parametrize(
    ("asked", "settings", "names", "facts", "says"),
    [
        ({}, {}, NAMES, {}, ""),
        ({}, {"remote.timeout": 5, "rollout.trees_per_batch": 7, "training.updates": 9}, NAMES, {}, ""),
        ({"splitting": False, "sensitivity": True}, {}, NAMES, {}, ""),  # there is no result yet that could lose it
        ({"budget": 800}, {"evaluation.threshold": 0.9}, NAMES, {}, "threshold=0.9, budget=800"),
        ({"clean": True, "replies": 2}, {"rollout.horizon": 1}, NAMES, {}, "within=1, clean=0.2, replies=2"),
        ({"relative": 0.2}, {"seed": 1}, NAMES, {}, "seed=1, watched=True, relative=0.2"),
        ({}, {"rollout.top_p": 0.5}, NAMES[::-1], {}, r"rollout.top_p=0.5, adversaries=\['other', 'ours'\]"),
        ({}, {}, NAMES, {"versions": {"torch": "2.6"}, "scorer": "x"}, "versions.torch=2.6, scorer=x"),
        ({}, {}, NAMES, {"something": "new"}, "settings that are not recorded there"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_no_conversation_is_discarded_for_another_estimate_unless_told_to(
    tmp_path: Path, asked: dict[str, Any], settings: dict[str, Any], names: list[str], facts: dict[str, Any], says: str,
    finished: bool,
) -> None:  # fmt: skip
    """After an interruption as after the end, and where the conversations are gone; what decides nothing may change."""
    if finished:
        write_probability(tmp_path)
        told_of = {"config": config_of(ASKED, SETTINGS), "second": None}
        ProbabilityFile.read(tmp_path / "probability.json").model_copy(update=told_of).write(
            tmp_path / "probability.json"
        )
    else:
        write_rows(tmp_path, config_of(ASKED, SETTINGS))
    chosen, now = changed(SETTINGS, settings), replace(ASKED, **asked)
    held = "without their conversations" if finished else r"\(2 conversations\)"
    refusal = rf"'{tmp_path}' holds results of .* {held}, and this estimate has {says}: add --replace, or write beside"
    with pytest.raises(UserError, match=refusal) if says else nullcontext():
        now.refuse_other(tmp_path, chosen, "untuned", names, {**facts_of(chosen), **facts})
    replace(now, replace=True).refuse_other(tmp_path, chosen, "untuned", names, {**facts_of(chosen), **facts})


def test_conversations_of_an_earlier_version_are_not_discarded_either(tmp_path: Path) -> None:
    write_rows(tmp_path, None)
    ASKED.refuse_other(tmp_path, SETTINGS, "untuned", NAMES, None)  # before models are loaded nothing is known
    with pytest.raises(UserError, match="has settings that are not recorded there"):
        ASKED.refuse_other(tmp_path, SETTINGS, "untuned", NAMES, facts_of(SETTINGS))


def test_results_of_more_are_not_replaced_by_less(tmp_path: Path) -> None:
    write_rows(tmp_path, config_of(ASKED, SETTINGS))
    write_probability(tmp_path)
    found = ProbabilityFile.read(tmp_path / "probability.json")
    row = {"temperature": 1.0, "top_p": 0.9, "verdict": "reliable", "limits": found.limits}
    path = tmp_path / "probability.json"
    found.model_validate({**dict(found), "sensitivity": [row]}).write(path)
    for asked, says in (
        ({}, "no sensitivity"), ({"splitting": False}, "no splitting, no sensitivity"), ({"sensitivity": True}, ""),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"estimate has {says}: add") if says else nullcontext():
            replace(ASKED, **asked).refuse_other(tmp_path, SETTINGS, "untuned", NAMES, facts_of(SETTINGS))
    path.write_text("damaged")  # what cannot be read is made again of the conversations
    ASKED.refuse_other(tmp_path, SETTINGS, "untuned", NAMES, facts_of(SETTINGS))


def test_what_decides_an_estimate_is_of_json() -> None:
    found = deciding_estimate(config_of(ASKED, SETTINGS))
    assert json.loads(json.dumps(found)) == found
    assert {"seed", "within", "budget", "versions.torch", "defender.path"} <= found.keys()
    assert not {"remote.timeout", "rollout.horizon", "training.updates"} & found.keys()
