"""What all files of a run have in common: strict numbers, the number of the format, reading and writing.

A model of this package describes a file (or a row, or a part of either) once: it writes it, reads it, checks it, and
its docstrings become ``docs/files.md``. A docstring below a field says unit and shape, and when the field is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from ...base.errors import UserError, one_line
from ...base.files import write_json, write_rows
from ...base.strict_json import first_fault, parse

FORMAT = 4
"""The format of all files; raised when files of before could not be read, or would be misread."""

_LARGEST = 1e300  # sums of a few must not overflow
T = TypeVar("T")
R = TypeVar("R", bound="Part")


def _moderate(value: float) -> float:
    if abs(value) > _LARGEST:
        raise PydanticCustomError("too_large", "Input is too large a number")
    return value


def _is_none(value: object) -> bool:
    return value is None


Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""A whole number that every JSON reader can hold."""
Real = Annotated[float, AfterValidator(_moderate)]
"""A finite number."""
Number = Real | None
"""A finite number, or ``null`` where it is not defined."""
Interval = Annotated[list[Real], Field(min_length=2, max_length=2)] | None
"""Low and high end, or ``null`` where there are none."""
Absent = Annotated[T | None, Field(exclude_if=_is_none)]
"""A field that some files do not have: ``None`` here, and then not written. Give it the default ``None``."""


class Part(BaseModel):
    """A JSON object of a file; what it does not describe cannot be written, and is not looked at when read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )

    @classmethod
    def of(cls, value: object) -> Self:
        """The model of a JSON value.

        Raises:
            ValueError: It does not fit; names the field, in one line.
        """
        try:
            return cls.model_validate(value, strict=True, extra="ignore")
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None

    def plain(self) -> dict[str, Any]:
        """JSON values by the names in the file."""
        return self.model_dump(by_alias=True)


class File(Part):
    """A whole JSON file; it names its format."""

    remedy: ClassVar[str] = "train the run again"
    """What to do with a file of another format."""

    format: Whole = FORMAT
    """The format of this file and of the rows beside it; a file of another format is refused."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            UserError: It cannot be read, is damaged, or has another format; names the file, and the field at fault.
        """
        shown = f"'{one_line(str(path))}'"
        try:
            value = parse(path.read_bytes())
            if isinstance(value, dict) and value.get("format") != FORMAT:
                raise _Other(value.get("format"))
            return cls.of(value)
        except _Other as error:
            raise UserError(
                f"{shown} was written by another version of astprompter ({error}; this one reads format {FORMAT}); "
                f"{cls.remedy}, or use that version"
            ) from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise UserError(f"cannot read {shown}: {error.strerror or error}; {cls.remedy}") from None
            raise UserError(f"cannot read {shown}: {error}; it is damaged") from None

    def write(self, path: Path) -> None:
        """Write the file in one step.

        Raises:
            RunError: It cannot be written.
        """
        write_json(path, self.plain())


def largest_fall(figures: Iterable[tuple[float | None, float | None]]) -> float:
    """The largest relative fall among figures (before, after); one that had no value before has nothing to lose."""
    return max((1 - (after or 0.0) / before for before, after in figures if before), default=0.0)


class _Other(Exception):
    """A file has another format."""

    def __init__(self, found: object) -> None:
        known = isinstance(found, int) and not isinstance(found, bool)
        super().__init__(f"format {found}" if known else "it names no format, as earlier versions did")


def read_rows(path: Path, kind: type[R], *, note: Callable[[str], None] | None = None) -> list[R]:
    """Rows of a JSON-lines file of a run.

    Args:
        path: The file.
        kind: The model of a row.
        note: Told of a torn last line (the file is still being written, or a write broke off), which is left out;
            without it such a line is an error.

    Raises:
        UserError: The file cannot be read, or a line is damaged; names file, line and field.
    """
    shown = f"'{one_line(str(path))}'"
    try:
        *lines, last = path.read_bytes().split(b"\n")  # texts may hold other line separators, such as U+2028
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate([*lines, last] if last else lines, start=1):
        try:
            rows.append(kind.of(parse(line)))
        except ValueError as error:
            if number <= len(lines):
                raise UserError(f"{shown}, line {number}: {error}; it is damaged, or of another version") from None
            if note is None:
                raise UserError(f"{shown}, line {number}: the last line is torn ({error}); remove it") from None
            note(f"note: {shown}, line {number}: the last line is torn and left out (still being written, or cut off)")
    return rows


def save_rows(path: Path, rows: Iterable[Part]) -> None:
    """Write rows as JSON lines, in one step.

    Raises:
        RunError: The file cannot be written.
    """
    write_rows(path, (row.plain() for row in rows))
