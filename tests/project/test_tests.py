"""The tests lie in the rooms of what they test, and stand alone: what several need is in tests/helpers/."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import astprompter
from helpers.sources import tree_of

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Names of modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + (node.module or ""), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.slow
def test_no_test_module_imports_another() -> None:
    others = {path.stem for path in MODULES if path.name.startswith("test_") or path.name == "conftest.py"}
    for path in MODULES:
        found = {name for name in imported(path) if name.startswith(".") or others & set(name.split("."))}
        assert not found, f"{path.relative_to(TESTS)} imports {found}; what several tests need is in tests/helpers/"


def test_every_folder_of_tests_is_a_room_and_names_are_unique() -> None:
    rooms = {path.name for path in Path(astprompter.__file__).parent.iterdir() if path.is_dir()}
    tests = [path for path in MODULES if path.name.startswith("test_")]
    assert {path.parent.name for path in tests} <= rooms | {"project"}
    assert all(path.parent.parent == TESTS for path in tests)
    assert len({path.name for path in tests}) == len(tests)
    assert [path.name for path in (TESTS / "helpers").glob("test_*")] == []
