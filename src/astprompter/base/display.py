"""Model text made fit to be shown: without control codes, or masked."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    """Model text made safe for a terminal: control and direction codes become visible marks."""
    return "".join(
        "⏎" if c == "\n" else "·" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else c
        for c in text
    )


def masked(text: str) -> str:
    """The shape of a text without its content: all but white space and punctuation becomes blocks."""
    return "".join(c if c.isspace() or c == "⏎" or unicodedata.category(c)[0] == "P" else "▒" for c in plain(text))
