"""Experiment trackers through accelerate: all optional, none by default; they get numbers, never texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import UserError, nearest, words_of
from ..base.processes import is_main
from .schema.run import LogRow

PROJECT = "astprompter"
KNOWN = ("mlflow", "tensorboard", "trackio", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what cannot be used, before anything is loaded.

    Raises:
        UserError: Unknown name, or its package is not installed.
    """
    for name in names:
        if name not in KNOWN:
            raise UserError(f"unknown tracker '{name}'.{nearest(name, KNOWN)}")
        for package in ("accelerate", name):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"--tracker {name} needs {package}: pip install 'astprompter[{name}]'")


class Trackers:
    """Passes rows of ``log.jsonl`` on as metrics."""

    def __init__(self, running: Sequence[Any]) -> None:
        self._running = running

    def log(self, row: LogRow) -> None:
        """Log the numbers of a row, as ``train/reward/mean`` or ``dev/reward/mean``, at its number of updates."""
        numbers = dict(_numbers(row.plain(), "dev" if row.type == "dev" else "train"))
        for tracker in self._running:
            tracker.log(numbers, step=row.updates)


@contextmanager
def tracking(names: Sequence[str], out: Path) -> Iterator[Trackers]:
    """Trackers that run while the context is open; only the first of several processes has any.

    Args:
        names: From :data:`KNOWN`; checked by :func:`check_trackers`.
        out: Run directory; its name names the run, and ``trackers/`` in it takes what is kept in files.
    """
    running: list[Any] = []
    if names:
        from accelerate import PartialState

        PartialState()  # accelerate's loggers refuse to work without it
        running = [_start(name, out) for name in names if is_main()]
    try:
        yield Trackers(running)
    finally:
        for tracker in running:
            tracker.finish()


def _start(name: str, out: Path) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    folder = out / "trackers"
    options: dict[str, dict[str, Any]] = {
        "mlflow": {"experiment_name": PROJECT, "run_name": out.name},
        "tensorboard": {"run_name": out.name, "logging_dir": folder},
        "trackio": {"run_name": PROJECT, "name": out.name},
        "wandb": {"run_name": PROJECT, "name": out.name, "dir": str(out)},
    }
    tracker = LOGGER_TYPE_TO_CLASS[name](**options[name])
    try:
        tracker.start()
    except Exception as error:  # each service fails in ways of its own
        raise UserError(f"tracker {name} does not start: {words_of(error)}") from error
    return tracker


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number below a value, by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}")
    elif isinstance(value, int | float):
        yield name, float(value)
