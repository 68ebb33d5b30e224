"""Strip the markup of forum posts, so that prefixes are plain text (docs/method.md section 6)."""

from __future__ import annotations

import html
import re

# Spans are bounded (``{1,300}``), or a text full of unmatched marks would take quadratic time.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")  # Reddit's "&#x200B;" paragraphs among them
_SPOILER = re.compile(r"(?:>|&gt;)!(.{1,300}?)!(?:<|&lt;)")
_QUOTE = re.compile(r"^[ \t]*(?:>|&gt;)[^\n]*\n?", re.MULTILINE)
_LINK = re.compile(r'(?:(?<!\S)!)?\[([^\]\[]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:[ \t]+"[^"\n]*")?\)')
_ADDRESS = r"<?(?:https?://|www\.)[^\s<>()\[\]]*(?:\([^\s<>()]*\)[^\s<>()\[\]]*)*>?"
_URL = re.compile(rf"\(\s?{_ADDRESS}\s?\)|{_ADDRESS}")
_RULE = re.compile(r"^[ \t]*(?:[-*_][ \t]*){3,}$", re.MULTILINE)
_LINE_MARK = re.compile(r"^[ \t]*(?:#{1,6}|[-*+])[ \t]+", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<!\\)(\*{1,3}|_{2,3}|~~|`{1,3})(?=\S)(.{1,300}?)(?<=[^\s\\])\1", re.DOTALL)
_UNDERLINE = re.compile(r"(?<![\w\\])_(?=[^\s_])(.{1,300}?)(?<=[^\s_\\])_(?!\w)", re.DOTALL)
_SUPERSCRIPT = re.compile(r"(?<![\d^_])\^+(?:\(([^()\n]*)\)|(?=[A-Za-z]))")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!~<>^|-])")
_SPACE = re.compile(r"\s+")


def clean_markup(text: str) -> str:
    """Plain text on one line: without quoted lines, addresses and Markdown; the words of links and emphasis stay."""
    text = text.replace("\r\n", "\n")
    text = _SPOILER.sub(r"\1", text)  # before quotes, which begin alike
    text = _QUOTE.sub("", text)
    text = html.unescape(html.unescape(text))  # dumps of Reddit escape twice: "&amp;gt;"
    text = _INVISIBLE.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _URL.sub("", text)
    text = _RULE.sub("", text)
    text = _LINE_MARK.sub("", text)
    for _ in range(2):  # emphasis within emphasis
        text = _EMPHASIS.sub(r"\2", text)
        text = _UNDERLINE.sub(r"\1", text)
    text = _SUPERSCRIPT.sub(lambda match: match[1] or "", text)
    text = _ESCAPE.sub(r"\1", text)
    return _SPACE.sub(" ", text).strip()
