"""Messy multimodal reasoning data into step labels: every command of `curate` as a function.

`curate.api` documents them. They are imported when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.api import (
        Workspace,
        decontaminate,
        dedup,
        ingest,
        judge,
        label,
        load,
        relabel,
        rollout,
        run,
        shard,
        upgrade,
    )

__all__ = [
    "Workspace",
    "decontaminate",
    "dedup",
    "ingest",
    "judge",
    "label",
    "load",
    "relabel",
    "rollout",
    "run",
    "shard",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from curate import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
