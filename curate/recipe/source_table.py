"""The sources by name: the kinds of this project, and the adapters that installed packages add.

A package adds one of its own with an entry point in the group `curate.sources` whose value is a class that is made like
the ones here, `Class(config, base)`, with `rows()` (see `curate.sources.base.Source`); recipes name it as the `adapter`
of a source of kind `package`.
"""

from __future__ import annotations

from typing import Any

from curate.errors import did_you_mean
from curate.runtime.registry import Registry

SOURCES: Registry[Any] = Registry(
    "curate.sources",
    "source adapter",
    {
        "synthetic": "curate.sources.synthetic:Synthetic",
        "files": "curate.sources.files:FileReader",
        "hub": "curate.sources.hub:HubReader",
        "dreamprm": "curate.sources.dreamprm:DreamPrmReader",
    },
)

# The tasks of `curate.sources.synthetic.tasks`.
TASKS = (
    "bars_read", "bars_difference", "bars_sum", "dial_read", "dots_count", "dots_more", "grid_distance",
    "rectangle_area", "rectangle_perimeter", "table_lookup", "table_largest", "needles",
)  # fmt: skip


def task(name: str) -> str:
    """The name of a synthetic task itself; ValueError where there is none. For the field of a recipe."""
    if name not in TASKS:
        raise ValueError(f'there is no task "{name}"{did_you_mean(name, TASKS)}')
    return name


def adapter(name: str) -> str:
    """The name of an adapter itself; ValueError where no installed package brings it. For the field of a recipe."""
    if name in SOURCES.own:
        raise ValueError(f"{name} is a kind of source and no adapter of a package; write kind: {name}")
    if name not in SOURCES and not SOURCES.installed():
        raise ValueError(f'there is no source adapter "{name}"; no installed package brings one')
    return SOURCES.checked(name)
