"""Domain weights: positive, mean 1, and how a gradient on them becomes one on their raw parameters (DreamPRM).

All start at 1, where the raw parameters are 0. Float64 throughout: there are only K of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prm.config import AdamUpper, UpperConfig

State = dict[str, Tensor]
Count: TypeAlias = int | Tensor
# A mirrored weight stays above exp(-this) of the heaviest. The running dot divides by it: at 1e-4 float32's rounding of
# the sum is still small beside a domain's part in it, and a domain can come back.
_DEEPEST = 9.2
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


class Upper(ABC):
    """Domain weights and the rule that they are learned by. Its whole state is in `state`; `raw` [K] begin at 0."""

    def __init__(self, count: int, lr: float, ema: float) -> None:
        self.lr, self.ema = lr, ema
        self.state = {name: torch.zeros(count, dtype=torch.float64) for name in ("raw", "average")}
        self.updates = 0

    @property
    def raw(self) -> Tensor:
        """Raw parameters, [K]."""
        return self.state["raw"]

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Domain weights, [K]."""

    @abstractmethod
    def _change(self, gradient: Tensor) -> Tensor:
        """What is subtracted from the raw parameters for this (averaged) d meta loss / d weight, [K]."""

    def update(self, gradient: Tensor) -> None:
        """One step against `gradient` = d meta loss / d weight, [K]."""
        self.updates += 1
        self.state["raw"] = self.raw - self._change(averaged(self.state, gradient, self.updates, self.ema))


class UpperAdam(Upper):
    """DreamPRM's rule: Adam on the raw parameters under softplus. Every domain moves at about the same pace, however
    large its hypergradient is.
    """

    def __init__(self, count: int, lr: float, betas: tuple[float, float], ema: float) -> None:
        super().__init__(count, lr, ema)
        self.betas = betas
        self.state |= {name: torch.zeros(count, dtype=torch.float64) for name in ("m", "s")}

    @property
    def weights(self) -> Tensor:
        """w_k = K softplus(a_k) / sum_j softplus(a_j), [K]."""
        return domain_weights(self.raw)

    def _change(self, gradient: Tensor) -> Tensor:
        return adam_change(self.state, pull_back(self.raw, gradient), self.updates, self.lr, self.betas)


class UpperMirror(Upper):
    """Mirror descent on the simplex, which is multiplicative (as in DoGE, arXiv 2310.15393, and DoReMi, 2305.10429):
    w_k is multiplied by exp(-lr U h_k), and all are scaled to mean 1. The raw parameters are log weights.

    -U h_k is what the domain's gradient, with weight 1, is expected to take off the meta loss in the U lower steps up
    to the next update. So a log weight is `lr` times the meta loss that a domain took off so far; nothing is scaled by
    how large hypergradients happen to be, and a domain without effect, or a meta set without signal, moves no weight.
    """

    def __init__(self, count: int, lr: float, ema: float, unroll: int) -> None:
        super().__init__(count, lr, ema)
        self.unroll = unroll

    @property
    def weights(self) -> Tensor:
        """w_k = K exp(a_k) / sum_j exp(a_j), [K]."""
        return len(self.raw) * torch.softmax(self.raw, dim=0)

    def _change(self, gradient: Tensor) -> Tensor:
        return self.lr * self.unroll * gradient

    def update(self, gradient: Tensor) -> None:
        """One step against `gradient`; no weight falls below 1e-4 of the heaviest."""
        super().update(gradient)
        self.state["raw"] = self.raw.clamp(min=float(self.raw.max()) - _DEEPEST)


def upper_rule(config: UpperConfig, count: int) -> Upper:
    """The rule of `upper.rule`, for so many domains."""
    if isinstance(config, AdamUpper):
        return UpperAdam(count, config.rate, config.betas, config.ema)
    return UpperMirror(count, config.rate, config.ema, config.unroll)
