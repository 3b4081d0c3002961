"""The sections of a recipe that `prm score`, `prm select` and `prm report` read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.recipe.parsing import Config
from curate.recipe.source_sections import Role
from prm.aggregations import AggregationName


class ScoreConfig(Config):
    """`prm score`: step scores of labelled or graded rollouts by the trained PRMs."""

    roles: tuple[Role, ...] = ("test",)
    """Whose examples are scored."""
    batch_rows: int = Field(default=32, ge=1)
    """Rollouts in one forward."""
    models: dict[str, str] = Field(default={})
    """Saved PRMs from elsewhere that score, too: a name for the tables, and a folder as `prm train` saves it (relative
    to the recipe)."""


class SelectConfig(Config):
    """`prm select`: best-of-N on the test set."""

    aggregation: AggregationName = "mean-log-odds"
    """How step scores become one rollout score, see `prm.model.aggregate`."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of candidates; those above what a problem has are left out."""


class ReportConfig(Config):
    """`prm report`: the dataset-quality table."""

    chains: int = Field(default=60, ge=0)
    """Rollouts that the page holds itself."""
    browse: int | None = Field(default=None, ge=0)
    """Rollouts in the page's browser of chains, 0 for none; null: 2,000 in files beside it, 100,000 when served."""
    completions: int | None = Field(default=None, ge=0)
    """Completions of each step that it has on demand; null: 2 in files, 64 when served."""
    least: float = Field(default=1.0, ge=1)
    """A verdict asks for a weight that is at least so many times that of a domain without effect, or at most its
    inverse, besides being clear of chance; 1 asks for no more than that."""
    theme: Literal["auto", "light", "dark"] = "auto"
    """Which look the page opens with; `auto` follows the reader's system."""
