"""Settings of `prm eval`, given with --set."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import Field

from curate.recipe.parsing import Config, Variant, apply_settings, validate
from curate.recipe.source_sections import Role
from curate.recipe.variants import OneOf

HOLDER = "the settings of `prm eval`"

T = TypeVar("T", bound="BenchConfig")


class BenchConfig(Config):
    """Sets how intervals are made, for every figure of `prm eval`."""

    resamples: int = Field(default=2000, ge=100)
    """Number of bootstrap resamples (of whole problems) per interval."""
    seed: int = 0
    """Seed of the resamples, and of everything else that is random."""
    batch_rows: int = Field(default=32, ge=1)
    """Number of chains in one forward pass."""


class VerdictConfig(BenchConfig, Variant):
    """Says how step scores become verdicts on steps."""

    tune: Literal["held-out", "gsm8k"] | None
    """Chooses the threshold by the benchmark's own figure. `held-out`: on a held-out share of the problems, which the
    figures leave out. `gsm8k` (ProcessBench only): on the subset gsm8k as in its paper; the figures of that subset are
    then too good. `null` keeps `threshold`."""
    missing: Literal["wrong", "left-out"] = "wrong"
    """How a step without a score counts (its chain is too long, an image is missing, or it has no text): `wrong`, as a
    wrong verdict whatever the truth is; or `left-out`, not at all, and neither does the rest of its chain."""


class FixedThreshold(VerdictConfig):
    """Uses a given threshold."""

    tune: Literal[None] = None
    """The given `threshold` is used."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A step is judged right when its score is above this."""


class HeldOutThreshold(VerdictConfig):
    """Chooses the threshold on a part of the problems."""

    tune: Literal["held-out"] = "held-out"
    """The threshold is chosen on a held-out share of the problems, by the benchmark's own figure; the figures leave
    these problems out."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the problems that the threshold is chosen on."""


class SubsetThreshold(VerdictConfig):
    """Chooses the threshold on one subset of ProcessBench, as its paper does."""

    tune: Literal["gsm8k"] = "gsm8k"
    """The threshold is chosen on the subset gsm8k of ProcessBench, by the benchmark's own figure; the figures of that
    subset are then too good."""


AnyVerdictConfig = Annotated[FixedThreshold | HeldOutThreshold | SubsetThreshold, OneOf("tune", None)]

Target = Literal["counts", "outcome", "truth"]


class CalibrationConfig(BenchConfig):
    """Says what step scores are compared with."""

    target: Target | None = None
    """`counts`: k right of m completions of a step's prefix, from step labels. `outcome`: whether the chain itself ends
    right, as one completion of each of its prefixes. `truth`: whether all steps so far are right, which is known for
    synthetic problems only. `null` takes counts where the examples have them, otherwise outcomes."""
    role: Role = "test"
    """Examples of this role are scored. The PRM was trained on those of `train` and `meta`, and the report says so."""
    bins: int = Field(default=10, ge=2, le=100)
    """Number of equally wide bins of scores."""


@overload
def settings(kind: type[T], given: list[str]) -> T: ...
@overload
def settings(kind: Any, given: list[str]) -> Any: ...
def settings(kind: Any, given: list[str]) -> Any:
    """Read `key=value` as settings of this kind; UserError for what is wrong with one."""
    tree: dict[str, Any] = apply_settings({}, given)
    return validate(kind, tree, "eval", HOLDER)
