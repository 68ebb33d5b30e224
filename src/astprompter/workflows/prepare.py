"""Provide texts: fetch a data set, clean it, and keep it under a name that ``data.*`` settings understand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError, nearest
from ..base.progress import Progress, Silent
from ..config import Settings
from ..data.cache import DIALOGUES, ELICITING, PREFIXES, cache_folder, is_name, prepared_folder
from ..data.catalog import CATALOG, Published
from ..data.download import checksum, fetch, size_of
from ..data.hub import hub_rows
from ..data.prepare import Prepared, prepare_dialogues, prepare_eliciting, prepare_prefixes
from ..data.readers import BadRows
from .load import build_scorer

_log = logging.getLogger(__package__)
KINDS = {"prefixes": PREFIXES, "eliciting": ELICITING, "dialogues": DIALOGUES}
"""What texts can become: word on the command line -> name of the kind."""
HUB = "hub:"


@dataclass(frozen=True, slots=True)
class Order:
    """What the user asks for.

    Attributes:
        source: A name of the catalog, ``hub:OWNER/NAME``, or a file, archive or folder.
        kind: A word of :data:`KINDS`; empty for what the catalog says.
        column: Column of the texts; empty for ``text``.
        split: Split of a hub data set.
        file: A local copy of a catalog set, taken instead of a download.
        url: A mirror of a catalog set.
        sha256: Known checksum of the download.
        name: Name to keep the texts under; empty for the source's own.
        offline: Whether to refuse the network.
    """

    source: str
    kind: str = ""
    column: str = ""
    split: str = "train"
    file: Path | None = None
    url: str = ""
    sha256: str = ""
    name: str = ""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, to be shown before it is.

    Attributes:
        order: What was asked for.
        entry: The catalog's entry, if the source is one.
        kind: Kind of the texts.
        name: Name they will be kept under.
        folder: Where.
        downloads: Address of what must be downloaded; empty where nothing must.
        size: Its bytes, where known.
    """

    order: Order
    entry: Published | None
    kind: str
    name: str
    folder: Path
    downloads: str
    size: int | None


def plan(order: Order) -> Plan:
    """Check an order and find out what it will fetch; asks the server for the size and for nothing else.

    Raises:
        UserError: An unknown source or kind, or a name that cannot be one.
    """
    entry = CATALOG.get(order.source)
    if order.kind and order.kind not in KINDS:
        raise UserError(f"unknown kind of texts '{order.kind}'.{nearest(order.kind, KINDS)}")
    if entry and order.kind and KINDS[order.kind] != entry.kind:
        raise UserError(f"'{entry.name}' becomes {entry.kind}; leave out --as")
    if not entry and not order.kind:
        raise UserError(
            f"say what '{order.source}' is with --as {', '.join(KINDS)}; or name one of {', '.join(CATALOG)}"
        )
    is_hub = order.source.startswith(HUB)
    if not entry and not is_hub and not Path(order.source).expanduser().exists():
        raise UserError(f"'{order.source}' does not exist, and is no known data set.{nearest(order.source, CATALOG)}")
    name = order.name or (entry.name if entry else Path(order.source.removeprefix(HUB)).name.partition(".")[0])
    if not is_name(name) or name == "embedded":
        raise UserError(f"'{name}' cannot name a data set; give letters, digits, '-' and '_' with --name")
    if not entry and name in CATALOG:
        raise UserError(f"'{name}' is the name of a published data set; give another with --name")
    downloads, size = "", None
    if is_hub and not Path(order.source.removeprefix(HUB)).is_dir():
        downloads = f"https://huggingface.co/datasets/{order.source.removeprefix(HUB)}"
    elif entry and order.file is None and not entry.download.is_file():
        downloads = order.url or entry.url
        size = entry.size if order.offline else size_of(downloads) or entry.size
    return Plan(order, entry, KINDS[order.kind] if order.kind else entry.kind if entry else "", name,
                prepared_folder(name), downloads, size)  # fmt: skip


def provide(chosen: Plan, settings: Settings, *, progress: Progress | None = None) -> Prepared:
    """Carry out a plan: fetch, clean, score, split, write.

    Raises:
        UserError: What any of these steps finds wrong.
    """
    progress = progress or Silent()
    path, facts = _obtain(chosen, progress)
    form = chosen.entry.form if chosen.entry else "rows"
    bad = BadRows(settings.data.skip_bad_rows)
    if chosen.kind == PREFIXES:
        scorer = build_scorer(settings)
        if chosen.entry is None and (path.suffix == ".zip" or path.is_dir()):
            form = "convokit"
        facts |= {"scorer": scorer.name, "split_seed": settings.seed}
        prepared = prepare_prefixes(
            path, form, scorer, seed=settings.seed, column=chosen.order.column, bad=bad, progress=progress
        )
    elif chosen.kind == ELICITING:
        prepared = prepare_eliciting(path, column=chosen.order.column, bad=bad)
    else:
        prepared = prepare_dialogues(path, bad=bad)
    if bad.count:
        _log.warning(str(bad))
        facts["rows_skipped"] = bad.facts()
    prepared.write(chosen.folder, facts)
    return prepared


def _obtain(chosen: Plan, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The file to read, and what the card says of it."""
    order, entry = chosen.order, chosen.entry
    facts: dict[str, Any] = {"name": chosen.name, "source": order.source}
    if order.source.startswith(HUB):
        name = order.source.removeprefix(HUB)
        target = cache_folder() / "downloads" / "hub" / f"{name.replace('/', '--')}-{order.split}.jsonl"
        path = hub_rows(name, order.split, target, offline=order.offline)
        return path, facts | {"split": order.split, "sha256": checksum(path)}
    if entry is None or order.file is not None:
        path = (order.file or Path(order.source)).expanduser()
        if not path.exists():
            raise UserError(f"'{path}' does not exist; check the path")
        digest = checksum(path) if path.is_file() else None
        if order.sha256 and digest != order.sha256.lower():
            raise UserError(f"'{path}' has SHA-256 {digest}, not the given one; check the file")
        licence = {"licence": entry.licence, "page": entry.page} if entry else {}
        return path, facts | licence | {"file": path.name, "sha256": digest}
    known = order.sha256 or (None if order.url else entry.sha256)
    fetched = fetch(order.url or entry.url, entry.download, sha256=known, offline=order.offline, progress=progress)
    return fetched.path, facts | {
        "licence": entry.licence,
        "page": entry.page,
        "url": fetched.url,
        "sha256": fetched.sha256,
        "sha256_compared_with": fetched.verified,
    }
