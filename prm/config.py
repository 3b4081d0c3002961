"""The `train` section of a recipe: how a PRM and its domain weights are trained."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from curate.recipe.parsing import Config
from prm.aggregations import AggregationName

# Modes of training that learn weights, of these the ones that learn one for every rollout; and those that train on a
# chosen part of the rollouts.
PER_ROLLOUT = ("instance-table", "instance-net")
LEARNED = ("domain", *PER_ROLLOUT)
SELECTED = ("s1", "car")
# Of the upper level, by its rule.
_RATES = {"adam": 0.01, "mirror": 50.0}


class UpperConfig(Config):
    """The upper level: weights of domains or rollouts on the meta loss."""

    loss: Literal["outcome", "pairs", "auroc"] = "outcome"
    """What the meta set asks for: `outcome`, a rollout's score near its outcome (DreamPRM); `pairs`, of two rollouts of
    a problem the right one's score above the wrong one's, whatever the level of both; `auroc`, the same of two rollouts
    of any problems, so that levels of problems and domains count, that of all scores does not (see `prm.data.meta`)."""
    unroll: int = Field(default=5, ge=1)
    """Lower steps between two upper steps."""
    warmup: int = Field(default=100, ge=0)
    """Lower steps before the first upper step; Adam's second moment means little before some 50."""
    rule: Literal["adam", "mirror"] = "adam"
    """How domain weights follow the hypergradient: `adam` on the raw weights (DreamPRM), which moves all domains at
    about the same pace; `mirror`, multiplicative, in proportion to the hypergradient (see `prm.bilevel.weights`)."""
    lr: float | None = Field(default=None, ge=0)
    """With `adam` (0.01 when null) its step on the raw weights, or on the network's parameters in `instance-net`: about
    the change of log weight per update when the signal is steady. With `mirror` (50 when null) the log weight that a
    domain gains for each unit of meta loss that its gradient takes off."""
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
    gradient per domain kept meanwhile, which is little with `lora` (see `prm.bilevel.exact`)."""
    clipped: Literal["correct", "skip", "ignore"] = "correct"
    """When the lower gradient was clipped: `correct` is exact, and keeps one gradient per domain in memory during an
    upper step, or, with weights of rollouts, takes another forward and half a backward of the batch; `skip` leaves that
    update out and counts it; `ignore` leaves the clip's derivative out (which can turn the direction round)."""
    floor: float = Field(default=0.01, ge=0, lt=1)
    """Parameters whose Adam denominator is below this share of their tensor's typical one are treated as if it were
    there, so that a few rarely touched ones do not own the whole inner product. `exact` needs none."""

    @property
    def rate(self) -> float:
        """`lr`, or the rule's own when that is null."""
        return self.lr if self.lr is not None else _RATES[self.rule]

    @property
    def paired(self) -> bool:
        """Whether a term of the meta loss is about two rollouts."""
        return self.loss != "outcome"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.paired and self.meta_rows % 2:
            raise ValueError(f"meta_rows is {self.meta_rows}, and {self.loss} takes two each time; make it even")
        if self.rule == "mirror" and "betas" in self.model_fields_set:
            raise ValueError("upper.betas are Adam's and do nothing with rule mirror; leave them out")
        return self

    @model_serializer(mode="wrap")
    def _only_what_has_an_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {name: value for name, value in dumped.items() if name != "betas" or self.rule == "adam"}


class SubsetConfig(Config):
    """The part of the training rollouts that the modes `s1` and `car` choose."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the training rollouts that can be used."""
    clusters: int | None = Field(default=None, ge=1)
    """For `car`: groups of like texts of which each keeps its best; null takes the square root of half the rollouts."""


# What each metric of held-out chains is best at: +1 the highest value, -1 the lowest; and those that call a step right
# or wrong, and so need a threshold.
METRICS = {"brier": -1, "auroc": 1, "first-error-f1": 1, "best-of-n": 1}
THRESHOLDED = ("auroc", "first-error-f1")


class ValidationConfig(Config):
    """Problems of the train set that are held out, and what becomes of a run by a metric of them.

    See `prm.training.validation`.
    """

    every: int = Field(default=100, ge=1)
    """Lower steps between two evaluations, each a forward of all held-out rollouts; the last step has one, too."""
    share: float = Field(default=0.05, gt=0, lt=1)
    """Share of each domain's training problems; problems that show an image together stay together."""
    metric: Literal["brier", "auroc", "first-error-f1", "best-of-n"] = "brier"
    """`brier`, mean squared difference of step score and label, weighted as in training; `auroc`, how often a right
    step scores above a wrong one; `first-error-f1`, harmonic mean of the shares of wrong chains whose first wrong step
    is found and of right chains where none is, as ProcessBench; `best-of-n`, share of problems with several graded
    rollouts whose best-scored one is right. Labels of a bad domain count as any other's."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """For `auroc` and `first-error-f1`: a label above it calls its step right, and so does a score."""
    keep: Literal["best", "last"] = "best"
    """The state whose PRM is saved; weights are those at the end of the run either way."""
    patience: int | None = Field(default=None, ge=1)
    """End the run when so many evaluations in a row were no better than the best one before; null never does."""

    @model_validator(mode="after")
    def _a_threshold_has_an_effect(self) -> Self:
        if "threshold" in self.model_fields_set and self.metric not in THRESHOLDED:
            raise ValueError(f"threshold does nothing with metric {self.metric}; it is for {' and '.join(THRESHOLDED)}")
        return self

    @model_serializer(mode="wrap")
    def _only_what_has_an_effect(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if self.metric not in THRESHOLDED:
            del dumped["threshold"]
        return dumped


class LoraConfig(Config):
    """Low-rank adapters in the language model, trained with the head in place of the model (see `prm.model.lora`)."""

    rank: int = Field(default=16, ge=1)
    """Rank of each adapter's change to its layer's weight."""
    alpha: float = Field(default=32.0, gt=0)
    """An adapter's output counts alpha / rank."""
    targets: Literal["linear", "attention"] = "linear"
    """Which layers get one: all linear ones, or those of attention only."""


class TrainConfig(Config):
    """`prm train`: examples to trained PRMs and weights per update."""

    model: str
    """Folder of the backbone, or its hub id; a vision-language model, or a text-only causal language model for data
    without images, with safetensors weights and a chat template."""
    revision: str | None = None
    """Revision of a hub model."""
    mode: Literal["domain", "instance-table", "instance-net", "uniform", "frozen", "s1", "car"] = "domain"
    """`domain` learns a weight for each domain (DreamPRM), `instance-table` one for each rollout, `instance-net` a
    small network from a rollout's loss and score to its weight (DreamPRM-1.5; see `prm.bilevel.instances`). `uniform`
    keeps them at 1, `frozen` keeps those of `weights`. `s1` and `car` choose a part of the rollouts by rules and train
    on it with weights of 1 (see `prm.data.subset`)."""
    weights: dict[str, float] = Field(default={})
    """For `frozen`: a weight per domain; they are scaled to mean 1."""
    subset: SubsetConfig = SubsetConfig()
    """For `s1` and `car`."""
    seeds: int = Field(default=3, ge=1)
    """Runs that differ in their batches and head, so that a weight has an interval."""
    null_runs: int = Field(default=3, ge=0)
    """Runs with shuffled meta outcomes beside the real ones: where learned weights end without any signal."""
    steps: int = Field(default=1000, ge=1)
    """Lower updates."""
    rows_per_domain: int = Field(default=2, ge=1)
    """Rollouts of each domain in a batch."""
    instruction: str = "Check each step."
    """First line of the user turn, before the question."""
    target: Literal["steps", "outcome"] = "steps"
    """What is learned: the label of every step, or, for an outcome reward model (ORM) to compare with, only at the last
    step whether the rollout is right."""
    read: Literal["step-end", "branch"] = "step-end"
    """Where a step is scored: at its own last token, or, with `branch`, at the end of a suffix that follows it and that
    later steps do not see. `branch` gives what a model that reads after such a suffix gives prefix by prefix; it takes
    one suffix more a step, and attention with a mask of its own, which is slower and which some models cannot have."""
    suffix: str | None = Field(default=None, min_length=1)
    """For `branch`: the text that is put after each step; null takes what the model's chat writes to end the
    assistant's turn and open the next."""
    head: Literal["label-token", "scalar"] = "label-token"
    """How the linear head starts: as the difference of two rows of the language-model head, so that a model that can
    already judge keeps that, or at random."""
    label_tokens: tuple[str, str] = ("+", "-")
    """Right and wrong, one token each, for `label-token`."""
    loss: Literal["mse", "bce"] = "mse"
    """Loss of a step score against its label."""
    aggregation: AggregationName = "mean-log-odds"
    """How step scores become a rollout score, see `prm.model.aggregate`."""
    max_length: int = Field(default=4096, ge=16)
    """In tokens, images and suffixes included. Longer examples are left out and counted; a step is never cut off."""
    freeze_vision: bool = True
    """Leave the vision tower as it is, and what brings its output to the language model; image tokens are then computed
    once per image."""
    lora: LoraConfig | None = None
    """Train adapters and the head, with all else frozen; null trains the whole model. What is saved is the whole model
    in either case, adapters merged into it. A learning rate of some 1e-4 is usual."""
    lr: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Over all steps, multiplied by the warm-up; `cosine` and `linear` fall to a tenth (at 0 there would be nothing
    left for domain weights to act on)."""
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
    validation: ValidationConfig | None = None
    """Evaluate on held-out problems, keep the best state, end early; null trains on all problems and keeps the last."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward pass; what is trained, its moments and the head are always float32. With
    `lora` and bfloat16 the frozen matrices are kept in bfloat16, too."""
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
    parallel: int | None = Field(default=None, ge=1)
    """Runs done side by side, each in a process of its own; null is one a GPU, and on a CPU one after the other. Two
    processes of one thread each do more together than one of two threads."""
    micro_rows: int = Field(default=16, ge=1)
    """Rollouts in one forward at most; larger batches are summed over several."""
    cache_megabytes: int = Field(default=1024, ge=1)
    """Memory for what images were turned into (features when the vision tower is frozen, else pixels)."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Lower steps between two checkpoints of a run under way."""
    tensorboard: bool = False
    """Write curves of each run to <workspace>/tensorboard/<run>; needs the extra `tensorboard`."""

    @model_validator(mode="after")
    def _a_pair_fits(self) -> Self:
        if self.upper.paired and self.micro_rows < 2:
            raise ValueError(f"micro_rows is 1, and upper.loss {self.upper.loss} needs 2 rollouts in one forward")
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
        if self.mode in PER_ROLLOUT and "rule" in given and self.upper.rule != "adam":
            raise ValueError(f"upper.rule {self.upper.rule} is for domain weights; mode {self.mode} learns by Adam")
        chosen = sorted(self.subset.model_fields_set)
        if self.mode not in SELECTED and chosen:
            raise ValueError(f"subset.{chosen[0]} does nothing in mode {self.mode}; it is for {' and '.join(SELECTED)}")
        if self.mode == "s1" and "clusters" in chosen and self.subset.clusters is not None:
            raise ValueError("subset.clusters does nothing in mode s1; it is for car")
        if self.read == "step-end" and self.suffix is not None:
            raise ValueError("suffix does nothing with read step-end; it is for branch")
        return self

    @model_validator(mode="after")
    def _patience_can_run_out(self) -> Self:
        if self.validation is None or self.validation.patience is None:
            return self
        evaluations = -(-self.steps // self.validation.every)
        # The first is always the best so far, and after the last the run is over anyway.
        if self.validation.patience + 1 >= evaluations:
            raise ValueError(
                f"validation.patience {self.validation.patience} does nothing in {evaluations} evaluation(s) "
                f"({self.steps} steps, every {self.validation.every}); lower validation.every or patience"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _an_outcome_is_read_at_the_last_step(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("target") == "outcome":
            if given.get("aggregation", "last") != "last":
                raise ValueError("target outcome scores the last step alone, so aggregation does nothing; leave it out")
            return given | {"aggregation": "last"}
        return given

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
        used |= {"validation": self.validation is not None}
        # What was trained before there was a choice was read at step ends, and stays as it is.
        used |= dict.fromkeys(("read", "suffix"), self.read == "branch") | {"target": self.target != "steps"}
        return {name: value for name, value in dumped.items() if used.get(name, True)}

    @model_validator(mode="after")
    def _frozen_has_weights(self) -> Self:
        if (self.mode == "frozen") != bool(self.weights):
            raise ValueError("weights belong to mode frozen; give both or neither")
        if any(weight < 0 for weight in self.weights.values()) or (self.weights and not sum(self.weights.values())):
            raise ValueError("frozen weights must not be negative, and not all 0")
        return self
