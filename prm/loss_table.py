"""The losses of both levels by name; `prm.losses` and `prm.data.meta` have those of this project.

A package adds its own in the entry point groups `prm.step_losses`, a function (logits, labels) -> losses of steps as
those of `prm.losses`, and `prm.upper_losses`, an `prm.data.meta.UpperLoss`. Importing this table is cheap, so that a
recipe is checked before anything is done.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from curate.runtime.registry import Registry

STEP_LOSSES: Registry[Any] = Registry(
    "prm.step_losses", "loss of steps", {"mse": "prm.losses:mse", "bce": "prm.losses:bce"}
)

UPPER_LOSSES: Registry[Any] = Registry(
    "prm.upper_losses",
    "upper loss",
    {"outcome": "prm.data.meta:OUTCOME", "pairs": "prm.data.meta:PAIRS", "auroc": "prm.data.meta:AUROC"},
    of="prm.data.meta:UpperLoss",
)

StepLossName = Annotated[str, AfterValidator(STEP_LOSSES.checked)]
"""A name of `STEP_LOSSES`, checked when a recipe is read."""
UpperLossName = Annotated[str, AfterValidator(UPPER_LOSSES.checked)]
"""A name of `UPPER_LOSSES`, checked when a recipe is read."""
