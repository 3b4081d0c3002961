"""Hypergradients of the lower step that was really taken: nothing lags and nothing is left out.

dL_meta(phi')/dw_k = -<C^T (lr J grad L_meta(phi')), g_k> needs the meta gradient after the step and the domains'
gradients before it. So these are kept, one copy of the trained parameters each (little where those are adapters), the
step is taken, and then comes the meta gradient: as many forwards and backwards as the lagged way of
`prm.bilevel.hypergradient` has. J is all of the elementwise derivative of Adam's update at the clipped gradient g',
from the moments m and s after the step:

    J = (1 - b1) / (B1 d) - m (1 - b2) g' / (B1 B2 r d^2),  Bi = 1 - bi^t,  r = sqrt(s / B2),  d = r + epsilon
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prm.bilevel.hypergradient import derivative_of_clip, dot, gradients, grouped, increments, inner, typical_root
from prm.distributed.process_group import ALONE, ProcessGroup, local

Optimiser = Any


class KeptGradients:
    """The gradients of the domains, until it is known what to multiply them with.

    In a group each process keeps its own part of them (or its shard).
    """

    def __init__(self, parameters: Sequence[Tensor], process_group: ProcessGroup = ALONE) -> None:
        self.parameters, self.process_group = parameters, process_group
        self.weights: list[float] = []
        self._kept: list[list[Tensor]] = []

    def read(self, weight: float) -> None:
        """Call after the backward of one domain, whose weight in the loss was `weight`."""
        self.weights.append(weight)
        self._kept.append([g.clone() for g in gradients(self.parameters)])

    def along(self, towards: Sequence[Tensor]) -> list[float]:
        """<D, g_k> for each domain, in the order of the reads."""
        sums = torch.stack([inner(towards, kept) for kept in self._kept]).tolist()
        return increments(self.process_group.total(sums), self.weights)


def _bent(
    v: Tensor, gradient: Tensor, state: Mapping[str, Tensor], done: float, group: Mapping[str, Any], floor: float,
    process_group: ProcessGroup,
) -> Tensor:  # fmt: skip
    """Lr J v of one parameter."""
    b1, b2 = group["betas"]
    first, second = 1 - b1**done, 1 - b2**done
    mean, squares = local(state["exp_avg"]), local(state["exp_avg_sq"])
    root = (squares / second).sqrt_()
    untouched = root == 0
    root.clamp_(min=(floor * typical_root(squares, process_group) / second**0.5).to(root.dtype))
    whole = root + group["eps"]
    # As ratios, each of which is of moderate size: a product of small numbers would leave float32's range.
    bend = (mean / whole) * (gradient / root) * ((1 - b2) / (first * second))
    scale = ((1 - b1) / first - bend).div_(whole).mul_(group["lr"])
    return scale.mul_(v).masked_fill_(untouched, 0.0)


def step_direction(
    parameters: Sequence[Tensor],
    meta_gradients: Sequence[Tensor],
    clipped: Sequence[Tensor],
    optimiser: Optimiser,
    floor: float,
    process_group: ProcessGroup = ALONE,
) -> list[Tensor]:
    """Lr J v, one tensor a parameter: the meta gradient in the metric of the AdamW step that was just taken.

    `clipped` is the gradient as that step saw it. Entries that no gradient ever touched get 0. Others are treated as
    if their root second moment were at least `floor` times the root mean square of their tensor's; with 0 it is exact.
    """
    groups, done = grouped(parameters, optimiser)
    return [
        _bent(v, gradient, optimiser.state[p], done[p], groups[p], floor, process_group)
        if p in done
        else torch.zeros_like(v)
        for p, v, gradient in zip(parameters, meta_gradients, clipped, strict=True)
    ]


def through_clip(
    towards: Sequence[Tensor],
    clipped: Sequence[Tensor],
    norm: float,
    clip: float | None,
    process_group: ProcessGroup = ALONE,
) -> list[Tensor]:
    """C^T x, C the derivative of clipping a gradient of this norm, which `clipped` was made of; in place."""
    bent = derivative_of_clip(norm, clip)
    if bent is None:
        return list(towards)
    shrink, bend = bent
    # The rule is for the gradient before it was shrunk.
    product = torch.tensor(dot(clipped, towards), dtype=torch.float64)
    along = bend / shrink**2 * float(process_group.across(product))
    return [part.mul_(shrink).sub_(gradient, alpha=along) for part, gradient in zip(towards, clipped, strict=True)]
