"""Splits that stay put: decided by a hash of the id, so that adding rows moves none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..base.randomness import key_of
from ..base.records import Prefix

SPLITS = ("train", "dev", "test")


class RowId(str):
    """An id made of a file's name and a row's number: it names a place, so two files may both have it."""

    __slots__ = ()


def split_by_id(
    items: Sequence[Prefix], *, seed: int, shares: tuple[float, float, float] = (0.80, 0.05, 0.15)
) -> dict[str, list[Prefix]]:
    """Split one set into train, dev and test (docs/method.md section 6: 80/5/15 with a fixed seed).

    Args:
        items: Prefixes; the order within each part is kept.
        seed: Another seed, another split.
        shares: Expected shares of train, dev and test.

    Raises:
        ValueError: The shares are negative or do not sum to one.
    """
    if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9):
        raise ValueError(f"shares must be non-negative and sum to 1, not {shares}")
    result: dict[str, list[Prefix]] = {name: [] for name in SPLITS}
    for item in items:
        place = (int(key_of("split", seed, item.id)) >> 11) * 2.0**-53  # exact, so never rounded up to 1
        name = "train" if place < shares[0] else "dev" if place < shares[0] + shares[1] else "test"
        result[name].append(item)
    return result


def overlap(first: Iterable[Prefix], second: Iterable[Prefix]) -> list[Prefix]:
    """Prefixes of ``second`` that also stand in ``first``, by text or by id: leakage between splits.

    Texts are the same when they differ in case and white space only. An id that was made of file name and row number
    counts for nothing here: ``train/talk.txt`` and ``test/talk.txt`` both have a ``talk-1``.
    """
    texts, ids = set(), set()
    for prefix in first:
        texts.add(folded(prefix.text))
        if not isinstance(prefix.id, RowId):
            ids.add(prefix.id)
    return [
        prefix
        for prefix in second
        if folded(prefix.text) in texts or (not isinstance(prefix.id, RowId) and prefix.id in ids)
    ]


def repeated(texts: Sequence[str]) -> int:
    """How many texts occur before, but for white space and case."""
    return len(texts) - len(set(map(folded, texts)))


def folded(text: str) -> str:
    """The text as it counts for duplicates: white space and case make no difference."""
    return " ".join(text.split()).casefold()
