"""The card of an export: what made it, whose licences hold, what its columns mean, and the figures of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from .. import __version__
from ..base.display import portable
from ..base.errors import UserError
from ..base.files import write_text
from ..data.catalog import CATALOG
from ..evaluation.grid import markdown
from ..evaluation.tables import labelled, of_summary
from ..runs.directory import SUMMARY
from ..runs.schema.summary import Summary
from .found import CONTENT_WARNING, Defender, Export, Written, measured, settings_of

_COLUMNS = yaml.safe_load(Path(__file__).with_name("columns.yaml").read_text(encoding="utf-8"))


def write_card(export: Export, written: Written) -> Path:
    """Write ``README.md`` of an export; returns it."""
    front = f"---\n{yaml.safe_dump(written.header, sort_keys=False)}---\n" if written.header else ""
    lines = [f"{front}# {written.title}", CONTENT_WARNING, "\n".join(_origin(export, written)), written.also.strip()]
    if known := [f"- `{name}`: {_COLUMNS[name]}" for name in dict.fromkeys(written.columns) if name in _COLUMNS]:
        lines.append("\n".join(["Columns:", "", *known]))
    if (export.run / SUMMARY).is_file():
        table, *_ = of_summary(summary := Summary.read(export.run / SUMMARY))
        lines += ["What the evaluation measured:", markdown(table), table.note]
        if summary.labels:
            judged = labelled(list(summary.labels.adversaries.items()))
            lines += [f"{judged.title}:", markdown(judged), judged.note]
    path = export.out / "README.md"
    write_text(path, "\n\n".join(line for line in lines if line) + "\n")
    return path


def _origin(export: Export, written: Written) -> list[str]:
    """What made the texts, and the licences that are known."""
    try:
        settings, met = settings_of(replace(export, overrides=())), measured(export)
    except UserError:
        return [f"Made by astprompter {__version__}; the run does not tell its settings."]
    drawn = f"seed {settings.seed}, {settings.rollout.horizon} turns"
    return [
        f"Made by astprompter {__version__} (arXiv 2407.09447), {drawn}.",
        "",
        f"- defender, whose replies these are: {_hashed(written.defender or met)}",
        *([f"- defender against which the attacks were found: {_hashed(met)}"] if written.defender else []),
        f"- adversary, started from: {_named(settings.adversary.path)}",
        f"- scorer, by its label '{settings.scorer.label}': {_named(settings.scorer.spec)}",
        f"- prefixes of the evaluation: {_named(settings.data.test)}",
        "",
        "The licences of these models and texts hold for what they made; astprompter adds none.",
    ]


def _hashed(defender: Defender) -> str:
    return f"{_named(defender.name)}; SHA-256 of its weights: {defender.sha256 or 'not known, it is served'}"


def _named(path: str) -> str:
    return f"`{portable(path)}`; {_licence(path.partition(':')[2] or path)}"


def _licence(path: str) -> str:
    """Licence of a model or data set, as far as it is known here."""
    if path == "embedded":
        return "licences: those of its sources, listed on its card in the package"
    if path in CATALOG:
        return f"licence: {CATALOG[path].licence}"
    try:
        header = yaml.safe_load((Path(path) / "README.md").read_text(encoding="utf-8").split("---")[1])
        return f"licence: {header['license']}"
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return "licence: not known here"
