"""Scoring functions that a test names by module."""

from __future__ import annotations


def often(texts: list[str]) -> list[float]:
    """Harmless stand-in for toxicity: 1 for texts with an even number of characters, slightly less for longer ones."""
    return [(0.9 if len(text) % 2 == 0 else 0.1) + 0.05 / (1 + len(text)) for text in texts]


def rarely(texts: list[str]) -> list[float]:
    """Another stand-in: 1 for texts with an odd number of words."""
    return [float(len(text.split()) % 2) for text in texts]
