"""What a recipe or a command chooses by name: graders, losses, engines, stages and the like, each kind in one table.

An installed package adds an entry with an entry point in the table's group: its name is what is chosen, its value is
where the entry is, `module:attribute`. Entries of this project go first, so that no package can change what they mean.
A name is checked without importing what it stands for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from curate.errors import UserError, did_you_mean
from curate.runtime import installed

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind by name: this project's own, and those of installed packages in the entry point group.

    `what` is the kind in words, for sentences. `own` maps a name to an entry, or to where one is (`module:attribute`),
    which is then imported when it is first asked for. `of` is where the class is that every entry is an instance of;
    without one, an entry is a class or function, or else whatever can be called.
    """

    def __init__(self, group: str, what: str, own: Mapping[str, str | T], of: str = "") -> None:
        self.group, self.what, self.own, self._of = group, what, dict(own), of

    def installed(self) -> list[str]:
        """Names that only installed packages bring, sorted."""
        return sorted({point.name for point in installed.entry_points(self.group)} - self.own.keys())

    def names(self) -> list[str]:
        """All names: those of this project in the order of the table, then those of installed packages, sorted."""
        return [*self.own, *self.installed()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.own or name in self.installed())

    def checked(self, name: str) -> str:
        """The name itself; ValueError with the nearest known one where there is none. For fields of a recipe."""
        if name not in self:
            raise ValueError(f'there is no {self.what} "{name}"{did_you_mean(name, self.names())}')
        return name

    def find(self, name: str) -> T:
        """The entry of this name; UserError where there is none, or where the package that brings it is broken."""
        if name in self.own:
            return self._own(self.own[name])
        points = [point for point in installed.entry_points(self.group) if point.name == name]
        if not points:
            raise UserError(f'There is no {self.what} "{name}"{did_you_mean(name, self.names())}')
        if len({point.value for point in points}) > 1:
            both = " and ".join(sorted(_package(point) for point in points))
            raise UserError(f'The packages {both} both bring the {self.what} "{name}"; uninstall one of them.')
        return self._loaded(points[0])

    def _own(self, entry: str | T) -> T:
        found: T = _at(entry) if isinstance(entry, str) else entry
        return found

    def _loaded(self, point: EntryPoint) -> T:
        """What the entry point of an installed package stands for, checked."""
        try:
            found: T = point.load()
        except Exception as error:
            why = f"which cannot be loaded from {point.value} ({type(error).__name__}: {error})"
            raise self._broken(point, why) from error
        if not (isinstance(found, _at(self._of)) if self._of else callable(found)):
            wanted = f"a {self._of.replace(':', '.')}" if self._of else "a class or a function"
            raise self._broken(point, f"and {point.value} is not {wanted}")
        if self._of and (called := getattr(found, "name", point.name)) != point.name:
            raise self._broken(point, f'which calls itself "{called}"')
        return found

    def _broken(self, point: EntryPoint, why: str) -> UserError:
        brings = f'The package {_package(point)} brings the {self.what} "{point.name}"'
        return UserError(f"{brings}, {why}; repair the package, or uninstall it.")


def _at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _package(point: EntryPoint) -> str:
    """The name of the package that an entry point is of."""
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]
