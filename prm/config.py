"""The `train` section of a recipe: how a PRM and its domain weights are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from curate.recipe.parsing import Config, Variant
from curate.recipe.variants import OneOf, values
from prm.aggregations import AggregationName
from prm.loss_table import UPPER_LOSSES, StepLossName, UpperLossName
from prm.validation_config import AnyValidationConfig


class UpperConfig(Variant):
    """Sets the upper level of training: how the weights of domains or rollouts are learned from the meta set."""

    usual_rate: ClassVar[float]

    loss: UpperLossName = "outcome"
    """What the meta set asks for. `outcome` (DreamPRM): the score of a rollout is close to its outcome. `pairs`: of two
    rollouts of one problem, the right one scores above the wrong one; shifting both scores changes nothing. `auroc`:
    the right one of two rollouts of any problems scores above the wrong one, so that differences between problems and
    domains count as well."""
    unroll: int = Field(default=5, ge=1)
    """Number of lower steps per upper step."""
    warmup: int = Field(default=100, ge=0)
    """Number of lower steps before the first upper step. Adam's second moment is of little use during the first 50 or
    so."""
    rule: Literal["adam", "mirror"]
    """How domain weights follow the hypergradient. `adam` (DreamPRM) applies Adam to the raw weights, which moves all
    domains at about the same pace. `mirror` moves weights multiplicatively and in proportion to the hypergradient."""
    lr: float | None = Field(default=None, ge=0)
    """Learning rate of the weights. With `adam` (0.01 when `null`) it is the step on the raw weights, or on the
    parameters of the network in `instance-net`: about the change of the log weight per update when the signal is
    steady. With `mirror` (50 when `null`) it is the log weight that a domain gains for each unit of meta loss that its
    gradient removes."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of the hypergradient, taken before Adam; 0 takes none."""
    meta_ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a bias-corrected moving average of the meta gradient, taken before its inner products with the domains'
    gradients; 0 takes none. It removes noise that `ema`, which averages after the products, cannot remove, and needs
    one copy of the parameters in memory."""
    meta_rows: int = Field(default=16, ge=1)
    """Number of meta rollouts per upper step; two make one pair."""
    direction: Literal["lagged", "exact"] = "lagged"
    """When the meta gradient is taken, in mode `domain`. `lagged` takes it before the lower step, in a slightly cheaper
    metric, so that no gradient has to be kept (its cosine with the exact direction is 0.99 or more). `exact` takes it
    after the lower step and keeps one gradient per domain until then, which is little memory with `lora`."""
    clipped: Literal["correct", "skip", "ignore"] = "correct"
    """What happens when the lower gradient was clipped. `correct` is exact; it keeps one gradient per domain in memory
    during an upper step or, with weights of rollouts, runs another forward and half a backward pass. `skip` leaves that
    update out and counts it. `ignore` leaves out the derivative of the clipping, which can reverse the direction."""
    floor: float = Field(default=0.01, ge=0, lt=1)
    """Parameters whose Adam denominator is below this share of the typical one of their tensor are treated as if theirs
    were that large, so that a few parameters that are rarely updated do not dominate the inner product. `direction:
    exact` does not need it."""

    @property
    def rate(self) -> float:
        """`lr`, or the rule's own when that is null."""
        return self.lr if self.lr is not None else self.usual_rate

    @property
    def rollouts(self) -> int:
        """How many rollouts a term of the meta loss is about."""
        found: int = UPPER_LOSSES.find(self.loss).rollouts
        return found

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        each = self.rollouts
        if self.meta_rows % each:
            cure = "make it even" if each == 2 else f"make it a multiple of {each}"
            raise ValueError(f"meta_rows is {self.meta_rows}, and {self.loss} takes {each} each time; {cure}")
        return self


class AdamUpper(UpperConfig):
    """Applies Adam to the raw weights (DreamPRM), which moves all domains at about the same pace."""

    usual_rate: ClassVar[float] = 0.01

    rule: Literal["adam"] = "adam"
    """(DreamPRM) Adam on the raw weights, which moves all domains at about the same pace."""
    lr: float | None = Field(default=None, ge=0)
    """Step of Adam on the raw weights, or on the parameters of the network in mode `instance-net`; 0.01 when `null`. It
    is about the change of the log weight per update when the signal is steady."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam on the raw weights."""


class MirrorUpper(UpperConfig):
    """Multiplies weights in proportion to the hypergradient."""

    usual_rate: ClassVar[float] = 50.0

    rule: Literal["mirror"] = "mirror"
    """A multiplicative rule, in proportion to the hypergradient."""
    lr: float | None = Field(default=None, ge=0)
    """Log weight that a domain gains for each unit of meta loss that its gradient removes; 50 when `null`."""


AnyUpperConfig = Annotated[AdamUpper | MirrorUpper, OneOf("rule", "adam")]


class RolloutUpper(AdamUpper):
    """Learns weights of rollouts by Adam."""

    direction: Literal["lagged"] = "lagged"
    """When the meta gradient is taken: before the lower step, in a slightly cheaper metric, so that no gradient has to
    be kept (its cosine with the exact direction is 0.99 or more)."""


class SubsetConfig(Variant):
    """Sets which part of the training rollouts the mode `s1` selects."""

    stored: ClassVar[Mapping[str, Any]] = {"clusters": None}

    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the usable training rollouts that is selected."""


class ClusterSubset(SubsetConfig):
    """Sets which part of the training rollouts the mode `car` selects."""

    clusters: int | None = Field(default=None, ge=1)
    """Number of clusters of similar texts, each of which keeps its best rollout; `null` takes the square root of half
    the number of rollouts."""


class LoraConfig(Config):
    """Adds low-rank adapters to the language model, which are trained with the head in place of the whole model."""

    rank: int = Field(default=16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """The output of an adapter is multiplied by `alpha / rank`."""
    targets: Literal["linear", "attention"] = "linear"
    """Which layers get adapters: all linear layers, or those of attention only."""


class TrainConfig(Variant):
    """Says how `prm train` trains PRMs on the examples and learns the weights of domains or rollouts."""

    stored: ClassVar[Mapping[str, Any]] = {"weights": {}}
    silent: ClassVar[Mapping[str, Any]] = {"upper": {}, "null_runs": 0, "subset": {}}

    model: str
    """Folder of the backbone, or its id on the hub: a vision-language model, or a text-only causal language model for
    data without images. It needs safetensors weights and a chat template."""
    revision: str | None = None
    """Revision (branch, tag or commit) of a model on the hub."""
    mode: Literal["domain", "instance-table", "instance-net", "uniform", "frozen", "s1", "car"]
    """What is weighted. `domain` learns one weight per domain (DreamPRM). `instance-table` learns one weight per
    rollout, `instance-net` a small network from the loss and score of a rollout to its weight (DreamPRM-1.5). `uniform`
    keeps all weights at 1, `frozen` keeps those of `weights`. `s1` and `car` select a part of the rollouts by rules and
    train on it with weights of 1."""
    seeds: int = Field(default=3, ge=1)
    """Number of runs with different batches and heads, from which every weight gets its interval."""
    steps: int = Field(default=1000, ge=1)
    """Number of lower updates per run."""
    rows_per_domain: int = Field(default=2, ge=1)
    """Number of rollouts of each domain per batch."""
    instruction: str = "Check each step."
    """First line of the user turn, before the question."""
    target: Literal["steps", "outcome"] = "steps"
    """What is learned: `steps`, the label of every step; or `outcome`, whether the rollout is right, at its last step
    only (an outcome reward model, ORM, to compare with)."""
    read: Literal["step-end", "branch"] = "step-end"
    """Where the score of a step is read: `step-end`, at the last token of the step; or `branch`, at the end of a suffix
    that follows the step and that later steps cannot see. `branch` equals a model that reads each prefix and suffix
    alone; it needs one suffix per step and a special attention mask, which is slower and which some models do not
    support."""
    suffix: str | None = Field(default=None, min_length=1)
    """Only for `branch`: the text that follows each step; `null` takes what the chat template writes to end the
    assistant's turn and open the next one."""
    head: Literal["label-token", "scalar"] = "label-token"
    """How the linear head starts: `label-token`, as the difference of two rows of the language-model head, so that a
    model that can already judge steps keeps this ability; or `scalar`, at random."""
    label_tokens: tuple[str, str] = ("+", "-")
    """Only for `label-token`: the words for right and wrong, each a single token of the model."""
    loss: StepLossName = "mse"
    """Loss of a step score against its label: mean squared error or binary cross-entropy."""
    aggregation: AggregationName = "mean-log-odds"
    """How step scores become the score of a rollout: `mean-log-odds`, `sum-log-odds`, `mean`, `min`, `max`, `last` or
    `product`."""
    max_length: int = Field(default=4096, ge=16)
    """Maximum length of an example in tokens, images and suffixes included. Longer examples are left out and counted;
    nothing is cut off."""
    freeze_vision: bool = True
    """Keep the vision tower and its projector frozen; image features are then computed once per image."""
    lora: LoraConfig | None = None
    """Train adapters and the head, with everything else frozen; `null` trains the whole model. The saved PRM is a whole
    model in either case, with adapters merged. A learning rate of about 1e-4 is usual."""
    lr: float = Field(default=1e-5, gt=0)
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Learning rate over the steps, multiplied by the warm-up. `cosine` and `linear` fall to a tenth of it, not to 0,
    where nothing would be left for domain weights to act on."""
    lr_warmup: int = Field(default=20, ge=0)
    """Number of steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon, which is added to the denominator."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay; applied to matrices only."""
    clip: float | None = Field(default=1.0, gt=0)
    """Maximum norm of the whole gradient; `null` does not clip."""
    validation: AnyValidationConfig | None = None
    """Evaluate on held-out problems, keep the best state and end early; `null` trains on all problems and keeps the
    last state."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward pass. Trained parameters, their moments and the head are always float32.
    With `lora` and bfloat16 the frozen matrices are stored in bfloat16."""
    checkpointing: bool = False
    """Keep only the input of each layer for the backward pass and compute the rest again: much less memory, about a
    third more time, the same gradients."""
    compile: bool = False
    """Compile the layers of the language model with `torch.compile`: a minute at the start, faster steps afterwards."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    sharding: Literal["none", "full"] = "none"
    """How several processes (`torchrun -m prm train`) hold the model: `none`, each holds all of it; `full`, each holds
    a part of every trained parameter, its gradient and its moments (FSDP2), for a model that does not fit on one
    device."""
    parallel: int | None = Field(default=None, ge=1)
    """Number of runs that are trained side by side, each in a process of its own. `null` means one per GPU, and on a
    CPU one after the other. On a CPU, two processes with one thread each do more than one process with two."""
    micro_rows: int = Field(default=16, ge=1)
    """Maximum number of rollouts in one forward pass; gradients of larger batches are summed over several passes."""
    cache_megabytes: int = Field(default=1024, ge=1)
    """Memory for processed images, in megabytes: their features when the vision tower is frozen, otherwise their
    pixels."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Number of lower steps between two checkpoints of a run."""
    tensorboard: bool = False
    """Write curves of each run to `tensorboard/` in the workspace; needs the extra `tensorboard`."""

    @model_validator(mode="after")
    def _a_suffix_is_read(self) -> Self:
        if self.read == "step-end" and self.suffix is not None:
            raise ValueError("suffix has no effect with read step-end: it belongs to read branch; leave it out")
        return self

    @model_validator(mode="after")
    def _patience_can_run_out(self) -> Self:
        if self.validation is None or self.validation.patience is None:
            return self
        evaluations = -(-self.steps // self.validation.every)
        # The first is always the best so far, and after the last the run is over anyway.
        if self.validation.patience + 1 >= evaluations:
            raise ValueError(
                f"validation.patience {self.validation.patience} has no effect in {evaluations} evaluation(s) "
                f"({self.steps} steps, every {self.validation.every}); lower validation.every or patience"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _an_outcome_is_read_at_the_last_step(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("target") == "outcome":
            if given.get("aggregation", "last") != "last":
                raise ValueError(
                    "target outcome scores the last step alone, so aggregation has no effect; leave it out"
                )
            return given | {"aggregation": "last"}
        return given

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.lora is not None and not self.freeze_vision:
            raise ValueError("lora leaves all but its adapters and the head frozen; leave freeze_vision true")
        if self.lora is not None and self.sharding == "full":
            raise ValueError("sharding full splits what is trained, which is little with lora; leave it none")
        return self

    @model_serializer(mode="wrap")
    def _only_what_has_an_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a resolved recipe can be read again, and a run does not change with what it does not use."""
        dumped: dict[str, Any] = {**self.stored, **handler(self)}
        # What was trained before there was a choice was read at step ends, and stays as it is.
        used = dict.fromkeys(("read", "suffix"), self.read == "branch") | {"target": self.target != "steps"}
        used["validation"] = self.validation is not None
        return {name: value for name, value in dumped.items() if used.get(name, True)}


class LearnedTraining(TrainConfig):
    """Base of the modes that learn weights."""

    upper: AnyUpperConfig = AdamUpper()
    """The upper level: how weights are learned from the meta set."""
    null_runs: int = Field(default=3, ge=0)
    """Number of further runs with shuffled meta outcomes. They show where learned weights end up without any signal."""

    @model_validator(mode="after")
    def _an_item_fits(self) -> Self:
        each, rows = self.upper.rollouts, self.micro_rows
        if rows < each:
            raise ValueError(
                f"micro_rows is {rows}, and upper.loss {self.upper.loss} needs {each} rollouts in one forward"
            )
        return self


class DomainTraining(LearnedTraining):
    """Learns one weight per domain (DreamPRM)."""

    mode: Literal["domain"] = "domain"
    """Learns one weight per domain (DreamPRM)."""


class RolloutTraining(LearnedTraining):
    """Learns one weight per rollout."""

    mode: Literal["instance-table", "instance-net"]
    """`instance-table` learns one weight per rollout, `instance-net` a small network from the loss and score of a
    rollout to its weight (DreamPRM-1.5)."""
    upper: RolloutUpper = RolloutUpper()
    """The upper level: how weights are learned from the meta set."""


class UniformTraining(TrainConfig):
    """Keeps all weights at 1."""

    mode: Literal["uniform"] = "uniform"
    """Keeps all weights at 1."""


class FrozenTraining(TrainConfig):
    """Keeps given weights of domains."""

    mode: Literal["frozen"] = "frozen"
    """Keeps the weights of `weights`."""
    weights: dict[str, float] = Field(min_length=1)
    """A weight per domain; they are scaled to a mean of 1."""

    @field_validator("weights")
    @classmethod
    def _can_be_scaled(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(weight < 0 for weight in weights.values()) or not sum(weights.values()):
            raise ValueError("frozen weights must not be negative, and not all 0")
        return weights


class SubsetTraining(TrainConfig):
    """Base of the modes that choose a part of the rollouts by rules and train on it with weights of 1."""

    subset: SubsetConfig = SubsetConfig()
    """Which part of the rollouts is selected."""


class S1Training(SubsetTraining):
    """Selects rollouts by quality, difficulty and diversity, and trains on them with weights of 1."""

    mode: Literal["s1"] = "s1"
    """Selects rollouts by quality, difficulty and diversity, and trains on them with weights of 1."""


class CarTraining(SubsetTraining):
    """Selects rollouts by clustering and ranking, and trains on them with weights of 1."""

    mode: Literal["car"] = "car"
    """Selects rollouts by clustering and ranking, and trains on them with weights of 1."""
    subset: ClusterSubset = ClusterSubset()
    """Which part of the rollouts is selected."""


AnyTrainConfig = Annotated[
    DomainTraining | RolloutTraining | UniformTraining | FrozenTraining | S1Training | CarTraining,
    OneOf("mode", "domain"),
]
# Modes that learn weights, and of these the ones that learn one for every rollout.
LEARNED = values(DomainTraining, "mode") + values(RolloutTraining, "mode")
PER_ROLLOUT = values(RolloutTraining, "mode")
