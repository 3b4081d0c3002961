"""Settings of `prm eval`, given with --set."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from curate.recipe.parsing import Config, apply_settings, validate
from curate.recipe.source_sections import Role

HOLDER = "the settings of `prm eval`"

T = TypeVar("T", bound="BenchConfig")


class BenchConfig(Config):
    """What all figures have: how their intervals are made."""

    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of whole problems that an interval comes from."""
    seed: int = 0
    """Seed of the resamples, and of what else is drawn."""
    batch_rows: int = Field(default=32, ge=1)
    """Chains in one forward."""


class VerdictConfig(BenchConfig):
    """How scores become verdicts on steps."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A step is judged right when its score is above this."""
    tune: Literal["held-out", "gsm8k"] | None = None
    """Where the threshold is chosen instead, by the benchmark's own figure: on a held-out share of the problems, which
    the figures leave out; or, in ProcessBench, on the subset gsm8k as its paper does, whose own figures are then too
    good."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """The share of problems that `tune: held-out` takes."""
    missing: Literal["wrong", "left-out"] = "wrong"
    """What a step without a score (its chain is too long, an image is missing, it has no text) counts as: `wrong`, a
    wrong verdict whatever the truth is; `left-out`, nothing, and its whole chain neither."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.tune is not None and "threshold" in self.model_fields_set:
            raise ValueError(f"threshold does nothing with tune {self.tune}; give one of them")
        if self.tune != "held-out" and "held_out" in self.model_fields_set:
            raise ValueError("held_out does nothing without tune held-out; give both or neither")
        return self


Target = Literal["counts", "outcome", "truth"]


class CalibrationConfig(BenchConfig):
    """What scores are compared with."""

    target: Target | None = None
    """`counts`: k right of m completions of a step's prefix, from step labels; `outcome`: whether the chain itself ends
    right, one completion of each of its prefixes; `truth`: whether all steps so far are right, known of synthetic
    problems only. Null: counts where the examples have them, else outcome."""
    role: Role = "test"
    """Whose examples; the PRM was trained on those of train and meta, and the report says so."""
    bins: int = Field(default=10, ge=2, le=100)
    """Equally wide bins of scores."""


def settings(kind: type[T], given: list[str]) -> T:
    """The settings of these `key=value`; UserError for what is wrong with one."""
    tree: dict[str, Any] = apply_settings({}, given)
    return validate(kind, tree, "eval", HOLDER)
