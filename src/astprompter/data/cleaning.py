"""Strip the markup of forum posts, so that prefixes are plain text (METHOD section 6)."""

from __future__ import annotations

import html
import re

_LINK = re.compile(r"\[([^\]\[]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_URL = re.compile(r"(?:https?://|www\.)\S+")
_QUOTE = re.compile(r"^[ \t]*(?:>|&gt;)[^\n]*\n?", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*{1,3}|_{2,3}|~~|`+)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
_SPACE = re.compile(r"\s+")


def clean_markup(text: str) -> str:
    """Drop quoted lines and addresses, keep the words of links and emphasis, collapse white space."""
    text = _QUOTE.sub("", text)
    text = html.unescape(text)
    text = _LINK.sub(r"\1", text)
    text = _URL.sub("", text)
    text = _HEADING.sub("", text)
    for _ in range(2):  # emphasis within emphasis
        text = _EMPHASIS.sub(r"\2", text)
    return _SPACE.sub(" ", text).strip()
