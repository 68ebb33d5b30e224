"""The tables of docs/reliability.md name tests that exist, so that no promise outlives its test."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from helpers.sources import tree_of

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"


def rows() -> list[str]:
    """Rows of the tables whose last column names tests."""
    found: list[str] = []
    promises = False
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following.startswith("|---"):
            promises = line.endswith(("| kept by |", "| tested by |"))
        elif promises and line.startswith("| "):
            found.append(line)
    return found


@functools.cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
def test_every_promise_names_a_test_and_every_test_named_exists() -> None:
    files = {path.name: path for path in TESTS.rglob("test_*.py")}
    assert len(rows()) > 30
    for row in rows():
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", row)
        assert named, row
        for file, function in named:
            assert function.startswith("test_"), row
            assert function in functions(files[file]), f"{file}::{function}"


def test_commands_that_are_named_exist() -> None:
    made = re.findall(r"^([a-z]+):", (TESTS.parent / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", DOCUMENT.read_text("utf-8"))) <= set(made)
