"""What is fit to be shown: model text without control codes, or masked; paths that tell nothing of a machine."""

from __future__ import annotations

import unicodedata
from pathlib import Path


def plain(text: str) -> str:
    """Model text made safe for a terminal: control and direction codes become visible marks."""
    return "".join(
        "⏎" if c == "\n" else "·" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else c
        for c in text
    )


def masked(text: str) -> str:
    """The shape of a text without its content: all but white space and punctuation becomes blocks."""
    return "".join(c if c.isspace() or c == "⏎" or unicodedata.category(c)[0] == "P" else "▒" for c in plain(text))


def portable(path: str) -> str:
    """A model, data set or scorer as others may read it: of an absolute path only the last part."""
    kind, colon, argument = path.partition(":")
    if colon and argument:
        return f"{kind}:{portable(argument)}"
    return Path(path).name if Path(path).is_absolute() else path
