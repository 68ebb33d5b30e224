"""What a source holds, for looking at it."""

from __future__ import annotations

from ..base.errors import UserError, nearest
from ..base.records import Prefix
from .cache import DIALOGUES, ELICITING, is_name, prepared_folder
from .catalog import CATALOG
from .prepare import statistics
from .readers import REFUSED, BadRows
from .sources import load_dialogues, load_eliciting, load_prefixes
from .splits import SPLITS, overlap


def load_texts_of(source: str, kind: str, split: str, bad: BadRows = REFUSED) -> list[tuple[str, str]]:
    """Id and text of each record; the turns of a dialogue are joined. Rows that cannot be read go to ``bad``.

    Raises:
        UserError: An unknown kind, or a source that cannot be read.
    """
    if kind == "prefixes":
        return [(str(item.id), item.text) for item in _prefixes(source, split, bad)]
    if kind == "eliciting":
        return [(str(number), item.text) for number, item in enumerate(load_eliciting(source, bad=bad), start=1)]
    if kind == "dialogues":
        return [(item.id, " / ".join(item.turns)) for item in load_dialogues(source, bad=bad)]
    raise UserError(f"unknown kind of texts '{kind}'.{nearest(kind, ('prefixes', 'eliciting', 'dialogues'))}")


def _prefixes(source: str, split: str, bad: BadRows) -> list[Prefix]:
    try:
        return load_prefixes(source, split=split, bad=bad)
    except UserError as error:
        raise UserError(f"{error} (if these are not prefixes, say --as eliciting or --as dialogues)") from None


def kind_of(source: str) -> str:
    """What a source most likely holds: of a set that is known or was prepared here its kind, of others prefixes."""
    held = {file.stem for file in prepared_folder(source).glob("*.jsonl")} if is_name(source) else set()
    kind = CATALOG[source].kind if source in CATALOG else next((k for k in (ELICITING, DIALOGUES) if k in held), "")
    return {ELICITING: "eliciting", DIALOGUES: "dialogues"}.get(kind, "prefixes")


def statistics_of(
    source: str, kind: str, *, skip: bool = False
) -> tuple[dict[str, dict[str, float]], list[str], list[BadRows]]:
    """Figures by split where the source has splits, else of the whole; a line for every leak; and the bad rows.

    Args:
        source: As for :func:`~astprompter.data.sources.load_prefixes`.
        kind: ``prefixes``, ``eliciting`` or ``dialogues``.
        skip: Whether to skip rows that cannot be read.

    Raises:
        UserError: An unknown kind, or a source that cannot be read.
    """
    bad = {split: BadRows(skip) for split in SPLITS}
    if kind != "prefixes":
        texts = load_texts_of(source, kind, "train", bad["train"])
        return {kind: statistics(text for _, text in texts)}, [], [bad["train"]]
    parts = {split: _prefixes(source, split, bad[split]) for split in SPLITS}
    if parts["train"] == parts["dev"] == parts["test"]:  # a file of one set
        return {kind: statistics(prefix.text for prefix in parts["train"])}, [], [bad["train"]]
    leaks = [
        f"{len(shared)} prefixes stand in both {a} and {b}"
        for a, b in (("train", "dev"), ("train", "test"), ("dev", "test"))
        if (shared := overlap(parts[a], parts[b]))
    ]
    figures = {name: statistics(prefix.text for prefix in part) for name, part in parts.items()}
    return figures, leaks or ["no prefix stands in more than one split"], list(bad.values())
