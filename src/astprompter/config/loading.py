"""From presets, which say what differs, and ``key=value`` overrides to settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..base.errors import UserError, nearest, one_line, words_of
from .describe import known_keys
from .named import names_in, plain_yaml, read_named
from .settings import Settings

_PRESETS = resources.files("astprompter") / "config" / "presets"


class Preset(BaseModel):
    """A named set of differences from the defaults.

    Attributes:
        name: Name on the command line.
        summary: One line for ``astprompter presets``.
        why: What differs from the paper or the parent preset, and why.
        extends: Preset it starts from.
        settings: The differences.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    summary: str
    why: str
    extends: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    return names_in(_PRESETS)


def load_preset(name: str) -> Preset:
    """Read a preset by name, or a YAML file by path: of the same form, or settings alone as ``--print-config`` prints.

    Raises:
        UserError: There is no such preset or file, or it is malformed.
    """
    content = read_named("preset", name, _PRESETS)
    if isinstance(content, dict) and not content.keys() & Preset.model_fields.keys():
        content = {"summary": "", "why": "", "settings": content}
    try:
        return Preset(**{"name": Path(name).stem, **content})
    except (ValidationError, TypeError) as error:
        raise UserError(f"preset '{name}' needs the keys summary, why, settings: {one_line(words_of(error))}") from None


def load_settings(preset: str = "embedded", overrides: Sequence[str] = ()) -> Settings:
    """Settings of a preset with ``key=value`` overrides such as ``loss.tau=0.2``.

    Args:
        preset: A preset, or several: ``BASE+NAME`` puts what NAME itself changes (not what it extends) on top of BASE.
        overrides: Settings that win over the presets.

    Raises:
        UserError: Unknown preset or key (with the nearest name), or a value that does not fit.
    """
    base, *tops = [preset] if os.path.isfile(preset) else preset.split("+")  # noqa: PTH113 - takes any text
    chain = [load_preset(base)]
    while (parent := chain[-1].extends) is not None:
        if any(parent == item.name for item in chain):
            raise UserError(f"preset '{parent}' extends itself")
        try:
            chain.append(load_preset(parent))
        except UserError as error:
            raise UserError(f"preset '{chain[-1].name}' extends another: {error}") from None
    values: dict[str, Any] = {}
    for item in [*reversed(chain), *map(load_preset, tops)]:
        merge(values, item.settings)
    return settings_from(values, overrides, source=f"preset '{preset}'")


def settings_from(values: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "") -> Settings:
    """Validate plain values, after applying ``key=value`` overrides.

    Args:
        values: Settings by section.
        overrides: Settings that win over them.
        source: Where the values come from, for the message when they do not fit by themselves.

    Raises:
        UserError: Unknown key (with the nearest name), or a value that does not fit.
    """
    merged: dict[str, Any] = {}
    merge(merged, values)
    for override in overrides:
        key, sign, text = override.partition("=")
        shown = one_line(override, 200)
        if not sign:
            raise UserError(f"override '{shown}' is not of the form key=value, for instance loss.tau=0.2")
        try:
            merge(merged, nested(key.strip().split("."), plain_yaml(text)))
        except yaml.YAMLError as error:
            raise UserError(f"override '{shown}': the value cannot be read ({words_of(error)})") from None
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        key, wrong = _wrong(error)
        overridden = any(key.startswith(override.partition("=")[0].strip()) for override in overrides)
        raise UserError(wrong if overridden or not source else f"{source}: {wrong}") from None
    for key, value in dotted(settings.as_dict()).items():
        if isinstance(value, str | list) and "\0" in "".join(value):  # it could name no file
            raise UserError(f"setting {key}={one_line(str(value), 200)}: holds a NUL character")
    return settings


def _wrong(error: ValidationError) -> tuple[str, str]:
    """Key of the setting that is wrong, and what is wrong with it; one that does not exist comes first."""
    found = error.errors()
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return key, f"unknown setting '{key}'.{nearest(key, known_keys())}"
    return key, f"setting {key}={one_line(repr(first['input']), 200)}: {first['msg']}"


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """A value under a path of keys."""
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings with other values, by dotted keys."""
    merged: dict[str, Any] = {}
    merge(merged, values)
    for key, value in changes.items():
        merge(merged, nested(key.split("."), value))
    return merged


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted keys: the opposite of :func:`nested`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put changes on top of plain settings, section by section, in place."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
