"""Prefixes, eliciting texts and human dialogues: from files, or embedded in the package.

A source is ``embedded`` or a path; ``path#column`` names the column that holds the text. A new file format is one
entry in :data:`~astprompter.data.readers.FORMATS`; a new kind of text is one loader in
:mod:`~astprompter.data.sources`.
"""

from .cleaning import clean_markup
from .sources import load_dialogues, load_eliciting, load_prefixes, overlap
from .splits import split_by_id

__all__ = ["clean_markup", "load_dialogues", "load_eliciting", "load_prefixes", "overlap", "split_by_id"]
