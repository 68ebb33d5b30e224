"""The order of the rooms, no circle of files, complete protocols, small modules."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
from pathlib import Path

import pytest

import astprompter
from helpers.sources import tree_of

ROOT = Path(astprompter.__file__).parent
ROOMS = [
    "base", "config", "runs", "data", "models", "scorers", "rollout", "training", "evaluation", "probability",
    "workflows", "studies", "export", "report", "cli",
]  # fmt: skip


SPEAKERS = {"LanguageModel", "ChatModel", "WithoutAdapters", "Replay", "RemoteSpeaker", "LikelihoodProxy"}
SESSIONS = {"LMSession", "ChatSession", "ReplaySession", "RemoteSession", "LikelihoodProxySession"}


def name_of(path: Path) -> str:
    """Dotted name of a module within the package; the package itself is ``""``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Modules of the package that a module imports, at any depth of its code and for types only, too."""
    package, found = path.relative_to(ROOT).parent.parts, set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            within = ".".join(part for part in base if part)
            names = {f"{within}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {name if name in MODULES else within for name in names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = {node.module or ""} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
            assert not any(name.split(".")[0] == "astprompter" for name in names), f"{path}: import by relative names"
    return found - {name_of(path), ""}  # the package itself holds the version and lazy names


def test_rooms_import_only_from_rooms_above() -> None:
    inner = {name: path for name, path in MODULES.items() if name not in ("", "__main__")}
    assert {name.split(".")[0] for name in inner} == set(ROOMS)
    for name, path in inner.items():
        for other in imports(path):
            above = ROOMS.index(other.split(".")[0]) <= ROOMS.index(name.split(".")[0])
            assert above, f"{name} imports from {other}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    order = graphlib.TopologicalSorter({name: imports(path) for name, path in MODULES.items() if name})
    order.prepare()  # raises CycleError, which names the circle


def test_nobody_asks_what_kind_of_speaker_it_is() -> None:
    """What the code needs of a speaker is in its protocol."""
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                assert not asked & (SPEAKERS | SESSIONS), f"{name}: isinstance of {asked}"


def test_modules_and_functions_stay_small() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 330, path
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                assert node.end_lineno - node.lineno <= 65, f"{path}: {node.name}"


@pytest.mark.slow
def test_benchmarks_and_scripts_find_what_they_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs them, so a moved function would go unnoticed."""
    project = Path(__file__).parents[2]
    for folder, names in (("benchmarks", "*.py"), ("scripts", "embedded/*.py")):
        monkeypatch.syspath_prepend(str(project / folder))
        for path in sorted((project / folder).glob(names)):
            importlib.import_module(".".join(path.relative_to(project / folder).with_suffix("").parts))


def test_one_prefix_passes_through_few_files() -> None:
    document = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = re.findall(r"## One prefix through \w+\n(.*?)(?=\n## )", document, re.DOTALL)
    assert len(walks) == 2
    for walk in walks:
        steps = "".join(re.findall(r"^(?:\d+\. |   ).*$", walk, re.MULTILINE))
        files = re.findall(r"`([\w/]+\.py)`", steps)
        assert 8 < len(files) <= 12
        assert len(set(files)) == len(files)
        assert all((ROOT / file).is_file() for file in files)
