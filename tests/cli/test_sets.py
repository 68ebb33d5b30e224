"""A set of adversaries by the command line: trained, gone on with, measured as one, on a page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astprompter.rollout.mixture import in_turn
from astprompter.runs.directory import RunDirectory
from astprompter.runs.rounds import is_done, rounds_of
from helpers.commands import call, settings
from helpers.files import read_rows

NOVEL = ["novelty.weight=1.0", "novelty.archive=20", "evaluation.threshold=0.0", "loss.kind=margin"]
UNTIMED = {"seconds": None, "rates": None}


@pytest.mark.slow
def test_a_set_from_the_command_line(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    out, given = str(tmp_path / "set"), settings(files)
    code, said, told = call(capsys, "train", "-o", out, "--rounds", "2", *given, *NOVEL)
    assert code == 0, told
    assert f"Measure it:     astprompter evaluate {out}" in said
    folders = rounds_of(Path(out))
    assert all(map(is_done, folders))
    first, second = (RunDirectory(folder) for folder in folders)
    assert first.config().data_counts.get("earlier") is None
    assert second.config().data_counts["earlier"] == min(20, len(first.archive())) > 0
    logs = [folder.log()[0].plain() for folder in (first, second)]
    assert logs[0] == logs[1]  # the same start
    assert [row.likeness for row in first.log()] != [row.likeness for row in second.log()]

    code, said, told = call(capsys, "evaluate", out, str(folders[0]), str(folders[1]))
    assert code == 0, told
    rows = {(row["adversary"], row["prefix"]): row["turns"] for row in read_rows(Path(out) / "trajectories.jsonl")}
    prefixes = [prefix for name, prefix in rows if name == "set"]
    assigned = in_turn(prefixes, 2, seed=0)
    for prefix in prefixes:
        alone = rows[f"round-{assigned[prefix] + 1}", prefix]
        assert [(t["utterance"], t["reply"]) for t in rows["set", prefix]] == [
            (t["utterance"], t["reply"]) for t in alone
        ]
        assert np.allclose([t["nll"] for t in rows["set", prefix]], [t["nll"] for t in alone], atol=1e-5)
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.safetensors")}
    second_log = [row.plain() | UNTIMED for row in second.log()]
    shutil.rmtree(folders[1])  # as if it had been killed before the second round
    assert call(capsys, "evaluate", out)[0] != 0
    log = (folders[0] / "log.jsonl").read_bytes()
    code, said, told = call(capsys, "train", "-o", out, "--resume")
    assert code == 0, told
    assert (folders[0] / "log.jsonl").read_bytes() == log
    assert all(path.stat().st_mtime_ns == before[path] for path in folders[0].rglob("*.safetensors"))
    assert [row.plain() | UNTIMED for row in RunDirectory(folders[1]).log()] == second_log
    code, said, told = call(capsys, "report", out)
    assert code == 0, told
