"""The part of the `train` section that holds problems out: what is measured on them, and what a run does by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from curate.recipe.parsing import Variant
from curate.recipe.variants import OneOf

# What each metric of held-out chains is best at: +1 the highest value, -1 the lowest.
METRICS = {"brier": -1, "auroc": 1, "first-error-f1": 1, "best-of-n": 1}


class ValidationConfig(Variant):
    """Problems of the train set that are held out, and what becomes of a run by a metric of them.

    See `prm.training.validation`.
    """

    every: int = Field(default=100, ge=1)
    """Lower steps between two evaluations, each a forward of all held-out rollouts; the last step has one, too."""
    share: float = Field(default=0.05, gt=0, lt=1)
    """Share of each domain's training problems; problems that show an image together stay together."""
    metric: Literal["brier", "auroc", "first-error-f1", "best-of-n"]
    keep: Literal["best", "last"] = "best"
    """The state whose PRM is saved; weights are those at the end of the run either way."""
    patience: int | None = Field(default=None, ge=1)
    """End the run when so many evaluations in a row were no better than the best one before; null never does."""


class ScoreValidation(ValidationConfig):
    """By a metric of the scores themselves."""

    metric: Literal["brier", "best-of-n"] = "brier"
    """`brier`, mean squared difference of step score and label, weighted as in training; `best-of-n`, share of problems
    with several graded rollouts whose best-scored one is right. Labels of a bad domain count as any other's."""


class ThresholdValidation(ValidationConfig):
    """By a metric that calls steps right or wrong."""

    metric: Literal["auroc", "first-error-f1"]
    """`auroc`, how often a right step scores above a wrong one; `first-error-f1`, harmonic mean of the shares of wrong
    chains whose first wrong step is found and of right chains where none is, as ProcessBench. Labels of a bad domain
    count as any other's."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A label above it calls its step right, and so does a score."""


AnyValidationConfig = Annotated[ScoreValidation | ThresholdValidation, OneOf("metric", "brier")]
