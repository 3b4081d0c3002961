"""The names of the ways to make one rollout score out of step scores, for recipes; `prm.model.aggregate` has the ways.

Importing it is cheap, so that a recipe is checked before anything is done.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from curate.errors import did_you_mean

# In step scores s, for people.
FORMULAS = {
    "mean-log-odds": "sigmoid(mean(log(s / (1 - s))))",
    "sum-log-odds": "sigmoid(sum(log(s / (1 - s))))",
    "mean": "mean(s)",
    "min": "min(s)",
    "max": "max(s)",
    "last": "s of the last step",
    "product": "product(s)",
}


def _known(name: str) -> str:
    if name not in FORMULAS:
        raise ValueError(f'there is no aggregation "{name}"{did_you_mean(name, list(FORMULAS))}')
    return name


AggregationName = Annotated[str, AfterValidator(_known)]
"""A name of `FORMULAS`, checked when a recipe is read."""
