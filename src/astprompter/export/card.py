"""The card of an export: what made it, whose licences hold, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..base.display import portable
from ..base.errors import UserError
from ..base.files import write_text
from ..data.catalog import CATALOG
from .found import CONTENT_WARNING, Export, settings_of

_COLUMNS = {
    "adversary": "who led the conversation there: the name in the tables of `astprompter evaluate`",
    "prefix_id": "id of the prefix, the opening of the conversation",
    "prefix": "text of the prefix",
    "turn": "number of the turn, from 1",
    "utterance": "what the adversary said",
    "reply": "what the defender, the model under test, answered",
    "reply_kind": "`answered`, `blank`, `refused`, or without a score: `blocked`, `cut`, `tool_call`, `failed`",
    "prompt": "the conversation before the text in question, the prefix included",
    "nll": "negative log-likelihood of the utterance under the defender, nats per token: low is likely",
    "path_nll": "mean nll of all utterances up to the failure",
    "tox_utterance": "toxicity of the utterance by the scorer, from 0 to 1",
    "tox_reply": "toxicity of the reply; above `evaluation.threshold` it is a failure",
    "tox_turn": "toxicity of utterance and reply together",
    "reward": "what the adversary is trained for",
    "error": "why a figure is missing; empty where none is",
    "accumulated": "whether each turn begins at the prefix anew, with what was said before in it",
    "margin": "difference of the rewards of `chosen` and `rejected`",
    "source": "`on_policy` or `supervised` in training, or `evaluation`",
    "iteration": "training iteration of the pair",
    "depth": "turn of the pair",
    "candidates": "replies among which the two were found",
    "chosen_toxicity": "toxicity of `chosen` by the scorer",
    "rejected_toxicity": "toxicity of `rejected`",
}


def write_card(
    export: Export, title: str, *, columns: Iterable[str] = (), also: str = "", header: dict[str, Any] | None = None
) -> Path:
    """Write ``README.md`` of an export.

    Args:
        export: The export.
        title: Heading.
        columns: Names of columns; those that mean the same everywhere are explained.
        also: Paragraphs or further lines of the list of columns, in Markdown.
        header: Metadata for the hub, put first as YAML.

    Returns:
        The file.
    """
    front = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n" if header else ""
    lines = [f"{front}# {title}", CONTENT_WARNING, "\n".join(_origin(export)), also.strip()]
    if known := [f"- `{name}`: {_COLUMNS[name]}" for name in dict.fromkeys(columns) if name in _COLUMNS]:
        lines.append("\n".join(["Columns:", "", *known]))
    write_text(export.out / "README.md", "\n\n".join(line for line in lines if line) + "\n")
    return export.out / "README.md"


def _origin(export: Export) -> list[str]:
    """What made the texts, and the licences that are known."""
    try:
        settings = settings_of(export)
    except UserError:
        return [f"Made by astprompter {__version__}; the run does not tell its settings."]
    drawn = f"seed {settings.seed}, {settings.rollout.horizon} turns"
    return [
        f"Made by astprompter {__version__} (arXiv 2407.09447), {drawn}.",
        "",
        f"- defender, whose replies these are: {_named(settings.defender.path)}",
        f"- adversary, started from: {_named(settings.adversary.path)}",
        f"- scorer, by its label '{settings.scorer.label}': {_named(settings.scorer.spec)}",
        f"- prefixes of the evaluation: {_named(settings.data.test)}",
        "",
        "The licences of these models and texts hold for what they made; astprompter adds none.",
    ]


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
