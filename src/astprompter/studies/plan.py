"""Declarative plans: which adversaries are trained on which defenders, with which seeds, and what is measured.

A plan is a small YAML file, like a preset; :mod:`.jobs` expands it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..base.errors import UserError, nearest
from ..base.names import HUMAN, OURS, PROBING, UNTUNED
from ..config import Settings, changed, dotted, known_keys, load_preset, load_settings, merge, nested, settings_from
from ..config.named import names_in, plain_yaml, read_named
from .paper.findings import CLAIMS

_PLANS = resources.files("astprompter") / "studies" / "paper" / "plans"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Trained(BaseModel):
    """An adversary that is trained.

    Attributes:
        preset: Presets whose own changes are put on top of the plan's, joined by ``+``.
        settings: Further changes.
        pairs: Whether it is trained on every pair of models or on the first only.
        role: What it is to the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    pairs: Literal["all", "first"] = "all"
    role: Literal["ours", "baseline", "variant", "sweep"] = "variant"


class Plan(BaseModel):
    """What an experiment does.

    Attributes:
        name: Name on the command line.
        summary: One line.
        why: What it is for.
        preset: Base of all settings.
        settings: Changes to the base, for all adversaries.
        seeds: One training and one measurement of each adversary per seed.
        models: Models by short name, small before large: a path, or settings of a model (``{}`` is the preset's own);
            ``null`` leaves out the pairs that need it.
        pairs: ``[adversary, defender]`` by short name; the first is the main one and cannot be left out.
        train: Adversaries to train, by name.
        sweep: Settings by dotted key, each with values: one further adversary for each value, all else as ``ours``.
        attacks: Adversaries that need no training: ``untuned``, ``probing``.
        human: File of dialogues that people wrote; adds ``human``.
        transfer: Trained adversaries that are measured on the other defenders too.
        claims: Numbers of the paper's claims (docs/method.md section 8) that the findings judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    summary: str
    why: str
    preset: str = "embedded"
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    models: dict[str, str | dict[str, Any] | None] = Field(min_length=1)
    pairs: list[tuple[str, str]] = Field([("small", "small")], min_length=1)
    train: dict[str, Trained] = Field(default_factory=dict)
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    attacks: list[Literal["untuned", "probing"]] = Field(["untuned", "probing"])
    human: str | None = None
    transfer: list[str] = Field(default_factory=list)
    claims: list[str] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if value != Path(value).name or value in ("", ".", "..", "runs", "evaluations"):
            raise ValueError(f"'{value}' cannot name the folder of the tables; choose a plain name")
        return value

    @field_validator("train", "models")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _NAME.fullmatch(name) or name in (UNTUNED, PROBING, HUMAN):
                raise ValueError(f"'{name}' cannot name it: letters, digits, dots and dashes, and no built-in attack")
        return value

    @field_validator("claims", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return [str(item) for item in value] if isinstance(value, list) else value  # YAML reads 1 as a number

    @field_validator("seeds", "pairs")
    @classmethod
    def _different(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("a seed or a pair occurs twice")
        return value


def plan_names() -> list[str]:
    """Names of the plans that ship with the package."""
    return names_in(_PLANS)


def load_plan(name: str, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan by name or path and apply ``key=value``: keys of the plan (``seeds=[0,1]``), or settings.

    Raises:
        UserError: No such plan, malformed, an unknown key or model, or a value that does not fit.
    """
    content = read_named("experiment", name, _PLANS)
    if not isinstance(content, dict):
        raise UserError(f"experiment '{name}' must be a YAML mapping with the keys summary, why, train, …")
    content = {"name": Path(name).stem, "models": {"small": {}}, **content}
    _override(content, overrides)
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"experiment '{name}', {where}: {first['msg']}") from None
    return _checked(plan)


def _override(content: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise UserError(f"override '{override}' is not of the form key=value, for instance seeds=[0,1]")
        try:
            value = plain_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"override '{override}': the value cannot be read") from None
        path = key.split(".")
        head, changes = path[0], nested(path, value)
        if head == "models" and len(path) > 1:
            _name_model(content, path[1:], value)
        elif head in Plan.model_fields:
            merge(content, changes)
        elif key in ("adversary.path", "defender.path"):
            raise UserError(f"an experiment names its models itself: use models.NAME=… instead of '{key}'")
        elif key in known_keys() and key != "seed":
            merge(content, {"settings": changes})
        else:
            known = [*Plan.model_fields, *known_keys()]
            hint = " Use seeds=[…]." if key == "seed" else nearest(key, known)
            raise UserError(f"unknown key '{key}'.{hint}")


def _name_model(content: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a model or one of its settings, and keep what else is known of it."""
    models = content["models"]
    known = models.get(keys[0]) if isinstance(models, dict) else None
    if isinstance(known, str):
        models[keys[0]] = known = {"path": known}
    if isinstance(known, dict) and len(keys) == 1 and isinstance(value, str):
        value = {**known, "path": value}
    merge(content, nested(["models", *keys], value))


def _checked(plan: Plan) -> Plan:
    """The plan without the pairs whose models are not named; refuses what does not fit together."""
    pairs = [pair for pair in plan.pairs if all(plan.models.get(model) is not None for model in pair)]
    unnamed = [model for model in dict.fromkeys(plan.pairs[0]) if plan.models.get(model) is None]
    faults = [
        *(f": no model '{model}'.{nearest(model, plan.models)}"
          for pair in plan.pairs for model in pair if model not in plan.models),
        *(f": transfer names '{name}'.{nearest(name, plan.train)}" for name in plan.transfer if name not in plan.train),
        *(f": no claim '{claim}'; known: {', '.join(CLAIMS)}" for claim in plan.claims if claim not in CLAIMS),
        *(f": '{name}' has the role '{OURS}'; name it '{OURS}' too"
          for name, item in plan.train.items() if item.role == OURS != name),
        *([f": a sweep varies '{OURS}', which train does not name"] if plan.sweep and OURS not in plan.train else []),
        *([f" compares models that you name; add {' '.join(f'models.{model}=PATH' for model in unnamed)}"]
          if unnamed else []),
    ]  # fmt: skip
    if faults:
        raise UserError(f"experiment '{plan.name}'{faults[0]}")
    return plan.model_copy(update={"pairs": pairs})


def adversaries_of(plan: Plan) -> dict[str, Trained]:
    """All adversaries that are trained, those of the sweep included."""
    found = dict(plan.train)
    base = settings_of(plan, plan.pairs[0], plan.seeds[0], plan.train.get(OURS))
    for key, values in plan.sweep.items():
        if key not in known_keys() or "." not in key:
            raise UserError(f"experiment '{plan.name}': sweep of unknown setting '{key}'.{nearest(key, known_keys())}")
        for value in dict.fromkeys(_validated(plan, base, key, value) for value in values):
            if dotted(base.as_dict())[key] != value:  # that one is ours
                name = f"{key.partition('.')[2]}-{value}"
                if name in found or not _NAME.fullmatch(name):
                    reason = "stands for another adversary too" if name in found else "is no name of a folder"
                    raise UserError(f"experiment '{plan.name}': the sweep of '{key}' makes '{name}', which {reason}")
                ours = plan.train[OURS]
                changes = changed(ours.settings, {key: value})
                found[name] = Trained(preset=ours.preset, settings=changes, pairs="first", role="sweep")
    return found


def _validated(plan: Plan, base: Settings, key: str, value: Any) -> Any:
    """A value of a sweep as its setting holds it, so that ``1e-3``, which YAML takes for a text, is a number."""
    try:
        held = dotted(settings_from(changed(base.as_dict(), {key: value})).as_dict())[key]
    except UserError as error:
        raise UserError(f"experiment '{plan.name}', sweep: {error}") from None
    if isinstance(held, list):
        raise UserError(f"experiment '{plan.name}': '{key}' is a list, which a sweep cannot vary")
    return held


def settings_of(plan: Plan, pair: tuple[str, str], seed: int, trained: Trained | None = None) -> Settings:
    """Settings of a training, or of a pair's evaluation where ``trained`` is not given.

    What an adversary is defined by wins over the plan's settings, and these over the base preset.

    Raises:
        UserError: Something does not fit.
    """
    values = load_settings(plan.preset).as_dict()
    merge(values, plan.settings)
    for section, model in zip(("adversary", "defender"), pair, strict=True):
        chosen = plan.models[model]
        changes = dict(chosen) if isinstance(chosen, dict) else {"path": chosen}
        if section == "adversary":
            changes.pop("dtype", None)  # what is tuned stays in float32
        merge(values, {section: changes})
    if trained is not None:
        for name in filter(None, trained.preset.split("+")):
            merge(values, load_preset(name).settings)
        merge(values, trained.settings)
    return settings_from({**values, "seed": seed})


def settings_differences(first: Settings, second: Settings) -> dict[str, Any]:
    """Settings of ``second`` that differ from ``first``, by dotted key; the seed counts for nothing."""
    known = dotted(first.as_dict())
    return {key: value for key, value in dotted(second.as_dict()).items() if value != known[key] and key != "seed"}
