"""What documents and docstrings point to is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from astprompter.runs.schema import results, study, summary  # noqa: F401
from astprompter.runs.schema.common import Part

PROJECT = Path(__file__).parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SECTION = re.compile(r"docs/method\.md,? sections? (\d)(?: (?:and|to) (\d))?")


def files(suffix: str) -> list[Path]:
    """Files of the project with that ending."""
    rooms = ("docs", "src", "tests", "benchmarks", "scripts", "examples")
    return [*PROJECT.glob(f"*{suffix}"), *(path for room in rooms for path in (PROJECT / room).rglob(f"*{suffix}"))]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_the_documents_lead_somewhere() -> None:
    checked, broken = 0, []
    for page in files(".md"):
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            place = (page.parent / path).resolve() if path else page
            checked += 1
            if not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.relative_to(PROJECT)}: {target}")
    assert not broken
    assert checked > 30


def test_sections_of_the_method_that_the_code_names_exist() -> None:
    sections = set(re.findall(r"^## (\d)\.", (PROJECT / "docs/method.md").read_text(encoding="utf-8"), re.MULTILINE))
    named = [
        number
        for path in [*files(".py"), *files(".yaml")]
        for match in SECTION.findall(path.read_text(encoding="utf-8"))
        for number in match
        if number
    ]
    assert len(named) > 20
    assert set(named) <= sections


def test_the_page_of_the_files_is_what_their_models_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    page = importlib.import_module("describe_files").page()
    assert (PROJECT / "docs" / "files.md").read_text(encoding="utf-8") == page, "run 'make files'"


def test_every_field_of_a_file_is_described_and_its_name_holds_no_threshold() -> None:
    models = [Part]
    for model in models:
        models += [inner for inner in model.__subclasses__() if inner not in models]
    assert len(models) > 50
    for model in models:
        assert model.__doc__, model
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert not re.search(r"\d\.\d", field.alias or name), f"{model.__name__}.{name}"
