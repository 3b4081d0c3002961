"""What is installed beside this package: entry points and versions, looked up once a process."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of a group, of all installed packages; reading them takes tens of milliseconds."""
    return tuple(importlib.metadata.entry_points(group=group))


@cache
def version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
