"""Rows as a data frame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import UserError


def frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """A pandas ``DataFrame`` with a column for every field; fields of fields get dotted names.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("to_pandas() needs pandas, which is not installed: pip install pandas") from None
    return pandas.json_normalize([dict(row) for row in rows])
