"""The `train` section of a recipe: how a PRM and its domain weights are trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from curate.config import Config


class UpperConfig(Config):
    """The upper level: domain weights on the meta loss."""

    loss: Literal["outcome", "pairs"] = "outcome"
    """What the meta set asks for: `outcome`, a rollout's score near its outcome (DreamPRM); `pairs`, of two rollouts of
    a problem the right one's score above the wrong one's, whatever the level of both (see `prm.meta`)."""
    unroll: int = Field(default=5, ge=1)
    """Lower steps between two upper steps."""
    warmup: int = Field(default=100, ge=0)
    """Lower steps before the first upper step; Adam's second moment means little before some 50."""
    lr: float = Field(default=0.01, ge=0)
    """Adam's step on the raw weights; about the change of log weight per update when the signal is steady."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates on the raw weights."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of each domain's hypergradient, taken before Adam; 0 is none."""
    meta_ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of the meta gradient, before its inner products with the domains'
    gradients; 0 is none. Takes noise away that `ema`, which comes after the products, cannot (one copy of the
    parameters in memory)."""
    meta_rows: int = Field(default=16, ge=1)
    """Rollouts of the meta set per upper step; two make a pair."""
    clipped: Literal["correct", "skip", "ignore"] = "correct"
    """When the lower gradient was clipped: `correct` is exact and keeps one gradient per domain in memory during an
    upper step, `skip` leaves that update out and counts it, `ignore` leaves the clip's derivative out (which can turn
    the direction round)."""
    floor: float = Field(default=0.01, ge=0, lt=1)
    """Parameters whose Adam denominator is below this share of their tensor's typical one are treated as if it were
    there, so that a few rarely touched ones do not own the whole inner product."""

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if self.loss == "pairs" and self.meta_rows % 2:
            raise ValueError(f"meta_rows is {self.meta_rows}, and pairs take two each; make it even")
        return self


class TrainConfig(Config):
    """`prm train`: examples to trained PRMs and domain weights per update."""

    model: str
    """Folder of the backbone, or its hub id; a vision-language model with safetensors weights."""
    revision: str | None = None
    """Revision of a hub model."""
    mode: Literal["domain", "uniform", "frozen"] = "domain"
    """`domain` learns the weights, `uniform` keeps them at 1, `frozen` keeps those of `weights`."""
    weights: dict[str, float] = Field(default={})
    """For `frozen`: a weight per domain; they are scaled to mean 1."""
    seeds: int = Field(default=3, ge=1)
    """Runs that differ in their batches and head, so that a weight has an interval."""
    null_runs: int = Field(default=3, ge=0)
    """The same runs with shuffled meta outcomes: where weights end without any signal."""
    steps: int = Field(default=1000, ge=1)
    """Lower updates."""
    rows_per_domain: int = Field(default=2, ge=1)
    """Rollouts of each domain in a batch."""
    instruction: str = "Check each step."
    """First line of the user turn, before the question."""
    head: Literal["label-token", "scalar"] = "label-token"
    """How the linear head starts: as the difference of two rows of the language-model head, so that a model that can
    already judge keeps that, or at random."""
    label_tokens: tuple[str, str] = ("+", "-")
    """Right and wrong, one token each, for `label-token`."""
    loss: Literal["mse", "bce"] = "mse"
    """Loss of a step score against its label."""
    aggregation: str = "mean-log-odds"
    """How step scores become a rollout score, see `prm.aggregate`."""
    max_length: int = Field(default=4096, ge=16)
    """Longer examples are left out and counted; a step is never cut off."""
    freeze_vision: bool = True
    """Leave the vision tower as it is; its output is then computed once per image."""
    lr: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up; cosine ends at a tenth."""
    lr_warmup: int = Field(default=20, ge=0)
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled, on matrices only."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; no clipping when null."""
    upper: UpperConfig = UpperConfig()
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward pass; parameters, moments and the head are always float32."""
    compile: bool = False
    """Compile the language model's layers (`torch.compile`): a minute at the start, fewer and larger kernels after."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    sharding: Literal["none", "full"] = "none"
    """How several processes (`torchrun -m prm train`) hold the model: `none`, each all of it; `full`, each a part of
    every trained parameter, its gradient and moments (FSDP2), for a model that does not fit on one device."""
    micro_rows: int = Field(default=16, ge=1)
    """Rollouts in one forward at most; larger batches are summed over several."""
    cache_megabytes: int = Field(default=1024, ge=1)
    """Memory for what images were turned into (features when the vision tower is frozen, else pixels)."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Lower steps between two checkpoints of a run under way."""

    @model_validator(mode="after")
    def _a_pair_fits(self) -> Self:
        if self.upper.loss == "pairs" and self.micro_rows < 2:
            raise ValueError("micro_rows is 1, and a pair of upper.loss pairs needs 2 rollouts in one forward")
        return self

    @model_validator(mode="after")
    def _frozen_has_weights(self) -> Self:
        if (self.mode == "frozen") != bool(self.weights):
            raise ValueError("weights belong to mode frozen; give both or neither")
        if any(weight < 0 for weight in self.weights.values()) or (self.weights and not sum(self.weights.values())):
            raise ValueError("frozen weights must not be negative, and not all 0")
        return self
