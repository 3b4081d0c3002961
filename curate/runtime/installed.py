"""What is installed beside this package: entry points and versions, looked up once a process."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any


@cache
def _all() -> Any:
    """Every entry point of every installed package, to select from; reading them takes tens of milliseconds."""
    return importlib.metadata.entry_points()


@cache
def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of a group, of all packages that were installed when the first group was asked for."""
    return tuple(_all().select(group=group))


@cache
def version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
