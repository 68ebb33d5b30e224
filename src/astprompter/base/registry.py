"""Names to factories: the package's own table, and what other packages add by entry points.

A plug-in is an installed package that declares an entry point in one of the groups ``astprompter.scorers``,
``astprompter.defenders`` or ``astprompter.data`` (``examples/astprompter-banana``). It is imported when its name is
asked for and not before, so a broken one disturbs nobody who does not use it.
"""

from __future__ import annotations

from importlib import metadata
from typing import Generic, TypeVar

from .errors import UserError, nearest, words_of

Factory = TypeVar("Factory")


class Registry(Generic[Factory]):
    """One table of names.

    Attributes:
        what: What a name stands for, for messages.
        group: Entry-point group of the plug-ins.
        builtin: The package's own factories, by name.
    """

    def __init__(self, what: str, group: str, builtin: dict[str, Factory]) -> None:
        self.what, self.group, self.builtin = what, group, builtin

    def __contains__(self, name: str) -> bool:
        """Whether there is such a name; imports nothing."""
        return name in self.builtin or bool(metadata.entry_points(group=self.group, name=name))

    def names(self) -> list[str]:
        """All names in order, plug-ins included; imports nothing."""
        return sorted({*self.builtin, *(point.name for point in metadata.entry_points(group=self.group))})

    def plugins(self) -> dict[str, str]:
        """Packages that add names: name -> package."""
        return {point.name: _package(point) for point in metadata.entry_points(group=self.group)}

    def get(self, name: str) -> Factory:
        """The factory of a name; a plug-in is imported here.

        Raises:
            UserError: There is no such name; or two packages claim it; or the plug-in cannot be imported.
        """
        points = list(metadata.entry_points(group=self.group, name=name))
        packages = sorted({_package(point) for point in points})
        if points and name in self.builtin:
            raise UserError(
                f"package '{packages[0]}' adds a {self.what} '{name}', which astprompter has itself; "
                "uninstall it, or rename its entry point"
            )
        if len({(point.value, _package(point)) for point in points}) > 1:
            claim = " and ".join(f"'{package}'" for package in packages)
            raise UserError(f"{self.what} '{name}' is added more than once, by {claim}; uninstall one of them")
        if name in self.builtin:
            return self.builtin[name]
        if not points:
            raise UserError(f"unknown {self.what} '{name}'.{nearest(name, self.names())}")
        (point, *_), who = points, f"{self.what} '{name}' of package '{packages[0]}'"
        try:
            factory: Factory = point.load()
        except Exception as error:  # whatever a plug-in raises at import
            reason = words_of(error, kind=True)
            raise UserError(f"{who} cannot be imported ('{point.value}': {reason}); repair or uninstall it") from error
        if not callable(factory):
            raise UserError(f"{who} is not callable ('{point.value}'); an entry point must name a function or class")
        return factory


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
