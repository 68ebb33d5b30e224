"""Write docs/files.md from the models of a run's files: ``python scripts/describe_files.py``."""

from __future__ import annotations

import re
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from astprompter.runs.schema.common import File, Part
from astprompter.runs.schema.labels import LabelsFile
from astprompter.runs.schema.learnt import ArchiveRow, AttackRow, PairRow, TreeRow
from astprompter.runs.schema.probability import DrawnRow, IslandRow, ProbabilityFile
from astprompter.runs.schema.repair import RepairFile
from astprompter.runs.schema.results import FailureRow, TrajectoryRow
from astprompter.runs.schema.rounds import RoundsFile
from astprompter.runs.schema.run import ConfigFile, FrozenFile, LogRow
from astprompter.runs.schema.state import ManifestFile, StateFile
from astprompter.runs.schema.study import Experiment
from astprompter.runs.schema.suite import RetestFile, SuiteFile
from astprompter.runs.schema.summary import Summary

PAGE = Path(__file__).parents[1] / "docs" / "files.md"
WIDTH = 100
HEAD = """<!-- Made by `make files` from the models in src/astprompter/runs/schema; edit those. -->

# Files of a run

`astprompter train --out RUN` makes a run directory; `astprompter evaluate RUN` adds the last three files. All text files
are UTF-8. JSON is strict: a value that is not finite or not defined is `null`, no key occurs twice, no text holds half a
character. Whatever reads these files checks every field and names file, line and field when one does not fit. A `.jsonl`
file whose last line broke off is read without that line, with a message; resuming repairs it.

Whole JSON files carry `format`, which is {format} here, for themselves and for the `.jsonl` files beside them. A run of
another format is refused by name: make it again, or use the version that wrote it.

Units: every `nll` is a mean negative log-likelihood in **nats per token** under the defender; every `tox_*` is the
scorer's value in [0, 1]; every share is in [0, 1]; seconds are wall time. "Absent" says that a field may be missing.

| file | what it is |
|---|---|
{files}
| `best/` | the best adversary on the dev prefixes (`training.best_by`), a normal model folder |
| `trackers/`, `wandb/` | files of `--tracker tensorboard`, `wandb` |
"""
CHECKPOINT = """## checkpoint/

Written after every iteration: `policy.safetensors` and `optimizer.safetensors` (AdamW moments, `PARAMETER|exp_avg` and
so on), `state.json`, and `manifest.json`. A checkpoint is written beside the old one (`checkpoint.tmp`), synced and
renamed; the one before it stays as `checkpoint.old`. When a file does not fit the manifest, `--resume` says so by name
and goes on from `checkpoint.old`.
"""
BEST = """## best/

`save_pretrained` of model (adapters merged) and tokenizer; `generation_config.json` with the sampling settings;
`README.md`, a model card with the settings and the dev figures.
"""
SUITES = """# Files of a suite

`astprompter suite RUN -o OUT` writes `suite.json`, `astprompter retest OUT` writes `retest.json`
([docs/suites.md](suites.md)).
"""
REPAIR = """# Files of a repair

`astprompter harden … --rounds N` and `astprompter evaluate … --defender OLD --defender NEW --repair` write `repair.json` beside the evaluations
([docs/repair.md](repair.md)).
"""
STUDY = """# Files of an experiment

`astprompter experiment NAME --out OUT` ([docs/experiments.md](experiments.md)):

| path under OUT | what it is |
|---|---|
| `runs/CASE/seed-S/ADVERSARY/` | a run directory; CASE is `ADVERSARYMODEL-vs-DEFENDERMODEL` |
| `evaluations/CASE/seed-S/ADVERSARY/` | `summary.json`, `trajectories.jsonl`, `failures.jsonl` of one adversary |
| `….yaml`, `….txt` beside each | the job's settings as a preset, and its terminal output |
| `NAME/experiment.json` | everything below |
| `NAME/tables.md`, `tables.tex` | over all turns, by turn, replies by the toxicity of the utterance, by seed, transfer; LaTeX for `booktabs` |
| `NAME/tables.csv` | all figures over the seeds, one row per pair, adversary, turn (`all` or its number) and metric; text that a spreadsheet would take for a formula begins with an apostrophe |
| `NAME/findings.md` | the claims, their verdicts, the figures |
"""
PARTS: list[tuple[str, type[Part] | None]] = [
    ("config.json", ConfigFile), ("log.jsonl", LogRow), ("pairs.jsonl", PairRow),
    ("archive.jsonl", ArchiveRow), ("attacks.jsonl", AttackRow), ("trees.jsonl", TreeRow), ("rounds.json", RoundsFile),
    (CHECKPOINT, None), ("checkpoint/state.json", StateFile), ("checkpoint/manifest.json", ManifestFile), (BEST, None),
    ("frozen.json", FrozenFile), ("trajectories.jsonl", TrajectoryRow), ("failures.jsonl", FailureRow),
    ("summary.json", Summary), ("labels.json", LabelsFile),
    ("probability.json", ProbabilityFile), ("probability.jsonl", DrawnRow),
    ("probability-islands.jsonl", IslandRow), (SUITES, None),
    ("suite.json", SuiteFile), ("retest.json", RetestFile), (REPAIR, None),
    ("repair.json", RepairFile), (STUDY, None), ("experiment.json", Experiment),
]  # fmt: skip
NAMES = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "`null`",
    Any: "any value",
}


def page() -> str:
    """The text of docs/files.md."""
    rows = [
        f"| `{name}` | {first[0].lower()}{first[1:]} |"
        for name, model in PARTS
        if model not in (None, Experiment)
        for first in [re.split(r"[.;](?:\s|$)", text_of(model.__doc__ or ""))[0]]
    ]
    known: set[type[Part]] = set()
    body = [prose(name) if model is None else section(f"## {name}", model, known) for name, model in PARTS]
    head = prose(HEAD.format(format=ConfigFile.model_fields["format"].default, files="\n".join(rows)))
    return "\n\n".join([head, *body]) + "\n"


def section(heading: str, model: type[Part], known: set[type[Part]]) -> str:
    """A model under a heading: its docstring, its fields, and below them the models that it names first."""
    known.add(model)
    base = next((b for b in model.__bases__ if b not in (Part, File)), None)
    parts = [heading, prose(text_of(model.__doc__ or ""))]
    if base is not None:
        parts.append(f"It has the fields of {link(base)}, and:")
    fields = {name: field for name, field in model.model_fields.items() if name in model.__annotations__}
    rows = [f"| `{field.alias or name}` | {kind(field)} | {meaning(field)} |" for name, field in fields.items()]
    parts.append("\n".join(["| field | type | meaning |", "|---|---|---|", *rows]))
    named = [base] if base is not None else []
    for field in fields.values():
        named += models_in(field.annotation)
    parts += [section(f"### {inner.__name__}", inner, known) for inner in named if inner not in known]
    return "\n\n".join(parts)


def models_in(annotation: Any) -> list[type[Part]]:
    """The models that a type names."""
    if isinstance(annotation, type) and not typing.get_args(annotation) and issubclass(annotation, Part):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


def kind(field: FieldInfo) -> str:
    """A field's type in words."""
    found = words(field.annotation)
    return found.removesuffix(" or `null`") + ", or absent" if field.exclude_if is not None else found


def words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return "low and high end" if typing.get_origin(arguments[0]) is list else words(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(words, arguments))
    if origin is list:
        return f"list of {several(arguments[0])}"
    if origin is dict:
        return "object" if arguments[1] is Any else f"object: {words(arguments[1])} by name"
    return NAMES[annotation] if annotation in NAMES else link(annotation)


def several(annotation: Any) -> str:
    """A type in words, for many of it."""
    found = words(annotation)
    return f"{found}s" if found in ("whole number", "number", "text") else found


def link(model: type[Part]) -> str:
    """A link to a model's section."""
    return f"[{model.__name__}](#{model.__name__.lower()})"


def meaning(field: FieldInfo) -> str:
    """What a field's docstring says, in one line."""
    return " ".join(text_of(field.description or "").split()).replace("|", "\\|")


def text_of(docstring: str) -> str:
    """A docstring as Markdown."""
    plain = re.sub(r":\w+:`~?([\w.]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", docstring)
    return textwrap.dedent(f"    {plain.strip()}").replace("``", "`")


def prose(text: str) -> str:
    """Paragraphs wrapped; tables and headings as they are."""
    blocks = text.strip().split("\n\n")
    return "\n\n".join(
        block if block[0] in "|#<" else textwrap.fill(block, WIDTH, break_long_words=False, break_on_hyphens=False)
        for block in blocks
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
