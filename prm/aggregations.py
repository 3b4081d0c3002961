"""The ways to make one rollout score out of step scores, by name; `prm.model.aggregate` has those of this project.

A package adds one of its own with an entry point in the group `prm.aggregations` whose value is an
`prm.model.aggregate.Aggregation`. Importing this table is cheap, so that a recipe is checked before anything is done.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from curate.runtime.registry import Registry

AGGREGATIONS: Registry[Any] = Registry(
    "prm.aggregations",
    "aggregation",
    {
        "mean-log-odds": "prm.model.aggregate:MEAN_LOG_ODDS",
        "sum-log-odds": "prm.model.aggregate:SUM_LOG_ODDS",
        "mean": "prm.model.aggregate:MEAN",
        "min": "prm.model.aggregate:MIN",
        "max": "prm.model.aggregate:MAX",
        "last": "prm.model.aggregate:LAST",
        "product": "prm.model.aggregate:PRODUCT",
    },
    of="prm.model.aggregate:Aggregation",
)

AggregationName = Annotated[str, AfterValidator(AGGREGATIONS.checked)]
"""A name of `AGGREGATIONS`, checked when a recipe is read."""
