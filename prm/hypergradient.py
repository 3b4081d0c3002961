"""All K hypergradients out of the ordinary lower backward.

After a lower step phi' = AdamW(phi, clip(g)), g = sum_k w_k g_k, the meta loss changes with the weights as
dL/dw_k = -<D, g_k>, D = C^T (lr J grad L(phi')), where J is the elementwise derivative of Adam's update and C that of
the clipping. Here D is taken one step early (at phi instead of phi', cosine 0.9999 measured) with the cheap scale
lr (1 - b1) / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + e), which leaves out a part of size (1 - b2) / (1 - b1). As <D, G> is
linear in the gradient G that accumulates while the domains go backward one after the other, its increments are the
inner products: no second pass, no stored gradient. Only the derivative of the clipping needs <g, g_k>.

Products are summed in float64, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prm.team import ALONE, Team, local

Tensor = Any
Optimiser = Any


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Inner product over all tensors, summed in float64."""
    products = torch._foreach_mul(list(left), list(right))
    return float(sum(product.sum(dtype=torch.float64) for product in products))


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters' gradients as they stand, or the parts of them that are here; zeros where there is none."""
    return [local(p.grad) if p.grad is not None else torch.zeros_like(local(p)) for p in parameters]


def adam_scale(optimiser: Optimiser, floor: float, team: Team = ALONE) -> dict[Tensor, Tensor]:
    """d(-update)/d(gradient) of the next AdamW step, elementwise, by its first part and the second moment so far.

    Entries that no gradient ever touched (second moment 0) get 0: their scale would be 1 / epsilon. Others are treated
    as if their root second moment were at least `floor` times the root mean square of their tensor's.
    """
    scales = {}
    for group in optimiser.param_groups:
        first, second = group["betas"]
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            if "exp_avg_sq" not in state:
                scales[parameter] = torch.zeros_like(local(parameter))
                continue
            done = float(state["step"])
            root = (local(state["exp_avg_sq"]) / (1 - second**done)).sqrt()
            squares, count = team.across(torch.stack([root.double().square().sum(), root.count_nonzero().double()]))
            typical = (squares / count.clamp(min=1)).sqrt().to(root.dtype)
            scale = group["lr"] * (1 - first) / (1 - first ** (done + 1))
            scales[parameter] = torch.where(root > 0, scale / (root.clamp(min=floor * typical) + group["eps"]), 0.0)
    return scales


def direction(
    parameters: Sequence[Tensor],
    meta_gradients: Sequence[Tensor],
    optimiser: Optimiser,
    floor: float,
    team: Team = ALONE,
) -> list[Tensor]:
    """D, one tensor a parameter: the meta gradient in Adam's metric, before the clipping."""
    scales = adam_scale(optimiser, floor, team)
    return [scales[p] * v for p, v in zip(parameters, meta_gradients, strict=True)]


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


class RunningDots:
    """Reads <D, g_k> off the accumulating gradient, domain by domain, and undoes the clipping's bias afterwards.

    With `keep`, the accumulated gradient after each domain is kept (one copy of the parameters each), so that
    `settle` is exact on a clipped step; without, it returns None there.

    In a team each process reads off its own part of the gradient (or its shard of it), and the readings are summed.
    """

    def __init__(self, parameters: Sequence[Tensor], towards: Sequence[Tensor], keep: bool, team: Team = ALONE) -> None:
        self.parameters, self.towards, self.keep, self.team = parameters, towards, keep, team
        self.weights: list[float] = []
        self._sums: list[float] = [0.0]
        self._kept: list[list[Tensor]] = []

    def read(self, weight: float) -> None:
        """Call after the backward of one domain, whose weight in the loss was `weight`."""
        now = gradients(self.parameters)
        self.weights.append(weight)
        self._sums.append(dot(self.towards, now))
        if self.keep:
            self._kept.append([g.clone() for g in now])

    def _increments(self, sums: Sequence[float]) -> list[float]:
        return [
            (now - before) / weight for before, now, weight in zip(sums, sums[1:], self.weights, strict=False)
        ]  # fmt: skip

    def plain(self) -> list[float]:
        """<D, g_k> for each domain, in the order of the reads; the clipping is left out."""
        return self._increments(self.team.total(self._sums))

    def settle(self, clip: float | None) -> list[float] | None:
        """<D, C g_k> for each domain, C the derivative of clipping the whole gradient to norm `clip`.

        Call before the gradient is clipped, and when it is that of the whole team. C x = c x - clip / (||g|| (||g|| +
        1e-6)^2) g <g, x>, c = clip / (||g|| + 1e-6) (torch's rule). None when it clips and nothing was kept.
        """
        total, sums = gradients(self.parameters), self.team.total(self._sums)
        norm = float(self.team.across(torch.tensor(dot(total, total), dtype=torch.float64))) ** 0.5
        plain = self._increments(sums)
        if clip is None or clip >= norm + 1e-6:
            return plain
        if not self.keep:
            return None
        # <g, g_k> with the whole g; what was kept is this process's part of g_k, so these are parts of it, too.
        along = self._increments([0.0, *self.team.total([dot(total, kept) for kept in self._kept])])
        shrink, bend = clip / (norm + 1e-6), clip / (norm * (norm + 1e-6) ** 2)
        return [shrink * q - bend * sums[-1] * a for q, a in zip(plain, along, strict=True)]
