"""YAML files that ship with the package under a name, or lie anywhere under a path: presets, and plans of studies."""

from __future__ import annotations

import copy
import functools
import json
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from ..base.errors import UserError, nearest, words_of


def names_in(folder: Traversable) -> list[str]:
    """Names of the YAML files in a folder of the package."""
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


_PLAIN = "json"
_FORMS = r"(?:~|null|true|false|-?(?:0|[1-9]\d*)(?:\.\d+(?:[eE][-+]\d+)?)?|)$"


class _Loader(yaml.BaseLoader):
    """YAML in which ``null``, ``true``, ``false`` and numbers are what they are in JSON, and every other value a text.

    So ``on``, ``No``, dates and octals are texts. Keys that occur twice and aliases, which hide a mistake or grow
    without bounds, are refused.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"aliases are not read; write the value out{mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.YAMLError(f"a key occurs twice in the mapping that begins{node.start_mark}")
        return found


_Loader.add_implicit_resolver(_PLAIN, re.compile(_FORMS), ["", *"~ntf-0123456789"])
_Loader.add_constructor(_PLAIN, lambda _, node: None if node.value in ("", "~") else json.loads(node.value))


def plain_yaml(text: str) -> Any:
    """Plain values out of YAML, the caller's own.

    Raises:
        yaml.YAMLError: It is not YAML, or a key occurs twice, or a value cannot be read.
    """
    return copy.deepcopy(_read(text))


@functools.lru_cache(64)  # the named files are read many times over: each preset for every command that is told
def _read(text: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise yaml.YAMLError(f"a value cannot be read: {words_of(error)}") from None


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
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {what} file '{name}': {error}") from None
    else:
        raise UserError(f"unknown {what} '{name}'.{nearest(name, known)}")
    try:
        return plain_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{what} '{name}' is not valid YAML: {words_of(error)}") from None
