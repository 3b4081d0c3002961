"""The sections of a recipe that `prm score`, `prm select` and `prm report` read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.recipe.parsing import Config
from curate.recipe.source_sections import Role
from prm.aggregations import AggregationName


class ScoreConfig(Config):
    """Says which rollouts `prm score` scores, and with which PRMs."""

    roles: tuple[Role, ...] = ("test",)
    """Examples of these roles are scored."""
    batch_rows: int = Field(default=32, ge=1)
    """Number of rollouts in one forward pass."""
    models: dict[str, str] = Field(default={})
    """Saved PRMs from elsewhere that score as well: a name for the tables, and the folder of a saved PRM (relative to
    the recipe)."""


class SelectConfig(Config):
    """Says how `prm select` picks the best of N rollouts of each test problem."""

    aggregation: AggregationName = "mean-log-odds"
    """How step scores become the score of a rollout: `mean-log-odds`, `sum-log-odds`, `mean`, `min`, `max`, `last` or
    `product`."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of candidates (N). A size above the number of rollouts of a problem is left out."""


class ReportConfig(Config):
    """Sets what `prm report` puts on its page, and what it takes for a verdict."""

    chains: int = Field(default=60, ge=0)
    """Number of rollouts that the page itself holds."""
    browse: int | None = Field(default=None, ge=0)
    """Number of rollouts in the page's browser of chains; 0 leaves it out. `null` means 2,000 in files beside the page,
    and 100,000 with `--serve`."""
    completions: int | None = Field(default=None, ge=0)
    """Number of completions per step that the browser of chains can show. `null` means 2 in files, and 64 with
    `--serve`."""
    least: float = Field(default=1.0, ge=1)
    """Minimum factor between a domain's weight and the weight of a domain without effect (or its inverse) for a
    verdict, in addition to lying outside the null band. 1 asks for the band only."""
    theme: Literal["auto", "light", "dark"] = "auto"
    """Look that the page opens with; `auto` follows the reader's system."""
