"""YAML files that ship with the package under a name, or lie anywhere under a path: presets, and plans of studies."""

from __future__ import annotations

import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from ..base.errors import UserError, nearest, words_of


def names_in(folder: Traversable) -> list[str]:
    """Names of the YAML files in a folder of the package."""
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """YAML without what hides a mistake or grows without bounds: keys that occur twice, and aliases.

    ``on``, ``off``, ``yes`` and ``no`` are texts, as in YAML 1.2; they are values of settings.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the parent has it
        first: [(tag, form) for tag, form in found if tag != _BOOL]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

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


_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def plain_yaml(text: str) -> Any:
    """Plain values out of YAML.

    Raises:
        yaml.YAMLError: It is not YAML, or a key occurs twice, or a value is none of its type.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # 2001-02-30, !!int x, !!bool x, …
        raise yaml.YAMLError(f"a value cannot be read: {words_of(error, kind=True)}") from None


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
