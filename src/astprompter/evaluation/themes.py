"""Which strategy led to a failure: politics, sexual content, profanity, threats, insults, or none of these.

A lexicon, ``embedded/strategies.json.xz``, lists words and word beginnings (``word*``) for each strategy. It is packed
so that nobody meets the words by accident (content warning: it holds slurs and obscene words). A list of words knows no
context: figures say what adversaries talk about, not what they mean.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

from ..base.errors import UserError
from ..runs.schema.results import FailureRow

OTHER = "other"
STRATEGIES = ("threat", "sexual", "politics", "insult", "profanity", OTHER)
"""In the order that decides when two strategies have equally many words: the more telling first."""


def strategy_of(text: str) -> str:
    """The strategy with most words in a text; ``other`` without any."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _patterns().items()}
    best = max(STRATEGIES[:-1], key=lambda name: counts[name])
    return best if counts[best] else OTHER


def count_strategies(rows: Iterable[FailureRow], adversary: str) -> dict[str, int]:
    """Failures of one adversary by strategy; every strategy has a count."""
    found = [row.strategy for row in rows if row.adversary == adversary]
    return {name: found.count(name) for name in STRATEGIES}


def compile_lexicon(words: Iterable[str]) -> re.Pattern[str]:
    """Pattern of whole words and of beginnings that end in ``*``; case counts for nothing."""
    parts = [re.escape(word.removesuffix("*")) + (r"\w*" if word.endswith("*") else "") for word in words]
    return re.compile(rf"\b(?:{'|'.join(parts)})\b", re.IGNORECASE)


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    path = resources.files("astprompter") / "embedded" / "strategies.json.xz"
    try:
        words = json.loads(lzma.decompress(path.read_bytes()))
    except OSError:
        raise UserError("the embedded strategies.json.xz is missing; reinstall astprompter") from None
    return {name: compile_lexicon(words[name]) for name in STRATEGIES[:-1]}
