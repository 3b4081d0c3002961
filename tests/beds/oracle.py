"""Slow and exact ways to the same hypergradients, to hold the fast ones against: for tests and comparisons.

`exact_direction` has all of J and C^T (both at the step that was really taken); `forward_mode` gives all inner products
with a direction by dual numbers; `finite_difference` is the rule of the original DreamPRM code (Betty's `darts`):
identity metric, the lower losses at phi +- epsilon v; `sama_direction` is the metric of Betty's other solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.attention
from torch import Tensor

from prm.bilevel.ghost import RowLayout
from prm.bilevel.hypergradient import dot


@dataclass(frozen=True)
class AdamStep:
    """One AdamW step: hyper-parameters, its number (from 1), moments before it, and the unclipped gradient."""

    lr: float
    betas: tuple[float, float]
    epsilon: float
    number: int
    first: Sequence[Tensor]
    second: Sequence[Tensor]
    gradient: Sequence[Tensor]
    clip: float | None


def _shrink(step: AdamStep) -> tuple[float, float]:
    """Norm of the gradient and the factor that clipping puts on it (torch's rule)."""
    norm = dot(step.gradient, step.gradient) ** 0.5
    return norm, 1.0 if step.clip is None else min(1.0, step.clip / (norm + 1e-6))


def adam_direction(step: AdamStep, meta_gradients: Sequence[Tensor]) -> list[Tensor]:
    """Lr J v, with J the whole elementwise derivative of Adam's update at the clipped gradient."""
    (b1, b2), t = step.betas, step.number
    _, shrink = _shrink(step)
    scaled = []
    for m0, s0, g, v in zip(step.first, step.second, step.gradient, meta_gradients, strict=True):
        clipped = shrink * g
        m, s = b1 * m0 + (1 - b1) * clipped, b2 * s0 + (1 - b2) * clipped**2
        root = (s / (1 - b2**t)).sqrt()
        whole = root + step.epsilon
        slope = (1 - b1) / ((1 - b1**t) * whole)
        bend = m * (1 - b2) * clipped / ((1 - b1**t) * (1 - b2**t) * root * whole**2)
        scaled.append(step.lr * torch.where(root > 0, slope - bend, 0.0) * v)
    return scaled


def exact_direction(step: AdamStep, meta_gradients: Sequence[Tensor]) -> list[Tensor]:
    """C^T (lr J v) with v the meta gradient after the step; dL/dw_k = -<result, g_k>."""
    scaled = adam_direction(step, meta_gradients)
    norm, shrink = _shrink(step)
    if step.clip is None or shrink == 1.0:
        return scaled
    along = step.clip / (norm * (norm + 1e-6) ** 2) * dot(step.gradient, scaled)
    return [shrink * x - along * g for x, g in zip(scaled, step.gradient, strict=True)]


def finite_difference(
    parameters: Sequence[Tensor],
    meta_gradients: Sequence[Tensor],
    domain_losses: Callable[[], Sequence[float]],
    size: float = 0.01,
) -> list[float]:
    """-(l_k(phi + e v) - l_k(phi - e v)) / 2e for each domain, e = `size` / ||v||; phi is put back."""
    epsilon = size / max(dot(meta_gradients, meta_gradients) ** 0.5, 1e-30)
    before = [p.detach().clone() for p in parameters]
    ends = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for parameter, start, v in zip(parameters, before, meta_gradients, strict=True):
                parameter.copy_(start + sign * epsilon * v)
            ends.append(list(domain_losses()))
        for parameter, start in zip(parameters, before, strict=True):
            parameter.copy_(start)
    return [-(above - below) / (2 * epsilon) for above, below in zip(*ends, strict=True)]


def sama_direction(step: AdamStep, meta_gradients: Sequence[Tensor]) -> list[Tensor]:
    """The metric of Betty's SAMA (arXiv 2310.05674): d(Adam's update)/dg without bias correction and without clipping.

    lr ((1 - b1) b2 s0 - b1 (1 - b2) g m0) / (sqrt(s) + e)^3, elementwise on v, s the second moment after the step.
    """
    (b1, b2), scaled = step.betas, []
    for m0, s0, g, v in zip(step.first, step.second, step.gradient, meta_gradients, strict=True):
        whole = (b2 * s0 + (1 - b2) * g**2).sqrt() + step.epsilon
        scale = ((1 - b1) * b2 * s0 - b1 * (1 - b2) * g * m0) / whole**3
        scaled.append(step.lr * torch.where(s0 > 0, scale, 0.0) * v)
    return scaled


class _Called(torch.nn.Module):  # type: ignore[misc]
    """A function of a module as a module, so that its parameters can be put in from outside."""

    def __init__(self, module: Any, function: Callable[[], Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self) -> Tensor:
        return self.function()


def forward_mode(module: Any, towards: Mapping[str, Tensor], losses: Callable[[], Tensor]) -> Tensor:
    """<D, grad l_i> of every entry of `losses()` [n] in one forward, by dual numbers.

    `towards` is D by the names of the module's parameters, which `losses` has to use. Attention is the plain one of
    torch (`math`): the fast kernels have no forward derivative.
    """
    called = _Called(module, losses)
    start = {f"module.{name}": module.get_parameter(name).detach() for name in towards}

    def at(parameters: Mapping[str, Tensor]) -> Tensor:
        return torch.func.functional_call(called, parameters, ())

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slopes = torch.func.jvp(at, (start,), ({f"module.{name}": part for name, part in towards.items()},))
    return slopes


def batch_first(*inputs, **named) -> RowLayout:
    """The layout of a module whose first input is [rows, ...] and whose inner ones are, too."""
    return RowLayout(len(next(iter((*inputs, *named.values())))))
