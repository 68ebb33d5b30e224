"""Notices: log records, which a library user sees and the command line shows above its progress bars."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from astprompter.cli.console import Notices, RichProgress
from astprompter.config import load_settings
from astprompter.workflows.evaluate import test_prefixes as held_out
from helpers.tiny import SENTENCES


def test_a_library_user_is_warned_of_test_prefixes_that_were_trained_on(tmp_path: Path, caplog: Any) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    held_out(load_settings(overrides=[f"data.train={texts}", f"data.test={texts}"]))  # at Python's default level
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("astprompter.workflows", "WARNING", "6 of 6 test prefixes also stand in the training set")
    ]


@pytest.mark.parametrize("main", [True, False])
def test_the_command_line_shows_notices_of_one_process_and_restores_the_logger(monkeypatch: Any, main: bool) -> None:
    monkeypatch.setattr("astprompter.cli.console.is_main", lambda: main)
    console, log = Console(file=io.StringIO(), width=40), logging.getLogger("astprompter.training")
    before = logging.getLogger("astprompter").level
    with Notices(console), RichProgress(console) as progress, progress.task("training", 3, "updates"):
        log.info("iteration 1 of [bold]\x1b a line that is longer than the terminal is wide")
        log.warning("take care")
        log.debug("never shown")
    log.warning("nobody listens")
    shown = "iteration 1 of [bold]· a line that is longer than the terminal is wide\nwarning: take care\n"
    assert console.file.getvalue() == (shown if main else "")  # type: ignore[attr-defined]
    assert logging.getLogger("astprompter").level == before
