"""Prefixes, eliciting texts and human dialogues: from files, or embedded in the package.

A source is ``embedded`` or a path; ``path#column`` names the column that holds the text. File formats and named
sources are listed in :mod:`~astprompter.data.files`, and nowhere else.
"""

from .cleaning import clean_markup
from .readers import BadRows
from .sources import Dialogue, Eliciting, load_benign, load_dialogues, load_eliciting, load_prefixes, read_eliciting
from .splits import overlap, split_by_id

__all__ = [
    "BadRows",
    "Dialogue",
    "Eliciting",
    "clean_markup",
    "load_benign",
    "load_dialogues",
    "load_eliciting",
    "load_prefixes",
    "overlap",
    "read_eliciting",
    "split_by_id",
]
