"""YAML files that ship with the package under a name, or lie anywhere under a path: presets, and plans of studies."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, nearest, words_of


def names_in(folder: Traversable) -> list[str]:
    """Names of the YAML files in a folder of the package."""
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_named(what: str, name: str, folder: Traversable) -> Any:
    """Content of a file by its name in the folder, or of another one by its path.

    Args:
        what: What the file is, for messages.
        name: Name, or a path that ends in ``.yaml`` or ``.yml``.
        folder: Where the named ones are.

    Raises:
        UserError: There is no such name or file, or it is not YAML.
    """
    if name in (known := names_in(folder)):
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {what} file '{name}': {error}") from None
    else:
        raise UserError(f"unknown {what} '{name}'.{nearest(name, known)}")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{what} '{name}' is not valid YAML: {words_of(error)}") from None
