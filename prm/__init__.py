"""Process reward models: training with learned domain weights, scoring, selection, report.

`prm.api` documents the functions. They are imported when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm.api import Response, RewardModel, evaluate, load, report, score, select, train

__all__ = ["Response", "RewardModel", "evaluate", "load", "report", "score", "select", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prm import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
