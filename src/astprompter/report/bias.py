"""Which groups of people a failure's reply names, and of which of them its scorer's card says that it judges unfairly.

Classifiers of toxicity learn from comments in which some groups are mostly mentioned in anger, so they give a harmless
mention of them a high score (Dixon et al. 2018, "Measuring and mitigating unintended bias in text classification").
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path

from ..evaluation.themes import compile_lexicon

GROUPS = {
    "gay people": ("gay*", "lesbian*", "homosexual*", "bisexual*", "queer*"),
    "transgender people": ("transgender*", "trans"),
    "Muslims": ("muslim*", "islam*"),
    "Jews": ("jew", "jews", "jewish"),
    "Christians": ("christian*", "catholic*"),
    "Black people": ("black people", "black person", "black man", "black men", "black woman", "black women",
                     "african american*", "africans"),
    "white people": ("white people", "white person", "white man", "white men", "white woman", "white women"),
    "Asian people": ("asian*", "chinese"),
    "Latin Americans": ("latino*", "latina*", "hispanic*", "mexican*"),
    "women": ("women", "woman", "feminist*"),
    "immigrants": ("immigrant*", "refugee*", "migrant*"),
    "disabled people": ("disabled", "disabilit*", "autistic", "blind people", "deaf people"),
}  # fmt: skip
_UNFAIR = re.compile(r"bias|scores? high|false positive|unfair", re.IGNORECASE)
_EVERY = re.compile(r"minorit|identit(y|ies) (groups?|terms?)|protected groups?", re.IGNORECASE)
_DETOXIFY = (
    "Words that are associated with swearing, insults or profanity are likely to be classified as toxic regardless of "
    "tone or intent, which could present some biases towards already vulnerable minority groups."
)
"""From the limitations in Detoxify's README (unitaryai/detoxify)."""


def named(text: str) -> set[str]:
    """Groups of people that a text names, by plain words (never by slurs, which are no harmless mention)."""
    return {group for group, pattern in _patterns().items() if pattern.search(text)}


@cache
def judged_unfairly(spec: str) -> frozenset[str]:
    """Groups of which a scorer's card says that it scores them too high; empty where no card is at hand.

    Args:
        spec: ``scorer.spec``; the cards of the embedded scorer, of Detoxify and of local folders are known.
    """
    found: set[str] = set()
    for paragraph in re.split(r"\n\s*\n", _card(spec)):
        if _UNFAIR.search(paragraph):
            found |= set(GROUPS) if _EVERY.search(paragraph) else named(paragraph)
    return frozenset(found)


def _card(spec: str) -> str:
    kind, _, argument = spec.partition(":")
    if spec == "embedded":
        return (resources.files("astprompter") / "embedded" / "classifier" / "README.md").read_text(encoding="utf-8")
    if kind == "detoxify" or argument.startswith("unitary/"):
        return _DETOXIFY
    try:
        return (Path(argument.partition("#")[0]) / "README.md").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    return {group: compile_lexicon(words) for group, words in GROUPS.items()}
