"""Held-out prefixes: read, counted, and compared with those that were trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..base.errors import UserError
from ..base.records import Prefix
from ..config import Settings
from ..data import BadRows, load_prefixes, overlap
from ..data.splits import repeated
from .resume import texts_hash

_log = logging.getLogger(__package__)


def facts_of_prefixes(prefixes: Sequence[Prefix], source: str, bad: BadRows) -> dict[str, Any]:
    """What is known of the prefixes, for ``summary.json``."""
    return {"source": source, "count": len(prefixes), "sha256": texts_hash(prefixes), "skipped": bad.facts()}


def test_prefixes(settings: Settings, bad: BadRows | None = None) -> list[Prefix]:
    """Held-out prefixes; warns when some were trained on, and when rows were skipped.

    Args:
        settings: ``data.test`` names them.
        bad: Where skipped rows are counted.

    Raises:
        UserError: The file is missing or malformed.
    """
    bad = bad or BadRows(settings.data.skip_bad_rows)
    prefixes = load_prefixes(settings.data.test, split="test", bad=bad)[: settings.evaluation.prefixes]
    if bad.count:
        _log.warning(f"data.test: {bad}")
    warn_of_repeats("test", prefixes)
    warn_of_seen(prefixes, settings)
    return prefixes


def warn_of_repeats(name: str, prefixes: Sequence[Prefix]) -> None:
    """Warn when prefixes of a set have one text: each counts, as if more were known than is."""
    if again := repeated([prefix.text for prefix in prefixes]):
        _log.warning(
            f"{again} of {len(prefixes)} {name} prefixes repeat the text of another; leave them out, since each "
            "counts and intervals come out too narrow"
        )


def warn_of_seen(prefixes: Sequence[Prefix], settings: Settings, which: str = "test", what: str = "prefixes") -> None:
    """Warn when test prefixes, or what else was to be unseen, also stand in the training or dev set of the settings."""
    for name, source in (("training", settings.data.train), ("dev", settings.data.dev)):
        split = "train" if name == "training" else "dev"
        try:
            seen = load_prefixes(source, split=split, bad=BadRows(settings.data.skip_bad_rows))
        except UserError as error:  # a run may be evaluated where its training data is not at hand
            _log.info(f"note: not checked whether {which} {what} also stand in the {name} set: {error}")
            continue
        shared = overlap(seen, prefixes)
        if shared:
            _log.warning(f"{len(shared)} of {len(prefixes)} {which} {what} also stand in the {name} set")
