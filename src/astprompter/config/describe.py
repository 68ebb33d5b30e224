"""Settings as people read them: names, defaults and help texts."""

from __future__ import annotations

import math
from typing import Any

import yaml
from pydantic import BaseModel

from .settings import Settings


def known_keys() -> dict[str, tuple[Any, str]]:
    """Every setting by its dotted key, with its default and its help text."""
    keys: dict[str, tuple[Any, str]] = {}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for inner, inner_field in section.model_fields.items():
                keys[f"{name}.{inner_field.alias or inner}"] = (inner_field.default, inner_field.description or "")
        else:
            keys[name] = (field.default, field.description or "")
    return keys


def to_yaml(settings: Settings) -> str:
    """Settings as YAML with each one's help text as a comment."""
    help_texts, lines = known_keys(), []
    for name, value in settings.as_dict().items():
        if not isinstance(value, dict):
            lines.append(f"{name}: {_scalar(value)}  # {help_texts[name][1]}")
            continue
        lines.append(f"{name}:")
        lines += [f"  {inner}: {_scalar(own)}  # {help_texts[f'{name}.{inner}'][1]}" for inner, own in value.items()]
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
