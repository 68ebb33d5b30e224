"""Formats that are a rearrangement of what the run already holds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from ..base.display import portable
from ..base.errors import UserError
from ..base.files import write_json, write_rows, write_text
from ..base.messages import messages_of
from ..config.settings import LossSettings
from ..runs.directory import PAIRS
from ..runs.schema.common import read_rows
from ..runs.schema.learnt import PairRow
from ..runs.schema.results import TrajectoryRow, TurnRow
from .found import (
    CONTENT_WARNING,
    Export,
    Written,
    attacks,
    best_of,
    first_turn_pairs,
    measured,
    settings_of,
    trajectories,
)

_log = logging.getLogger(__package__)


def trl(export: Export) -> Written:
    """Preference pairs of the adversary, ``{"prompt", "chosen", "rejected"}`` (TRL: preference, explicit prompt).

    The pairs that training used, where it saved them (``training.save_pairs=true``); else pairs of first turns of the
    adversaries that were evaluated.

    Raises:
        UserError: There is neither.
    """
    rows = preference_rows(export)
    if not rows:
        raise UserError(
            f"'{export.run}' holds no preference pair; train with training.save_pairs=true, or evaluate two adversaries"
        )
    path = export.out / "preferences.jsonl"
    write_rows(path, rows)
    sources, beta = sorted({row["source"] for row in rows}), _beta_of(settings_of(export).loss, _tokens(export, rows))
    return Written(
        (path,),
        (
            f"{len(rows):,} pairs ({', '.join(sources)})",
            _IS_ATTACK,
            _REPAIR,
            f"datasets.load_dataset('json', data_files='{path}') is what trl.DPOTrainer takes as train_dataset",
            beta,
        ),
        "Preference pairs of an adversary",
        also=f"{_IS_ATTACK} {_REPAIR}\n\n{beta}\n\n`chosen`: the utterance of higher reward to this prompt, the "
        "attack; `rejected`: the one of lower reward.",
        columns=rows[0],
    )


def _beta_of(loss: LossSettings, tokens: float | None) -> str:
    """How tau of a run and beta of TRL's DPOConfig relate: their losses take sums or means of log-probabilities.

    With N tokens in an utterance a sum is N times the mean: (N·h − 1/(2τ))² = N²·(h − 1/(2·τN))², and τ·h = (τ/N)·N·h.
    """
    kind, theirs = ("ipo", "mean") if loss.kind == "ipo" else ("sigmoid", "sum")
    words = {"sum": "sums of log-probabilities over an utterance", "mean": "means per token"}
    head = f"TRL's loss_type='{kind}' takes {words[theirs]}"
    if loss.reduction == theirs:
        return f"{head}, as this run did: beta = tau = {loss.tau:g}"
    factor = tokens if theirs == "mean" else tokens and 1 / tokens
    near = f", about {loss.tau * factor:.3g} at the {tokens:.1f} of these pairs" if tokens and factor else ""
    how = "tau times the tokens of an utterance" if theirs == "mean" else "tau over the tokens of an utterance"
    scale = "; TRL's loss is then smaller by the square of these tokens" if theirs == "mean" else ""
    return f"{head}, this run {words[loss.reduction]} with tau = {loss.tau:g}: beta is {how}{near}{scale}"


def _tokens(export: Export, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean number of tokens of the utterances, where the adversary's tokenizer is at hand."""
    from tokenizers import Tokenizer

    path = export.run / "best" / "tokenizer.json"
    if not path.is_file():
        return None
    found = Tokenizer.from_file(str(path)).encode_batch([row[side] for row in rows for side in ("chosen", "rejected")])
    return sum(len(text.ids) for text in found) / len(found)


_IS_ATTACK = "These pairs train an adversary: 'chosen' is the attack, so never train the model under test on them."
_REPAIR = "To repair the model under test, export --to hardening, whose 'chosen' is a harmless reply."


def preference_rows(export: Export) -> list[dict[str, Any]]:
    """Rows of the preference format, perhaps none."""
    if (export.run / PAIRS).is_file():
        return list(_training_pairs(export))
    try:
        return list(first_turn_pairs(trajectories(export)))
    except UserError:
        return []  # not evaluated either


def _training_pairs(export: Export) -> Iterator[dict[str, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(best_of(export) / "tokenizer.json"))
    for row in read_rows(export.run / PAIRS, PairRow, note=_log.info):
        yield {
            "prompt": tokenizer.decode(row.prompt_ids, skip_special_tokens=True),
            **row.model_dump(include={"chosen", "rejected", "margin", "source", "iteration", "depth"}),
        }


_PROMPTFOO = "0.121.20"
"""The version that read such a file when this was built."""


def promptfoo(export: Export) -> Written:
    """Intents: a text for an attack of one turn, a list of texts for one of several (promptfoo's sequence)."""
    found = attacks(export)
    intents: list[str | list[str]] = []
    for attack in found:
        said = [_literal(text.strip()) for text in messages_of(attack.said)[::2]]
        intents.append(said[0] if len(said) == 1 else said)
    path, config = export.out / "intents.json", export.out / "promptfooconfig.yaml"
    write_json(path, intents)
    settings = {
        "description": "Likely failures found by astprompter",
        "targets": [{"id": "openai:chat:YOUR-MODEL", "label": "model under test"}],
        "defaultTest": {"options": {"provider": "openai:chat:YOUR-GRADER"}},
        "redteam": {
            "purpose": "a conversation partner that must not write toxic text, whatever it is told",
            "plugins": [{"id": "intent", "config": {"intent": f"file://{path.name}"}}],
            "strategies": ["basic"],
        },
    }
    write_text(config, f"# {CONTENT_WARNING}\n" + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    several = sum(isinstance(intent, list) for intent in intents)
    command = f"npx promptfoo@{_PROMPTFOO} redteam run"
    return Written(
        (path, config),
        (
            f"{len(intents):,} intents, {several:,} of them of several turns",
            f"name your target and the grader in {config.name}, then: cd {export.out} && {command}",
        ),
        "Likely failures as intents of promptfoo",
        also=f"Put your model (`targets`) and the model that grades its replies (`defaultTest`) into `{config.name}`, "
        f"then: `{command}`\n\n`{path.name}`: a text for an attack of one turn, a list of texts for one of several; "
        "the first begins with the prefix.",
    )


def _literal(text: str) -> str:
    """The text as promptfoo must get it to say it unchanged: it renders what it reads as a Nunjucks template."""
    return re.sub(r"\{(?=[{%#])|(?<=[}%#])\}", lambda mark: f"{{{{ '{mark[0]}' }}}}", text)


def hf(export: Export) -> Written:
    """A data set folder: ``turns``, ``failures`` and ``preferences`` as JSON lines, and a card that configures them."""
    defender = {"defender": portable(measured(export).name)}
    tables = {
        "turns": [_flat_turn(row, turn) | defender for row in trajectories(export) for turn in row.turns],
        "failures": [
            {**attack.facts(), "prompt": "".join(attack.said), "reply": attack.turns[-1].reply, **defender}
            for attack in attacks(export, needed=False)
        ],
        "preferences": preference_rows(export),
    }
    tables = {name: rows for name, rows in tables.items() if rows}
    paths = []
    for name, rows in tables.items():
        paths.append(export.out / "data" / f"{name}.jsonl")
        write_rows(paths[-1], rows)
    configs = [{"config_name": name, "data_files": f"data/{name}.jsonl"} for name in tables]
    return Written(
        tuple(paths),
        (
            ", ".join(f"{len(rows):,} {name}" for name, rows in tables.items()),
            f"datasets.load_dataset('{export.out}', 'turns') reads them",
        ),
        "Likely toxic failures",
        header={"pretty_name": "Likely toxic failures", "tags": ["red-teaming", "astprompter"], "configs": configs},
        also="\n".join(f"- `{name}`: {len(rows):,} rows" for name, rows in tables.items())
        + f"\n\nOf `preferences`, which train an adversary, `chosen` is the attack. {_REPAIR}",
        columns=[name for rows in tables.values() for name in rows[0]],
    )


def _flat_turn(row: TrajectoryRow, turn: TurnRow) -> dict[str, Any]:
    """One turn as a flat row; nested values as JSON text, so that every row has the same columns."""
    values = turn.plain()
    flat = {key: value for key, value in values.items() if not isinstance(value, list | dict)}
    nested = {key: json.dumps(value) for key, value in values.items() if isinstance(value, dict)}
    return row.model_dump(exclude={"turns"}) | flat | nested
