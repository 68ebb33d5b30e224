"""How many trees may grow at once: what their caches and logits need, against the memory that is free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import torch

from ...base.protocols import Speaker
from ...config import RolloutSettings

_SHARE = 0.25
"""Of the free memory."""
_MOST_ROWS = 512
"""At the last depth; matrix products are long saturated there, and progress shows more often."""
_UNKNOWN = 4 * 2**30


def trees_that_fit(speakers: Sequence[Speaker], *, horizon: int, branching: int) -> int:
    """Trees that grow in lock step within a quarter of the free memory; at least one.

    Args:
        speakers: Adversary and defender.
        horizon: Depth d.
        branching: Utterances per node.
    """
    leaves = int(branching**horizon)
    most = max(1, _MOST_ROWS // leaves)
    need: Counter[str] = Counter()
    for speaker in speakers:
        need.update(speaker.bytes_per_tree(horizon=horizon, branching=branching))
    for device, size in need.items():
        most = min(most, int(_SHARE * free_bytes(torch.device(device)) / size))
    return max(1, most)


def batch_of_trees(rollout: RolloutSettings, speakers: Sequence[Speaker], *, branching: int) -> int:
    """Trees that grow together: ``rollout.trees_per_batch``, or what memory allows; see :func:`trees_that_fit`."""
    return rollout.trees_per_batch or trees_that_fit(speakers, horizon=rollout.horizon, branching=branching)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN
