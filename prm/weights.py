"""Domain weights: positive, mean 1, and how a gradient on them becomes one on their raw parameters (DreamPRM).

w_k = K softplus(a_k) / sum_j softplus(a_j), so all start at 1 when the raw a are 0. Float64 throughout: there are only
K of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import softplus

Tensor = Any
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
        state, (first, second), self.updates = self.state, self.betas, self.updates + 1
        state["average"] = self.ema * state["average"] + (1 - self.ema) * gradient
        smooth = state["average"] / (1 - self.ema**self.updates)
        pulled = pull_back(self.raw, smooth)
        state["m"] = first * state["m"] + (1 - first) * pulled
        state["s"] = second * state["s"] + (1 - second) * pulled**2
        m = state["m"] / (1 - first**self.updates)
        s = state["s"] / (1 - second**self.updates)
        state["raw"] = self.raw - self.lr * m / (s.sqrt() + _NOTHING)
