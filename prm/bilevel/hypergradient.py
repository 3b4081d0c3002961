"""All K hypergradients out of the ordinary lower backward.

After a lower step phi' = AdamW(phi, clip(g)), g = sum_k w_k g_k, the meta loss changes with the weights as
dL/dw_k = -<D, g_k>, D = C^T (lr J grad L(phi')), where J is the elementwise derivative of Adam's update and C that of
the clipping. Here D is taken one step early (at phi instead of phi', cosine 0.9999 measured) with the cheap scale
lr (1 - b1) / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + e), which leaves out a part of size (1 - b2) / (1 - b1). As <D, G> is
linear in the gradient G that accumulates while the domains go backward one after the other, its increments are the
inner products: no second pass, no stored gradient. Only the derivative of the clipping needs <g, g_k>. Without lag and
with all of J: `prm.bilevel.exact`.

Products are summed by rows, those sums in float64, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prm.distributed.process_group import ALONE, ProcessGroup, local

Optimiser = Any


def _total(values: Tensor) -> Tensor:
    """Sum in float64. Rows first, as they are: a conversion of everything would be written to memory."""
    return (values.sum(-1) if values.ndim > 1 else values).sum(dtype=torch.float64)


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner product over all tensors, a float64 scalar where they are; one tensor's products in memory at a time."""
    return torch.stack([_total(a * b) for a, b in zip(left, right, strict=True)]).sum()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Inner product over all tensors, summed in float64."""
    return float(inner(left, right))


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters' gradients as they stand, or the parts of them that are here; zeros where there is none."""
    return [local(p.grad) if p.grad is not None else torch.zeros_like(local(p)) for p in parameters]


def grouped(
    parameters: Sequence[Tensor], optimiser: Optimiser
) -> tuple[dict[Tensor, Mapping[str, Any]], dict[Tensor, float]]:
    """The optimiser's group of each parameter, and the steps done by those that it has moments of."""
    groups = {parameter: group for group in optimiser.param_groups for parameter in group["params"]}
    moved = [p for p in parameters if "exp_avg_sq" in optimiser.state[p]]
    # Read together: a GPU is waited for once, and not for each parameter.
    counts = torch.stack([optimiser.state[p]["step"] for p in moved]).tolist() if moved else []
    return groups, dict(zip(moved, counts, strict=True))


def typical_root(squares: Tensor, process_group: ProcessGroup) -> Tensor:
    """Root mean square of the entries that are not 0, given their squares; a scalar."""
    total, count = process_group.across(torch.stack([_total(squares), squares.count_nonzero().double()]))
    return (total / count.clamp(min=1)).sqrt()


def increments(sums: Sequence[float], weights: Sequence[float]) -> list[float]:
    """What each domain added to a running sum, divided by its weight."""
    totals = [0.0, *sums]
    return [(now - before) / w for before, now, w in zip(totals, totals[1:], weights, strict=False)]


def _scaled(
    gradient: Tensor, squares: Tensor, done: float, group: Mapping[str, Any], floor: float, process_group: ProcessGroup
) -> Tensor:
    # Adam's bias correction of the second moment goes to the scalars: one pass over the memory less.
    first, second = group["betas"]
    correction = (1 - second**done) ** 0.5
    root = squares.sqrt()
    untouched = root == 0
    root.clamp_(min=(floor * typical_root(squares, process_group)).to(root.dtype)).add_(group["eps"] * correction)
    rate = group["lr"] * (1 - first) / (1 - first ** (done + 1)) * correction
    return (gradient * rate).div_(root).masked_fill_(untouched, 0.0)


def direction(
    parameters: Sequence[Tensor],
    meta_gradients: Sequence[Tensor],
    optimiser: Optimiser,
    floor: float,
    process_group: ProcessGroup = ALONE,
) -> list[Tensor]:
    """D, one tensor a parameter: the meta gradient in Adam's metric, before the clipping.

    The metric is d(-update)/d(gradient) of the next AdamW step, elementwise, by its first part and the second moment so
    far. Entries that no gradient ever touched (second moment 0) get 0: their scale would be 1 / epsilon. Others are
    treated as if their root second moment were at least `floor` times the root mean square of their tensor's.
    """
    groups, done = grouped(parameters, optimiser)
    return [
        _scaled(gradient, local(optimiser.state[p]["exp_avg_sq"]), done[p], groups[p], floor, process_group)
        if p in done
        else torch.zeros_like(gradient)
        for p, gradient in zip(parameters, meta_gradients, strict=True)
    ]


class GradientAverage:
    """Bias-corrected moving average of a gradient, one copy of the parameters; with decay 0 it keeps nothing.

    A hypergradient is an inner product of two noisy gradients, and in many dimensions the product of their noises
    outweighs the rest. Averaged over n upper steps, the meta gradient meets n times as many gradients of each domain,
    which takes that part of the variance down n-fold at no more forwards; it lags n steps behind instead.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.sums: list[Tensor] | None = None
        self.count = 0

    def add(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The average with this gradient in it."""
        if not self.decay:
            return list(found)
        self.count += 1
        if self.sums is None:
            self.sums = [torch.zeros_like(gradient) for gradient in found]
        torch._foreach_mul_(self.sums, self.decay)
        torch._foreach_add_(self.sums, list(found), alpha=1 - self.decay)
        averaged: list[Tensor] = torch._foreach_div(self.sums, 1 - self.decay**self.count)
        return averaged


class DirectionTurn:
    """Cosine between each direction and the one before it, on a fixed sample of at most `SAMPLE` entries.

    Near 1, directions may be reused or averaged for longer (`upper.meta_ema`); near 0, each is mostly noise.
    """

    SAMPLE = 2**20

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def cosine(self, towards: Sequence[Tensor], process_group: ProcessGroup = ALONE) -> float | None:
        """In [-1, 1]; None for the first direction, or when either is 0. Of shards, each process samples its own."""
        # An odd stride walks through all columns of a matrix.
        stride = -(-sum(part.numel() for part in towards) // self.SAMPLE) | 1
        before, self.last = self.last, torch.cat([part.flatten()[::stride] for part in towards])
        if before is None:
            return None
        pairs = (before, before), (self.last, self.last), (before, self.last)
        old, new, product = process_group.across(torch.stack([_total(a * b) for a, b in pairs])).tolist()
        return product / (old * new) ** 0.5 if old and new else None


def derivative_of_clip(norm: float, clip: float | None) -> tuple[float, float] | None:
    """(c, b) in C x = c x - b g <g, x>, the derivative of clipping a gradient g of this norm; None where C is identity.

    c = clip / (norm + 1e-6), b = clip / (norm (norm + 1e-6)^2): torch's rule.
    """
    if clip is None or clip >= norm + 1e-6:
        return None
    return clip / (norm + 1e-6), clip / (norm * (norm + 1e-6) ** 2)


class RunningDots:
    """Reads <D, g_k> off the accumulating gradient, domain by domain, and undoes the clipping's bias afterwards.

    With `keep`, the accumulated gradient after each domain is kept (one copy of the parameters each, of this type), so
    that `settle` knows what a clipped step does; without, it returns None there. Kept as bfloat16, <g, g_k> has a
    relative error of some 2^-9 / sqrt(parameters), which is nothing.

    In a group each process reads off its own part of the gradient (or its shard of it), and the readings are summed.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        towards: Sequence[Tensor],
        keep: torch.dtype | None,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.parameters, self.towards, self.keep, self.process_group = parameters, towards, keep, process_group
        self.weights: list[float] = []
        self._sums: list[Tensor] = []
        self._kept: list[list[Tensor]] = []

    def read(self, weight: float) -> None:
        """Call after the backward of one domain, whose weight in the loss was `weight`."""
        now = gradients(self.parameters)
        self.weights.append(weight)
        # Not read yet: a GPU goes on with the next domain.
        self._sums.append(inner(self.towards, now))
        if self.keep is not None:
            self._kept.append([g.to(self.keep, copy=True) for g in now])

    def _whole(self, parts: Sequence[Tensor]) -> list[float]:
        """Sums over the group of inner products."""
        return self.process_group.total(torch.stack(list(parts)).tolist())

    def plain(self) -> list[float]:
        """<D, g_k> for each domain, in the order of the reads; the clipping is left out."""
        return increments(self._whole(self._sums), self.weights)

    def settle(self, clip: float | None) -> list[float] | None:
        """<D, C g_k> for each domain, C the derivative of clipping the whole gradient to norm `clip`.

        Call before the gradient is clipped, and when it is that of the whole group. None when it clips and nothing was
        kept.
        """
        total, sums = gradients(self.parameters), self._whole(self._sums)
        norm = float(self.process_group.across(torch.tensor(dot(total, total), dtype=torch.float64))) ** 0.5
        plain, bent = increments(sums, self.weights), derivative_of_clip(norm, clip)
        if bent is None:
            return plain
        if self.keep is None:
            return None
        # <g, g_k> with the whole g; what was kept is this process's part of g_k, so these are parts of it, too.
        along = increments(self._whole([inner(total, kept) for kept in self._kept]), self.weights)
        shrink, bend = bent
        return [shrink * q - bend * sums[-1] * a for q, a in zip(plain, along, strict=True)]
