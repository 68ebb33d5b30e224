"""Notices: log records, which a library user sees and the command line shows above its progress bars."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from astprompter.base.progress import Bars, progress_of
from astprompter.cli.console import Notices
from astprompter.config import load_settings
from astprompter.workflows.held_out import test_prefixes as held_out
from helpers.tiny import SENTENCES


def test_a_library_user_is_warned_of_test_prefixes_that_were_trained_on(tmp_path: Path, caplog: Any) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    held_out(load_settings(overrides=[f"data.train={texts}", f"data.test={texts}"]))  # at Python's default level
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("astprompter.workflows", "WARNING", "6 of 6 test prefixes also stand in the training set")
    ]


def test_prefixes_that_stand_in_a_set_more_than_once_are_told(tmp_path: Path, caplog: Any) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = [*SENTENCES, SENTENCES[0].upper(), f" {SENTENCES[1]} "]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    held_out(load_settings(overrides=[f"data.test={texts}"]))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 8 test prefixes repeat the text of another; leave them out, since each counts and intervals come out too "
        "narrow"
    ]


@pytest.mark.parametrize("main", [True, False])
def test_the_command_line_shows_notices_of_one_process_and_restores_the_logger(monkeypatch: Any, main: bool) -> None:
    monkeypatch.setattr("astprompter.cli.console.is_main", lambda: main)
    console, log = Console(file=io.StringIO(), width=40), logging.getLogger("astprompter.training")
    before = logging.getLogger("astprompter").level
    with Notices(console), progress_of(True).task("training", 3, "updates"):
        log.info("iteration 1 of [bold]\x1b a line that is longer than the terminal is wide")
        log.warning("take care")
        log.debug("never shown")
    log.warning("nobody listens")
    shown = "iteration 1 of [bold]· a line that is longer than the terminal is wide\nwarning: take care\n"
    assert console.file.getvalue() == (shown if main else "")  # type: ignore[attr-defined]
    assert logging.getLogger("astprompter").level == before


def test_bars_are_drawn_for_who_asks_for_them_and_notices_stand_above(capsys: Any) -> None:
    with Notices(Console(file=sys.stderr, width=80)), progress_of(True).task("training", 3, "updates") as advance:
        advance(1)
        logging.getLogger("astprompter.training").warning("take care")
        advance(2)
    shown = capsys.readouterr().err
    assert "training:   0%" in shown
    assert "0/3 [00:00<?, ? updates/s]" in shown
    before, after = shown.split("warning: take care\n")
    assert before.endswith("\r")  # the bar is cleared first
    assert "training" in after  # and drawn again
    for asked in (False, None):
        with progress_of(asked).task("training", 3, "updates") as advance:
            advance(3)
    assert capsys.readouterr().err == ""
    own = Bars()
    assert progress_of(own) is own
