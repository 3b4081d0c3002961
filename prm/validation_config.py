"""The part of the `train` section that holds problems out: what is measured on them, and what a run does by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from curate.recipe.parsing import Variant
from curate.recipe.variants import OneOf

# What each metric of held-out chains is best at: +1 the highest value, -1 the lowest.
METRICS = {"brier": -1, "auroc": 1, "first-error-f1": 1, "best-of-n": 1}


class ValidationConfig(Variant):
    """Holds out problems of the training set, and says what a metric on them decides about a run."""

    every: int = Field(default=100, ge=1)
    """Number of lower steps between two evaluations. Each one is a forward pass over all held-out rollouts; there is
    always one after the last step."""
    share: float = Field(default=0.05, gt=0, lt=1)
    """Share of each domain's training problems that is held out. Problems that share an image stay together."""
    metric: Literal["brier", "auroc", "first-error-f1", "best-of-n"]
    keep: Literal["best", "last"] = "best"
    """Which state is saved as the PRM. The reported weights are those at the end of the run in either case."""
    patience: int | None = Field(default=None, ge=1)
    """End the run when this many evaluations in a row are no better than the best one before them; `null` never ends it
    early."""


class ScoreValidation(ValidationConfig):
    """Uses a metric of the scores themselves."""

    metric: Literal["brier", "best-of-n"] = "brier"
    """`brier`: mean squared difference of step score and label, weighted as in training. `best-of-n`: share of problems
    whose best-scored rollout is right. Labels of a bad domain count like those of any other."""


class ThresholdValidation(ValidationConfig):
    """Uses a metric that calls steps right or wrong."""

    metric: Literal["auroc", "first-error-f1"]
    """`auroc`: how often a right step scores above a wrong one. `first-error-f1` (as ProcessBench): harmonic mean of
    the share of wrong chains whose first wrong step is found and the share of right chains in which none is found."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A label above this counts its step as right, and a score above this predicts it."""


AnyValidationConfig = Annotated[ScoreValidation | ThresholdValidation, OneOf("metric", "brier")]
