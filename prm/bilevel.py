"""The two levels, one step at a time: lower AdamW steps on weighted domain losses, and every so often an upper one.

An ordinary lower step is one joint backward. On an upper step the meta gradient comes first, then the domains go
backward one after the other, and the inner products with the meta direction are read off in between: the lower work is
the same, the meta forward and backward are all that is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from prm.batches import Stream
from prm.config import TrainConfig
from prm.hypergradient import GradientAverage, RunningDots, direction, gradients
from prm.losses import to_device
from prm.meta import Item, MetaSet
from prm.team import ALONE, Share, Team
from prm.weights import UpperAdam

Tensor = Any


class Objective(Protocol):
    """Losses of rows by name as (names, losses [n]), and of meta items as losses [n]; each tensor owns its graph.

    How many tensors come depends on the number of rows or items only. `tokens` is what a row costs, for sharing out.
    """

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]: ...
    def meta_losses(self, items: Sequence[Item]) -> Iterator[Tensor]: ...
    def tokens(self, name: str) -> int: ...


@dataclass
class Tally:
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
    """One upper update as it is recorded; the dictionaries are by domain. `dots` are -dL_meta/dw of this update."""

    number: int
    step: int
    weights: Mapping[str, float]
    raw: Mapping[str, float]
    dots: Mapping[str, float | None]
    tally: Tally
    meta_loss: float | None


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of lower step `step`, counted from 0."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.lr_warmup))
    if config.lr_schedule == "cosine":
        rate *= 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / config.steps))
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
    """State of a run and its one step. Domain weights live in `upper`; `frozen` holds them when they are given."""

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        parameters: Sequence[Tensor],
        train: Stream,
        meta: MetaSet | None,
        team: Team = ALONE,
    ) -> None:
        self.config, self.objective, self.parameters, self.team = config, objective, list(parameters), team
        self.train, self.meta, self.domains = train, meta, list(train.groups)
        self.optimiser = build_optimiser(config, self.parameters)
        self.upper = UpperAdam(len(self.domains), config.upper.lr, config.upper.betas, config.upper.ema)
        self.meta_average = GradientAverage(config.upper.meta_ema)
        self.tally = Tally()
        self._losses: list[tuple[list[str], Tensor]] = []
        self.done = self.skipped = self.clipped = 0

    def weights(self) -> dict[str, float]:
        """Domain weights now: learned, given, or 1."""
        if self.config.mode == "domain":
            return dict(zip(self.domains, self.upper.weights.tolist(), strict=True))
        if self.config.mode == "frozen":
            mean = sum(self.config.weights[d] for d in self.domains) / len(self.domains)
            return {domain: self.config.weights[domain] / mean for domain in self.domains}
        return dict.fromkeys(self.domains, 1.0)

    @property
    def fused(self) -> bool:
        """Whether AdamW runs as one kernel a tensor."""
        return bool(self.optimiser.defaults["fused"])

    def _is_upper(self, step: int) -> bool:
        past = step + 1 - self.config.upper.warmup
        return past > 0 and past % self.config.upper.unroll == 0

    def first(self) -> Update:
        """The record before anything was learned."""
        return self._record(0, dict.fromkeys(self.domains), None)

    def _record(self, step: int, dots: Mapping[str, float | None], meta_loss: float | None) -> Update:
        raw = dict(zip(self.domains, self.upper.raw.tolist(), strict=True))
        update = Update(self.upper.updates, step, self.weights(), raw, dots, self.whole_tally(), meta_loss)
        self.tally = Tally()
        return update

    def whole_tally(self) -> Tally:
        """The tally of all processes."""
        if self.team.size == 1:
            return self.tally
        mine = [by.get(domain, 0) for by in (self.tally.rows, self.tally.losses) for domain in self.domains]
        summed, count = self.team.total(mine), len(self.domains)
        rows = {domain: int(seen) for domain, seen in zip(self.domains, summed[:count], strict=True) if seen}
        return Tally(
            rows, {domain: loss for domain, loss in zip(self.domains, summed[count:], strict=True) if domain in rows}
        )

    def agree(self) -> None:
        """`prm.distributed.Diverged` unless all processes hold the same state."""
        self.team.agree(self.done, {f"weight {domain}": w for domain, w in self.weights().items()}, self.parameters)

    def step(self) -> Update | None:
        """One lower step, with an upper one where it is due; returns the record of that."""
        upper = self._is_upper(self.done)
        rows = self.train.rows(self.done)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.done)
        learns = upper and self.config.mode == "domain"
        if learns:
            dots, meta_loss = self._upper_backward(rows)
        else:
            dots, meta_loss = None, None
            joint = [name for names in rows.values() for name in names]
            self._shared_backward(self.team.share(joint, self._cost), rows)
            self.team.reduce(self.parameters)
        if self.config.clip is not None:
            norm = self.team.clip(self.parameters, self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._count()
        if self.config.clip is not None:
            self.clipped += int(norm > self.config.clip)
        self.done += 1
        if not upper:
            return None
        return self._finish_upper(dots, meta_loss, learns)

    def _finish_upper(self, dots: list[float] | None, meta_loss: float | None, learns: bool) -> Update | None:
        if not learns:
            self.upper.updates += 1
        elif dots is None:
            self.skipped += 1
            return None
        else:
            self.upper.update(-torch.tensor(dots, dtype=torch.float64))
        by_domain = dict(zip(self.domains, dots, strict=True)) if dots else dict.fromkeys(self.domains)
        return self._record(self.done, by_domain, meta_loss)

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
        if not self._losses:
            # Others of the team had all of a small batch.
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
        for part, counts in self.team.share(items, lambda item: sum(map(self._cost, item))):
            for losses in self.objective.meta_losses(part):
                loss = losses.sum() / len(items) * float(counts)
                loss.backward()
                total += loss.detach()
        self.team.reduce(self.parameters)
        found = gradients(self.parameters)
        self.optimiser.zero_grad(set_to_none=True)
        return found, self.team.total([float(total)])[0]

    def _upper_backward(self, rows: Mapping[str, Sequence[str]]) -> tuple[list[float] | None, float]:
        """The lower gradient, domain by domain; returns <D, C g_k> (null: skipped for clipping) and the meta loss."""
        meta_gradients, meta_loss = self.meta_gradient(self.upper.updates + self.skipped)
        towards = direction(
            self.parameters, self.meta_average.add(meta_gradients), self.optimiser, self.config.upper.floor, self.team
        )
        how, weights = self.config.upper.clipped, self.weights()
        kept = torch.bfloat16 if self.config.precision == "bfloat16" else self.parameters[0].dtype
        running = RunningDots(self.parameters, towards, kept if how == "correct" else None, self.team)
        shares = self.team.shares(rows, self._cost)
        for domain in self.domains:
            self._shared_backward(shares[domain], rows)
            running.read(weights[domain])
        self.team.reduce(self.parameters)
        return (running.plain() if how == "ignore" else running.settle(self.config.clip)), meta_loss
