"""``astprompter presets``: what there is to start from."""

from __future__ import annotations

from ...config import dotted, load_preset, preset_names
from ..console import listing
from .shared import OUT


def presets() -> None:
    """List the presets: what each is for, and what it changes."""
    entries = []
    for name in preset_names():
        preset = load_preset(name)
        changes = " ".join(f"{key}={value}" for key, value in dotted(preset.settings).items())
        parent = f"{preset.extends}, and " if preset.extends else ""
        entries.append((name, [preset.summary, preset.why.strip(), f"Sets: {parent}{changes}"]))
    OUT.print(listing(entries))
