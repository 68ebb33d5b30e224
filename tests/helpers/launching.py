"""Runs by one process and by two, and whether they are the same."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from astprompter.cli.app import main
from astprompter.models.local.loading import load_model
from helpers.files import read_rows
from helpers.tiny import naming, write_models
from helpers.zygote import Process

SETTINGS = [
    "rollout.max_new_tokens=5", "rollout.horizon=2", "rollout.top_p=0.95", "training.updates=5",
    "training.pairs_per_iteration=9", "training.batch_size=3", "training.dev_every=1", "training.dev_prefixes=5",
    "training.learning_rate=1e-3", "training.warmup_updates=1", "training.save_pairs=true", "scorer.spec=word:a",
    "evaluation.resamples=100",
]  # fmt: skip


LAUNCH = [
    "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
    "--num_cpu_threads_per_process", "1", "--main_process_port", "0",
]  # fmt: skip


def alone(monkeypatch: Any, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["astprompter", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def started_together(start: Callable[..., Process], *arguments: Any, **environment: str) -> list[Process]:
    """Two processes that are started as a launcher does it, by ``start`` of a :class:`Zygote`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    names = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(*arguments, RANK=rank, LOCAL_RANK=rank, **names, **environment) for rank in ("0", "1")]


def together(start: Callable[..., Process], *arguments: Any, **environment: str) -> str:
    """What two processes say when both have ended well; see :func:`started_together`."""
    processes = started_together(start, *arguments, **environment)
    codes = [process.wait(300) for process in processes]
    assert codes == [0, 0], "".join(process.out + process.err for process in processes)
    return "".join(process.out for process in processes)


def write_inputs(folder: Path) -> list[str]:
    """Two models and their texts; returns the settings that name them."""
    write_models(folder, adversary=0, defender=3)
    return [*naming(folder, "adversary", "defender"), *SETTINGS]


def flat(row: Any, name: str = "", kinds: Any = (int, float)) -> dict[str, Any]:
    """Every number (or text) below a value, by its path; times are left out."""
    if isinstance(row, dict | list):
        inner = row.items() if isinstance(row, dict) else enumerate(row)
        parts = [flat(value, f"{name}/{key}", kinds) for key, value in inner if key not in ("seconds", "rates")]
        return {key: value for part in parts for key, value in part.items()}
    return {name: row} if isinstance(row, kinds) else {}


def same_rows(path: Path, other: Path) -> None:
    """Equal texts, and numbers equal to rounding."""
    rows, others = read_rows(path), read_rows(other)
    assert [flat(row, kinds=str) for row in rows] == [flat(row, kinds=str) for row in others]
    for a, b in zip(rows, others, strict=True):
        assert flat(a) == pytest.approx(flat(b), rel=1e-4, abs=1e-3)


def same_checkpoints(one: Path, two: Path, inputs: list[str]) -> None:
    """The policy moved, to the same place, with the same moments."""
    weights, moments = (
        [load_file(path / "checkpoint" / f"{name}.safetensors") for path in (one, two)]
        for name in ("policy", "optimizer")
    )
    start = load_model(inputs[0].partition("=")[2]).state_dict()
    moved = sum(float((weights[0][name] - start[name]).norm()) for name in weights[0])
    assert moved > 0.01
    assert sum(float((weights[0][name] - weights[1][name]).norm()) for name in weights[0]) < 0.02 * moved
    assert moments[0].keys() == moments[1].keys()
    for name, first in moments[0].items():
        assert float((first - moments[1][name]).norm()) <= 1e-3 * float(first.norm()) + 1e-6, name
