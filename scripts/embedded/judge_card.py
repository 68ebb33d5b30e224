"""The judge's model card, written from its figures."""

from __future__ import annotations

from typing import Any


def card(figures: dict[str, Any]) -> str:
    """Markdown."""
    return ""
