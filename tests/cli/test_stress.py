"""A handful of the kills of ``make stress``: the real command line dies by SIGKILL and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the stress script forks")
def test_killed_and_resumed_runs_are_the_unbroken_run() -> None:
    script = Path(__file__).parents[2] / "scripts" / "stress.py"
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(script), "3", "3", "6"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("kills survived ")
    assert int(last.split()[2].rstrip(",")) >= 3
    assert "SIGTERMs" in last
    assert last.endswith("rows lost 0, files or logs that differ 0")
