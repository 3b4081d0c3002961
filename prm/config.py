"""The `train` section of a recipe: how a PRM and its domain weights are trained."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from curate.config import Config

# Modes of training that learn weights, of these the ones that learn one for every rollout; and those that train on a
# chosen part of the rollouts.
PER_ROLLOUT = ("instance-table", "instance-net")
LEARNED = ("domain", *PER_ROLLOUT)
SELECTED = ("s1", "car")


class UpperConfig(Config):
    """The upper level: weights of domains or rollouts on the meta loss."""

    loss: Literal["outcome", "pairs"] = "outcome"
    """What the meta set asks for: `outcome`, a rollout's score near its outcome (DreamPRM); `pairs`, of two rollouts of
    a problem the right one's score above the wrong one's, whatever the level of both (see `prm.meta`)."""
    unroll: int = Field(default=5, ge=1)
    """Lower steps between two upper steps."""
    warmup: int = Field(default=100, ge=0)
    """Lower steps before the first upper step; Adam's second moment means little before some 50."""
    lr: float = Field(default=0.01, ge=0)
    """Adam's step on the raw weights, or on the network's parameters in `instance-net`; about the change of log weight
    per update when the signal is steady."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates on the raw weights."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of the hypergradient, taken before Adam; 0 is none."""
    meta_ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of the meta gradient, before its inner products with the domains'
    gradients; 0 is none. Takes noise away that `ema`, which comes after the products, cannot (one copy of the
    parameters in memory)."""
    meta_rows: int = Field(default=16, ge=1)
    """Rollouts of the meta set per upper step; two make a pair."""
    direction: Literal["lagged", "exact"] = "lagged"
    """When the meta gradient is taken, in mode `domain`: `lagged`, before the lower step and in a slightly cheaper
    metric, so that no gradient need be kept for it (cosine with the truth 0.99 and more); `exact`, after it, with one
    gradient per domain kept meanwhile, which is little with `lora` (see `prm.exact`)."""
    clipped: Literal["correct", "skip", "ignore"] = "correct"
    """When the lower gradient was clipped: `correct` is exact, and keeps one gradient per domain in memory during an
    upper step, or, with weights of rollouts, takes another forward and half a backward of the batch; `skip` leaves that
    update out and counts it; `ignore` leaves the clip's derivative out (which can turn the direction round)."""
    floor: float = Field(default=0.01, ge=0, lt=1)
    """Parameters whose Adam denominator is below this share of their tensor's typical one are treated as if it were
    there, so that a few rarely touched ones do not own the whole inner product. `exact` needs none."""

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if self.loss == "pairs" and self.meta_rows % 2:
            raise ValueError(f"meta_rows is {self.meta_rows}, and pairs take two each; make it even")
        return self


class SubsetConfig(Config):
    """The part of the training rollouts that the modes `s1` and `car` choose."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Of the training rollouts that can be used."""
    clusters: int | None = Field(default=None, ge=1)
    """For `car`: groups of like texts of which each keeps its best; null takes the square root of half the rollouts."""


class LoraConfig(Config):
    """Low-rank adapters in the language model, trained with the head in place of the model (see `prm.lora`)."""

    rank: int = Field(default=16, ge=1)
    """Of each adapter's change to its layer's weight."""
    alpha: float = Field(default=32.0, gt=0)
    """An adapter's output counts alpha / rank."""
    targets: Literal["linear", "attention"] = "linear"
    """Which layers get one: all linear ones, or those of attention only."""


class TrainConfig(Config):
    """`prm train`: examples to trained PRMs and weights per update."""

    model: str
    """Folder of the backbone, or its hub id; a vision-language model with safetensors weights."""
    revision: str | None = None
    """Revision of a hub model."""
    mode: Literal["domain", "instance-table", "instance-net", "uniform", "frozen", "s1", "car"] = "domain"
    """`domain` learns a weight for each domain (DreamPRM), `instance-table` one for each rollout, `instance-net` a
    small network from a rollout's loss and score to its weight (DreamPRM-1.5; see `prm.instances`). `uniform` keeps
    them at 1, `frozen` keeps those of `weights`. `s1` and `car` choose a part of the rollouts by rules and train on it
    with weights of 1 (see `prm.subset`)."""
    weights: dict[str, float] = Field(default={})
    """For `frozen`: a weight per domain; they are scaled to mean 1."""
    subset: SubsetConfig = SubsetConfig()
    """For `s1` and `car`."""
    seeds: int = Field(default=3, ge=1)
    """Runs that differ in their batches and head, so that a weight has an interval."""
    null_runs: int = Field(default=3, ge=0)
    """The same runs with shuffled meta outcomes, where weights are learned: where they end without any signal."""
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
    lora: LoraConfig | None = None
    """Train adapters and the head, with all else frozen; null trains the whole model. What is saved is the whole model
    in either case, adapters merged into it. A learning rate of some 1e-4 is usual."""
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
    """Of the forward and backward pass; what is trained, its moments and the head are always float32. With `lora` and
    bfloat16 the frozen matrices are kept in bfloat16, too."""
    checkpointing: bool = False
    """Keep only the input of each layer for the backward pass and compute the rest again there: far less memory, about
    a third more time, the same gradients."""
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

    @property
    def learns(self) -> bool:
        """Whether weights are learned in this mode."""
        return self.mode in LEARNED

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        what = f"mode {self.mode} learns no weights"
        given = sorted(self.upper.model_fields_set)
        if not self.learns and given:
            raise ValueError(f"{what}, so upper.{given[0]} does nothing; leave `upper` out, or set it to {{}}")
        if not self.learns and "null_runs" in self.model_fields_set and self.null_runs:
            raise ValueError(f"{what}, so null_runs does nothing; leave it out, or set it to 0")
        chosen = sorted(self.subset.model_fields_set)
        if self.mode not in SELECTED and chosen:
            raise ValueError(f"subset.{chosen[0]} does nothing in mode {self.mode}; it is for {' and '.join(SELECTED)}")
        if self.mode == "s1" and "clusters" in chosen and self.subset.clusters is not None:
            raise ValueError("subset.clusters does nothing in mode s1; it is for car")
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.mode in PER_ROLLOUT and self.upper.direction == "exact":
            raise ValueError(f"upper.direction exact is for mode domain, and mode is {self.mode}; leave it lagged")
        if self.lora is not None and not self.freeze_vision:
            raise ValueError("lora leaves all but its adapters and the head frozen; leave freeze_vision true")
        if self.lora is not None and self.sharding == "full":
            raise ValueError("sharding full splits what is trained, which is little with lora; leave it none")
        return self

    @model_serializer(mode="wrap")
    def _only_what_has_an_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a resolved recipe can be read again, and a run does not change with what it does not use."""
        dumped: dict[str, Any] = handler(self)
        used = {"upper": self.learns, "null_runs": self.learns, "subset": self.mode in SELECTED}
        return {name: value for name, value in dumped.items() if used.get(name, True)}

    @model_validator(mode="after")
    def _frozen_has_weights(self) -> Self:
        if (self.mode == "frozen") != bool(self.weights):
            raise ValueError("weights belong to mode frozen; give both or neither")
        if any(weight < 0 for weight in self.weights.values()) or (self.weights and not sum(self.weights.values())):
            raise ValueError("frozen weights must not be negative, and not all 0")
        return self
