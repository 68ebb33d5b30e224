"""Provide texts: fetch a data set, clean it, and keep it under a name that ``data.*`` settings understand."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import UserError, nearest
from ..base.files import check_writable, checksum
from ..base.progress import Progress, Silent
from ..config import Settings
from ..data.cache import DIALOGUES, ELICITING, PREFIXES, cache_folder, is_name, prepared_folder
from ..data.catalog import CATALOG, Published
from ..data.download import fetch, size_of
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
    """What the user asks for, and what will be done for it, to be shown before it is.

    Attributes:
        source: A name of the catalog, ``hub:OWNER/NAME``, or a file, archive or folder.
        kind: A word of :data:`KINDS`, empty for what the catalog says; planned: the kind's own name.
        column: Column of the texts; empty for ``text``.
        split: Split of a hub data set.
        file: A local copy of a catalog set, taken instead of a download.
        url: A mirror of a catalog set.
        sha256: Known checksum of the download.
        name: Name to keep the texts under; empty for the source's own, until it is planned.
        offline: Whether to refuse the network.
        downloads: Planned: address of what must be downloaded; empty where nothing must.
        size: Planned: its bytes, where known.
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
    downloads: str = ""
    size: int | None = None

    @property
    def entry(self) -> Published | None:
        """The catalog's entry, if the source is one."""
        return CATALOG.get(self.source)

    @property
    def folder(self) -> Path:
        """Where the texts will be kept."""
        return prepared_folder(self.name)


def plan(order: Order) -> Order:
    """Check an order and find out what it will fetch; asks the server for the size and for nothing else.

    Raises:
        UserError: An unknown source or kind, or a name that cannot be one.
    """
    entry, source = order.entry, order.source
    if order.kind and order.kind not in KINDS:
        raise UserError(f"unknown kind of texts '{order.kind}'.{nearest(order.kind, KINDS)}")
    if not entry and not order.kind:
        raise UserError(f"say what '{source}' is with --as {', '.join(KINDS)}; or name one of {', '.join(CATALOG)}")
    kind = KINDS[order.kind] if order.kind else entry.kind if entry else ""
    if entry and kind != entry.kind:
        raise UserError(f"'{entry.name}' becomes {entry.kind}; leave out --as")
    is_hub = source.startswith(HUB)
    if not entry and not is_hub and not Path(source).expanduser().exists():
        raise UserError(f"'{source}' does not exist, and is no known data set.{nearest(source, CATALOG)}")
    name = order.name or (entry.name if entry else Path(source.removeprefix(HUB)).name.partition(".")[0])
    if not is_name(name) or name == "embedded":
        raise UserError(f"'{name}' cannot name a data set; give letters, digits, '-' and '_' with --name")
    if not entry and name in CATALOG:
        raise UserError(f"'{name}' is the name of a published data set; give another with --name")
    downloads, size = "", None
    if is_hub and not Path(source.removeprefix(HUB)).is_dir():
        downloads = f"https://huggingface.co/datasets/{source.removeprefix(HUB)}"
    elif entry and order.file is None and not entry.download.is_file():
        downloads = order.url or entry.url
        size = entry.size if order.offline else size_of(downloads) or entry.size
    return replace(order, kind=kind, name=name, downloads=downloads, size=size)


def provide(order: Order, settings: Settings, *, progress: Progress | None = None) -> Prepared:
    """Carry out a planned order: fetch, clean, score, split, write.

    Raises:
        UserError: What any of these steps finds wrong.
    """
    progress = progress or Silent()
    check_writable(order.folder / "train.jsonl")
    path, facts = _obtain(order, progress)
    bad = BadRows(settings.data.skip_bad_rows)
    if order.kind == PREFIXES:
        scorer = build_scorer(settings)
        facts |= {"scorer": scorer.name, "split_seed": settings.seed}
        prepared = prepare_prefixes(path, scorer, seed=settings.seed, column=order.column, bad=bad, progress=progress)
    elif order.kind == ELICITING:
        prepared = prepare_eliciting(path, column=order.column, bad=bad)
    else:
        prepared = prepare_dialogues(path, bad=bad)
    if bad.count:
        _log.warning(str(bad))
        facts["rows_skipped"] = bad.facts()
    prepared.write(order.folder, facts)
    return prepared


def _obtain(order: Order, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The file to read, and what the card says of it."""
    entry = order.entry
    facts: dict[str, Any] = {"name": order.name, "source": order.source}
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
