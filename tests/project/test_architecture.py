"""The order of the rooms: a module imports only from rooms above its own."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import astprompter

ROOT = Path(astprompter.__file__).parent
ROOMS = [
    "base", "config", "runs", "data", "models", "scorers", "rollout", "training", "evaluation", "workflows", "studies",
    "export", "report", "cli",
]  # fmt: skip


def room_of(parts: list[str]) -> str:
    return parts[0] if parts else "__init__"


def imports(path: Path) -> list[str]:
    """Rooms that a module imports from, at any depth of its code."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            names = [target] if target else [[alias.name] for alias in node.names]
            found += [room_of([part for part in name if part]) for name in names]
    return found


def test_rooms_import_only_from_rooms_above() -> None:
    modules = [p for p in ROOT.rglob("*.py") if p.name != "__main__.py" and p != ROOT / "__init__.py"]
    assert {room_of([p.relative_to(ROOT).parts[0].removesuffix(".py")]) for p in modules} == set(ROOMS)
    for path in modules:
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imports(path):
            if other in ("__version__", "__init__"):
                continue
            assert ROOMS.index(other) <= ROOMS.index(room), f"{path.relative_to(ROOT)} imports from {other}"


def test_modules_and_functions_stay_small() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 330, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                assert node.end_lineno - node.lineno <= 65, f"{path}: {node.name}"


def test_benchmarks_and_scripts_find_what_they_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs them, so a moved function would go unnoticed."""
    project = Path(__file__).parents[2]
    for folder, names in (("benchmarks", "*.py"), ("scripts", "embedded/*.py")):
        monkeypatch.syspath_prepend(str(project / folder))
        for path in sorted((project / folder).glob(names)):
            importlib.import_module(".".join(path.relative_to(project / folder).with_suffix("").parts))
