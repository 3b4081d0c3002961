"""Domain weights: positive, mean 1, and how a gradient on them becomes one on their raw parameters (DreamPRM).

w_k = K softplus(a_k) / sum_j softplus(a_j), so all start at 1 when the raw a are 0. Float64 throughout: there are only
K of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import softplus

Tensor = Any
State = dict[str, Tensor]
Count = int | Tensor
# Hypergradients carry the lower learning rate, so Adam's usual 1e-8 would drown them; this only keeps 0 / 0 away.
_NOTHING = 1e-100


def domain_weights(raw: Tensor) -> Tensor:
    """Weights [K], positive with mean 1, from raw parameters [K]."""
    positive = softplus(raw)
    return positive / positive.mean()


def pull_back(raw: Tensor, gradient: Tensor) -> Tensor:
    """(dw/da)^T gradient, [K]: dw_j/da_k = sigmoid(a_k) / mean softplus(a) * (delta_jk - w_j / K)."""
    weights = domain_weights(raw)
    return torch.sigmoid(raw) / softplus(raw).mean() * (gradient - (gradient * weights).mean())


def averaged(state: State, gradient: Tensor, number: Count, decay: float) -> Tensor:
    """Bias-corrected moving average of a gradient, kept in `state` as `average`; with decay 0 the gradient itself.

    `number` counts this one, from 1: for all entries together, or for each by itself.
    """
    state["average"] = decay * state["average"] + (1 - decay) * gradient
    return state["average"] / (1 - decay**number)


def adam_change(state: State, gradient: Tensor, number: Count, lr: float, betas: tuple[float, float]) -> Tensor:
    """What Adam's step number `number` (from 1) subtracts; brings the moments `m` and `s` of `state` up to date."""
    first, second = betas
    state["m"] = first * state["m"] + (1 - first) * gradient
    state["s"] = second * state["s"] + (1 - second) * gradient**2
    m = state["m"] / (1 - first**number)
    s = state["s"] / (1 - second**number)
    return lr * m / (s.sqrt() + _NOTHING)


class UpperAdam:
    """Moving average of the hypergradient, then Adam, on K raw parameters. Its whole state is in `state`."""

    def __init__(self, count: int, lr: float, betas: tuple[float, float], ema: float) -> None:
        self.lr, self.betas, self.ema = lr, betas, ema
        self.state = {name: torch.zeros(count, dtype=torch.float64) for name in ("raw", "average", "m", "s")}
        self.updates = 0

    @property
    def raw(self) -> Tensor:
        """Raw parameters, [K]."""
        return self.state["raw"]

    @property
    def weights(self) -> Tensor:
        """Domain weights, [K]."""
        return domain_weights(self.raw)

    def update(self, gradient: Tensor) -> None:
        """One step against `gradient` = d meta loss / d weight, [K]."""
        self.updates += 1
        smooth = averaged(self.state, gradient, self.updates, self.ema)
        change = adam_change(self.state, pull_back(self.raw, smooth), self.updates, self.lr, self.betas)
        self.state["raw"] = self.raw - change
