"""Settings of a run as they hold here: paths that were relative to the folder it was started from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config import Settings, changed, dotted, settings_from
from .schema.rounds import RoundsFile
from .schema.run import ConfigFile
from .schema.summary import EvaluationConfig

_PATHS = (
    *("adversary.path", "defender.path", "likelihood.path", "harden.held_to"),
    *("data.train", "data.dev", "data.test", "data.eliciting", "data.benign"),
)
_NAMES = ("", "embedded")


def started_in(folder: Path) -> str:
    """The working directory, seen from a folder; absolute where there is no way from one to the other."""
    try:
        return Path(os.path.relpath(Path.cwd(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return Path.cwd().as_posix()


def settings_here(
    config: ConfigFile | EvaluationConfig | RoundsFile, folder: Path, overrides: Iterable[str] = (), *, source: str = ""
) -> Settings:
    """Settings that a file of a folder records; relative paths are those of the folder where they were written.

    Args:
        config: What the file tells of the settings that decided it.
        folder: Where the file is.
        overrides: Settings that win over them, with paths of this working directory.
        source: Name of the file, for messages.

    Raises:
        UserError: The settings are of another version, or an override does not fit.
    """
    base, found = (folder / (config.started_in or "")).resolve(), dict[str, Any]()
    if config.started_in is not None and base != Path.cwd():
        flat = dotted(config.settings)
        found = {key: _seen(flat[key], base) for key in _PATHS if isinstance(flat.get(key), str)}
        for key in ("harden.adversaries", "novelty.earlier"):
            if isinstance(listed := flat.get(key), list):
                found[key] = [_seen(str(one), base) for one in listed]
        for key in ("scorer.spec", "evaluation.scorers"):
            given = flat.get(key)
            if isinstance(given, str | list):
                found[key] = _spec(given, base) if isinstance(given, str) else [_spec(str(one), base) for one in given]
    return settings_from(changed(config.settings, found), list(overrides), source=source)


def _seen(name: str, base: Path) -> str:
    """A path, perhaps with ``#COLUMN``, of a folder as it is reached from here; other names as they are."""
    for path, mark, rest in ((name, "", ""), name.rpartition("#")):
        try:
            if path not in _NAMES and not Path(path).expanduser().is_absolute() and (base / path).exists():
                return Path(os.path.relpath(base / path)).as_posix() + mark + rest
        except (OSError, ValueError):  # no name that a file could have, or on another drive
            continue
    return name


def _spec(spec: str, base: Path) -> str:
    """A scorer whose argument is a model folder, or a module of a folder, as it is reached from here."""
    kind, colon, argument = spec.partition(":")
    if kind in ("hf", "judge"):
        return kind + colon + _seen(argument, base)
    module = argument.partition(":")[0].partition(".")[0]
    if kind == "python" and module and any((base / name).exists() for name in (module, f"{module}.py")):
        return f"python:{_seen('.', base)}/{argument}"
    return spec
