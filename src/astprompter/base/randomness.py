"""Random numbers that depend on a row's own key alone.

Every sampled token draws from a counter-based stream named by (seed, purpose, number of the tree or id of the prefix,
path in the tree, turn). So a row's text does not depend on its batch mates, on the batch size, on how prefixes are
sharded over processes, or on where a run was interrupted; and there is no generator state to save.
The mixer is SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .records import Keys

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * _MIX1
        state = (state ^ (state >> np.uint64(27))) * _MIX2
    return state ^ (state >> np.uint64(31))


def key_of(*parts: str | int) -> np.uint64:
    """Hash names and numbers to one key; equal parts give equal keys on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def derive(keys: Keys, branch: int | npt.NDArray[np.int64]) -> Keys:
    """Keys of a branch of each stream: [rows] -> [rows], independent for different ``branch``."""
    with np.errstate(over="ignore"):
        return _mix(keys + _GOLDEN * (np.asarray(branch).astype(np.uint64) + np.uint64(1)))


def uniform(keys: Keys, counter: int) -> npt.NDArray[np.float64]:
    """The ``counter``-th uniform number in [0, 1) of each stream: [rows] -> [rows]."""
    return (derive(keys, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*parts: str | int) -> np.random.Generator:
    """A NumPy generator named by ``parts``, for shuffles and draws of data."""
    return np.random.default_rng(int(key_of(*parts)))


def keys_of(seed: int, name: str, first: int, count: int) -> Keys:
    """Keys of ``count`` numbered items from ``first`` on: uint64 [count]."""
    return np.array([key_of(seed, name, first + i) for i in range(count)], dtype=np.uint64)


def shuffled_epochs(size: int, first: int, count: int, seed: int, name: str) -> Iterator[int]:
    """Items ``first`` … ``first + count`` of an endless sequence of shuffled passes over ``size`` items."""
    for place in range(first, first + count):
        epoch, offset = divmod(place, size)
        if offset == 0 or place == first:
            order = generator(seed, "order", name, epoch).permutation(size)
        yield int(order[offset])
