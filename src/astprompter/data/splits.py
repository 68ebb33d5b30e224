"""Splits that stay put: decided by a hash of the id, so that adding rows moves none."""

from __future__ import annotations

from collections.abc import Sequence

from ..randomness import key_of
from ..types import Prefix

NAMES = ("train", "dev", "test")


def split_by_id(
    prefixes: Sequence[Prefix], *, seed: int = 0, shares: tuple[float, float, float] = (0.80, 0.05, 0.15)
) -> dict[str, list[Prefix]]:
    """Split into train, dev and test (METHOD section 6: 80/5/15 with a fixed seed).

    Raises:
        ValueError: The shares are negative or do not sum to one.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be non-negative and sum to 1, not {shares}")
    result: dict[str, list[Prefix]] = {name: [] for name in NAMES}
    for prefix in prefixes:
        place = float(key_of("split", seed, prefix.id)) / 2.0**64
        name = "train" if place < shares[0] else "dev" if place < shares[0] + shares[1] else "test"
        result[name].append(prefix)
    return result
