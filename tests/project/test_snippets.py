"""What the documents show as Python runs as it stands, and so does the quick start."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import astprompter as ap
from helpers.tiny import write_models

PROJECT = Path(__file__).parents[2]
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S))
]
FAST = {
    "rollout.max_new_tokens": 4, "rollout.horizon": 1, "training.updates": 1, "training.pairs_per_iteration": 4,
    "training.batch_size": 4, "training.dev_prefixes": 2, "training.min_margin": 0.0, "evaluation.resamples": 100,
}  # fmt: skip


def hurry(monkeypatch: Any, settings: dict[str, Any]) -> None:
    """Let ``ap.train`` and ``ap.evaluate`` take these settings in the place of what they are given."""
    for name in ("train", "evaluate"):
        whole = getattr(ap, name)

        def fast(*given: Any, whole: Any = whole, **options: Any) -> Any:
            return whole(*given, **options | {"settings": options.get("settings", {}) | settings})

        monkeypatch.setattr(ap, name, fast)


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_of_the_documents_runs(code: str, tmp_path: Path, monkeypatch: Any) -> None:
    """With a tiny model under the name 'gpt2', a word as scorer, few updates, and texts under the names it reads."""
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path, gpt2=0)
    lines = (tmp_path / "texts.jsonl").read_text().splitlines(keepends=True)
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines * 20))
    hurry(monkeypatch, FAST)
    exec(compile(code.replace("detoxify:unbiased", "word:a"), "snippet", "exec"), {})  # noqa: S102


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 3


@pytest.mark.slow
def test_the_quick_start_trains_and_measures(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["quickstart.py", str(tmp_path / "run")])
    hurry(monkeypatch, FAST | {"training.updates": 2})
    runpy.run_path(str(PROJECT / "examples" / "quickstart.py"))
    shown = capsys.readouterr().out
    assert "untuned" in shown
    assert f"the adversary is in {tmp_path / 'run' / 'best'}" in shown
    assert [row.type for row in ap.Run(tmp_path / "run").log].count("iteration") > 1
