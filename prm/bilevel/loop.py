"""The two levels, one step at a time: lower AdamW steps on weighted domain losses, and every so often an upper one.

An ordinary lower step is one joint backward. On an upper step the meta gradient comes first, then the domains go
backward one after the other, and the inner products with the meta direction are read off in between: the lower work is
the same, the meta forward and backward are all that is added. With `upper.direction: exact` the domains' gradients are
kept and the meta gradient comes after the step (`prm.bilevel.exact`). Where every rollout has a weight of its own, the
backward stays joint and ghost probes read the inner products (`prm.bilevel.rollout_level`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from curate.tables.rows import ValidationRow
from prm.bilevel.exact import KeptGradients, step_direction, through_clip
from prm.bilevel.hypergradient import (
    DirectionTurn,
    GradientAverage,
    RunningDots,
    derivative_of_clip,
    direction,
    gradients,
)
from prm.bilevel.instances import RolloutWeights, rollout_weights
from prm.bilevel.rollout_level import RolloutLevel
from prm.bilevel.weights import Upper, upper_rule
from prm.config import AdamUpper, FrozenTraining, LearnedTraining, TrainConfig, UpperConfig
from prm.data.batches import Stream
from prm.data.meta import Item, MetaSet
from prm.distributed.process_group import ALONE, ProcessGroup, Share
from prm.losses import to_device

_USUAL = AdamUpper()


class Objective(Protocol):
    """Losses of rows by name as (names, losses [n]), and of meta items as losses [n]; each tensor owns its graph.

    How many tensors come depends on the number of rows or items only. `tokens` is what a row costs, for sharing out.
    """

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]: ...
    def meta_losses(self, items: Sequence[Item]) -> Iterator[Tensor]: ...
    def tokens(self, name: str) -> int: ...


@dataclass
class DomainTally:
    """Per domain, since the last update record: rows seen and the sum of their losses."""

    rows: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, domain: str, loss: float) -> None:
        """Count a row."""
        self.rows[domain] = self.rows.get(domain, 0) + 1
        self.losses[domain] = self.losses.get(domain, 0.0) + loss

    def mean(self, domain: str) -> float | None:
        """Mean loss of a rollout; null when none was seen."""
        return self.losses[domain] / self.rows[domain] if self.rows.get(domain) else None


@dataclass(frozen=True)
class Update:
    """One upper update as it is recorded; the dictionaries are by domain. `dots` are -dL_meta/dw of this update.

    With weights of rollouts, `weights` are their means, `raw` is null and `dots` are for all of a domain's together.
    `cosine` is between this update's meta direction and the one before.
    """

    number: int
    step: int
    weights: Mapping[str, float]
    raw: Mapping[str, float | None]
    dots: Mapping[str, float | None]
    tally: DomainTally
    meta_loss: float | None
    cosine: float | None = None


@dataclass(frozen=True)
class UpperReading:
    """What an upper step found before it is a record; `dots` by domain are null when it is left out for clipping."""

    dots: Mapping[str, float] | None
    meta_loss: float
    cosine: float | None


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of lower step `step`, counted from 0."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.lr_warmup))
    if config.lr_schedule == "cosine":
        rate *= 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    elif config.lr_schedule == "linear":
        rate *= 0.1 + 0.9 * (1 - step / config.steps)
    return rate


def build_optimiser(config: TrainConfig, parameters: Sequence[Tensor]) -> Any:
    """AdamW; weight decay on matrices only. On a GPU in one kernel a tensor, in place of a dozen."""
    matrices = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.epsilon,
        fused=all(p.device.type == "cuda" for p in parameters) or None,
    )


class Bilevel:
    """State of a run and its one step. Learned weights live in `upper`, which is `rollouts` when those have them."""

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        parameters: Sequence[Tensor],
        train: Stream,
        meta: MetaSet | None,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.config, self.objective, self.parameters, self.process_group = (
            config,
            objective,
            list(parameters),
            process_group,
        )
        self.train, self.meta, self.domains = train, meta, list(train.groups)
        self.optimiser = build_optimiser(config, self.parameters)
        self.rollouts = rollout_weights(config, train.groups, train.seed)
        self.upper: Upper | RolloutWeights = self.rollouts or upper_rule(self.upper_config, len(self.domains))
        self.meta_average, self.turn = GradientAverage(self.upper_config.meta_ema), DirectionTurn()
        self.tally = DomainTally()
        self._losses: list[tuple[list[str], Tensor]] = []
        self.done = self.skipped = self.clipped = 0
        # What `prm.training.validation` found so far.
        self.validations: list[ValidationRow] = []

    def weights(self) -> dict[str, float]:
        """Domain weights now: learned, given, or 1; means of learned weights of rollouts."""
        if self.rollouts is not None:
            return self.rollouts.domain_means()
        if self.config.mode == "domain" and isinstance(self.upper, Upper):
            return dict(zip(self.domains, self.upper.weights.tolist(), strict=True))
        if isinstance(self.config, FrozenTraining):
            mean = sum(self.config.weights[d] for d in self.domains) / len(self.domains)
            return {domain: self.config.weights[domain] / mean for domain in self.domains}
        return dict.fromkeys(self.domains, 1.0)

    @property
    def learns(self) -> bool:
        """Whether weights are learned."""
        return isinstance(self.config, LearnedTraining)

    @property
    def upper_config(self) -> UpperConfig:
        """Settings of the upper level; the usual ones where nothing is learned, for how often a record is made."""
        return self.config.upper if isinstance(self.config, LearnedTraining) else _USUAL

    @property
    def sharded(self) -> bool:
        """Whether this process holds a part of each parameter."""
        return any(hasattr(parameter, "to_local") for parameter in self.parameters)

    @property
    def fused(self) -> bool:
        """Whether AdamW runs as one kernel a tensor."""
        return bool(self.optimiser.defaults["fused"])

    def _is_upper(self, step: int) -> bool:
        past = step + 1 - (self.upper_config.warmup if self.learns else 0)
        return past > 0 and past % self.upper_config.unroll == 0

    def first(self) -> Update:
        """The record before anything was learned."""
        return self._record(0, dict.fromkeys(self.domains), None)

    def _record(
        self, step: int, dots: Mapping[str, float | None], meta_loss: float | None, cosine: float | None = None
    ) -> Update:
        raw = self.upper.raw.tolist() if isinstance(self.upper, Upper) else [None] * len(self.domains)
        by_domain, tally = dict(zip(self.domains, raw, strict=True)), self.whole_tally()
        update = Update(self.upper.updates, step, self.weights(), by_domain, dots, tally, meta_loss, cosine)
        self.tally = DomainTally()
        return update

    def whole_tally(self) -> DomainTally:
        """The tally of all processes."""
        if self.process_group.size == 1:
            return self.tally
        mine = [by.get(domain, 0) for by in (self.tally.rows, self.tally.losses) for domain in self.domains]
        summed, count = self.process_group.total(mine), len(self.domains)
        rows = {domain: int(seen) for domain, seen in zip(self.domains, summed[:count], strict=True) if seen}
        return DomainTally(
            rows, {domain: loss for domain, loss in zip(self.domains, summed[count:], strict=True) if domain in rows}
        )

    def agree(self) -> None:
        """`prm.distributed.torch_group.Diverged` unless all processes hold the same state."""
        self.process_group.agree(
            self.done, {f"weight {domain}": w for domain, w in self.weights().items()}, self.parameters
        )

    def step(self) -> Update | None:
        """One lower step, with an upper one where it is due; returns the record of that."""
        upper = self._is_upper(self.done)
        rows = self.train.rows(self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.done)
        reading = kept = None
        if self.rollouts is not None:
            reading = self._rollout_backward(rows, upper)
        elif upper and self.learns and self.upper_config.direction == "exact":
            kept = KeptGradients(self.parameters, self.process_group)
            self._by_domain(rows, kept)
        elif upper and self.learns:
            reading = self._upper_backward(rows)
        else:
            joint = [name for names in rows.values() for name in names]
            self._shared_backward(self.process_group.share(joint, self._cost), rows)
            self.process_group.reduce(self.parameters)
        if self.config.clip is not None:
            norm = self.process_group.clip(self.parameters, self.config.clip)
        self.optimiser.step()
        if kept is not None:
            reading = self._exact_reading(kept, float(norm) if self.config.clip is not None else 0.0)
        self.optimiser.zero_grad(set_to_none=True)
        self._count()
        if self.config.clip is not None:
            self.clipped += int(norm > self.config.clip)
        self.done += 1
        return self._finish_upper(reading) if upper else None

    def _finish_upper(self, reading: UpperReading | None) -> Update | None:
        if reading is None:
            self.upper.updates += 1
            return self._record(self.done, dict.fromkeys(self.domains), None)
        if reading.dots is None:
            self.skipped += 1
            return None
        if isinstance(self.upper, Upper):
            self.upper.update(-torch.tensor([reading.dots[name] for name in self.domains], dtype=torch.float64))
        return self._record(self.done, reading.dots, reading.meta_loss, reading.cosine)

    def _cost(self, name: str) -> int:
        return self.objective.tokens(name)

    def _shared_backward(self, share: Share[str], rows: Mapping[str, Sequence[str]]) -> None:
        """`_backward` for this process's part of these rows."""
        for names, counts in share:
            if counts:
                self._backward(names, rows)
            else:
                for _, losses in self.objective.train_losses(names):
                    (0.0 * losses.sum()).backward()

    def _backward(self, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
        """Add the gradient of the weighted loss of these rows; the divisor is the size of the whole batch."""
        weights, size = self.weights(), sum(len(part) for part in rows.values())
        domain_of = {name: domain for domain, part in rows.items() for name in part}
        for part, losses in self.objective.train_losses(names):
            domains = [domain_of[name] for name in part]
            weight = torch.tensor([weights[domain] for domain in domains], dtype=losses.dtype)
            ((to_device(weight, losses.device) * losses).sum() / size).backward()
            # Read only when the step is done: a GPU is not waited for in between.
            self._losses.append((domains, losses.detach()))

    def _count(self) -> None:
        """What this step's rows lost, into the tally."""
        if not self._losses:
            # One of another kind, or others of the group had all of a small batch.
            return
        domains = [domain for part, _ in self._losses for domain in part]
        for domain, loss in zip(domains, torch.cat([losses for _, losses in self._losses]).tolist(), strict=True):
            self.tally.add(domain, loss)
        self._losses.clear()

    def meta_gradient(self, step: int) -> tuple[list[Tensor], float]:
        """Gradient and value of the meta loss on this step's meta batch; leaves no gradient behind."""
        if self.meta is None:
            raise ValueError("no meta set")
        items, total = self.meta.items(step), 0.0
        for part, counts in self.process_group.share(items, lambda item: sum(map(self._cost, item))):
            for losses in self.objective.meta_losses(part):
                loss = losses.sum() / len(items) * float(counts)
                loss.backward()
                total += loss.detach()
        self.process_group.reduce(self.parameters)
        found = gradients(self.parameters)
        self.optimiser.zero_grad(set_to_none=True)
        return found, self.process_group.total([float(total)])[0]

    def _towards(self) -> tuple[list[Tensor], float, float | None]:
        """Meta direction and meta loss of an upper step, and the direction's cosine with the one before."""
        meta_gradients, meta_loss = self.meta_gradient(self.upper.updates + self.skipped)
        towards = direction(
            self.parameters,
            self.meta_average.add(meta_gradients),
            self.optimiser,
            self.upper_config.floor,
            self.process_group,
        )
        return towards, meta_loss, self.turn.cosine(towards, self.process_group)

    def _by_domain(self, rows: Mapping[str, Sequence[str]], reader: RunningDots | KeptGradients) -> None:
        """The lower gradient, domain by domain, and `reader` looks at it after each."""
        weights, shares = self.weights(), self.process_group.shares(rows, self._cost)
        for domain in self.domains:
            self._shared_backward(shares[domain], rows)
            reader.read(weights[domain])
        self.process_group.reduce(self.parameters)

    def _upper_backward(self, rows: Mapping[str, Sequence[str]]) -> UpperReading:
        """The lower gradient, domain by domain, and what that says about them."""
        towards, meta_loss, cosine = self._towards()
        how = self.upper_config.clipped
        kept = torch.bfloat16 if self.config.precision == "bfloat16" else self.parameters[0].dtype
        running = RunningDots(self.parameters, towards, kept if how == "correct" else None, self.process_group)
        self._by_domain(rows, running)
        dots = running.plain() if how == "ignore" else running.settle(self.config.clip)
        return UpperReading(None if dots is None else dict(zip(self.domains, dots, strict=True)), meta_loss, cosine)

    def _exact_reading(self, kept: KeptGradients, norm: float) -> UpperReading:
        """What the step that was just taken says about the domains; `norm` is its gradient's, before clipping."""
        config, clipped = self.config, gradients(self.parameters)
        self.optimiser.zero_grad(set_to_none=True)
        if self.upper_config.clipped == "skip" and derivative_of_clip(norm, config.clip) is not None:
            return UpperReading(None, 0.0, None)
        found, meta_loss = self.meta_gradient(self.upper.updates + self.skipped)
        v = self.meta_average.add(found)
        floor = self.upper_config.floor
        towards = step_direction(self.parameters, v, clipped, self.optimiser, floor, self.process_group)
        cosine = self.turn.cosine(towards, self.process_group)
        if self.upper_config.clipped == "correct":
            towards = through_clip(towards, clipped, norm, config.clip, self.process_group)
        return UpperReading(dict(zip(self.domains, kept.along(towards), strict=True)), meta_loss, cosine)

    def _rollout_backward(self, rows: Mapping[str, Sequence[str]], upper: bool) -> UpperReading | None:
        """The lower gradient with a weight for every rollout; on an upper step these learn, too."""
        assert self.rollouts is not None  # noqa: S101
        level = RolloutLevel(self.objective, self.parameters, self.rollouts)  # type: ignore[arg-type]
        domain_of = {name: domain for domain, part in rows.items() for name in part}
        towards, meta_loss, cosine = self._towards() if upper else (None, 0.0, None)
        seen = level.backward([name for part in rows.values() for name in part], towards)
        for one in seen:
            self.tally.add(domain_of[one.name], one.loss)
        if towards is None:
            return None
        settled = level.settled(seen, towards, self.config.clip, self.upper_config.clipped)
        if settled is None:
            return UpperReading(None, meta_loss, cosine)
        self.rollouts.update(*zip(*settled, strict=True))
        sums = dict.fromkeys(self.domains, 0.0)
        for name, found in settled:
            sums[domain_of[name]] += found
        return UpperReading(sums, meta_loss, cosine)
