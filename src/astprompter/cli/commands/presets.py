"""``astprompter presets``: what there is to start from."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from ...config import load_preset, preset_names
from .shared import OUT


def presets() -> None:
    """List the presets: what each is for, and what it changes."""
    table = Table("preset", "what it is", "differs in", show_lines=True)
    for name in preset_names():
        preset = load_preset(name)
        changes = [
            f"{section}.{key}={value}" if isinstance(values, dict) else f"{section}={values}"
            for section, values in preset.settings.items()
            for key, value in (values.items() if isinstance(values, dict) else [("", "")])
        ]
        parent = f"(from {preset.extends}) " if preset.extends else ""
        table.add_row(
            escape(name), f"{preset.summary}\n[dim]{escape(preset.why.strip())}[/dim]", parent + "\n".join(changes)
        )
    OUT.print(table)
