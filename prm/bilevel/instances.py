"""A weight for every single training rollout (DreamPRM-1.5, arXiv 2509.05542): as a table, or by a small network.

Batches draw each domain equally often, so rollout i of domain d stands for the share p_i = 1 / (domains x rollouts of
d) of what training sees. Weights are positive and sum_i p_i w_i = 1: the mean over domains of a domain's mean weight is
1, as it is for domain weights, and all start at 1.

- `RolloutTable`: w_i = softplus(a_i) / sum_j p_j softplus(a_j). The paper clips its table (its code to [-1, 3], which
  lets a rollout be unlearned); these weights cannot turn negative.
- `RolloutNet`: w_i = softplus(f(x_i)) / mean softplus(f), f a network 2 - 10 - 1 as in the paper's code. x_i is what
  the PRM makes of the rollout when its turn comes: mean loss of a labelled step (as in Meta-Weight-Net, arXiv
  1902.07379) and mean step score (the paper's input; its second label probability is 1 less that). x_i is data here:
  in the paper's code it is not detached, so that the PRM can lower its loss by moving the weights. The paper ends in a
  sigmoid; under a mean that is kept at 1 that one has no slope left once all f are large, which nothing holds back.

Both learn from h_i = dL_meta/dw_i of the rollouts in an upper step's batch, which `prm.bilevel.ghost` reads off the
lower backward. Float64 throughout; the whole state of either is in `state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prm.bilevel.weights import adam_change, averaged
from prm.config import RolloutTraining, RolloutUpper, TrainConfig

FEATURES, HIDDEN = 2, 10
_MOMENTS = ("average", "m", "s")
# Of the largest entry of a gradient in float64.
_ROUNDING = 1e-10
_PARAMETERS = FEATURES * HIDDEN + HIDDEN + HIDDEN + 1


class RolloutAccount(NamedTuple):
    """A rollout's weight (null: not known), how often its dot was read, mean and standard deviation of these."""

    rollout_id: str
    weight: float | None
    reads: int
    dot: float | None
    dot_deviation: float | None


class RolloutWeights(ABC):
    """What the table and the network share: which rollouts there are, and the account of their dots.

    `groups` maps a domain to its rollouts. State: `reads`, `dots`, `squares` [rollouts], over upper steps.
    """

    featured = False
    """Whether weights depend on what the PRM makes of a rollout when its turn comes."""

    def __init__(self, groups: Mapping[str, Sequence[str]], config: RolloutUpper) -> None:
        self.config, self.updates = config, 0
        self.groups = {domain: sorted(set(names)) for domain, names in sorted(groups.items())}
        self.names = [name for names in self.groups.values() for name in names]
        self._place = {name: place for place, name in enumerate(self.names)}
        sizes = torch.tensor([len(names) for names in self.groups.values()])
        self._domain = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self._share = (1 / (len(sizes) * sizes.double()))[self._domain]
        self.state: dict[str, Tensor] = {name: self._nothing() for name in ("reads", "dots", "squares")}

    def _nothing(self, *more: int) -> Tensor:
        return torch.zeros(len(self.names), *more, dtype=torch.float64)

    def places(self, names: Sequence[str]) -> Tensor:
        """Row of each name in the state's tensors, [n]."""
        return torch.tensor([self._place[name] for name in names])

    def _merged(self, names: Sequence[str], values: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the rollouts among these, each once, and the sum of each one's values."""
        places, inverse = self.places(names).unique(return_inverse=True)
        return places, torch.zeros(len(places), dtype=torch.float64).index_add(0, inverse, values)

    @abstractmethod
    def factors(self, names: Sequence[str], features: Tensor | None = None) -> Tensor:
        """What the losses of these rollouts are multiplied by, [n]; their weights but for the factor of `settle`.

        `features` [n, 2] are of the rollouts' forward, for weights that are `featured`.
        """

    def settle(self, names: Sequence[str], features: Tensor | None = None) -> float:
        """What the gradient of a whole batch has to be multiplied by; `names` and `features` are of all its forwards,
        in their order. Weights that are `featured` keep these features as what was last seen of the rollouts.
        """
        return 1.0

    @abstractmethod
    def all_weights(self) -> Tensor:
        """Weight of every rollout, [rollouts] in the order of `names`; NaN where it is not known yet."""

    @abstractmethod
    def _learn(self, names: Sequence[str], gradient: Tensor) -> None:
        """Move the weights against `gradient`, d meta loss / d weight of each of these rollouts."""

    def update(self, names: Sequence[str], dots: Sequence[float]) -> None:
        """One upper step: `dots` are -dL_meta/dw of each rollout of the batch; a rollout may be in it twice."""
        self.updates += 1
        found = torch.tensor(dots, dtype=torch.float64)
        places, total = self._merged(names, found)
        for name, amount in (("reads", torch.ones_like(total)), ("dots", total), ("squares", total.square())):
            self.state[name] = self.state[name].index_add(0, places, amount)
        self._learn(names, -found)

    def domain_means(self) -> dict[str, float]:
        """Mean weight of each domain's rollouts, of those that are known; 1 before any is."""
        weights = self.all_weights()
        means = {}
        for place, domain in enumerate(self.groups):
            mean = weights[self._domain == place].nanmean().item()
            means[domain] = mean if mean == mean else 1.0
        return means

    def account(self) -> list[RolloutAccount]:
        """One record a rollout."""
        reads, total, squares = (self.state[name] for name in ("reads", "dots", "squares"))
        mean = total / reads
        spread = ((squares - reads * mean.square()).clamp(min=0) / (reads - 1)).sqrt()
        columns = (
            self.names,
            [weight if weight == weight else None for weight in self.all_weights().tolist()],
            [int(count) for count in reads.tolist()],
            [value if value == value else None for value in mean.tolist()],
            [v if n > 1 else None for v, n in zip(spread.tolist(), reads.tolist(), strict=True)],
        )
        return [RolloutAccount(*row) for row in zip(*columns, strict=True)]


class RolloutTable(RolloutWeights):
    """A raw parameter a rollout. State: `raw`, `average`, `m`, `s` [rollouts].

    Only rollouts of the batch are moved, each by an Adam of its own that counts how often that was: a shared one would
    go on moving the others by their old momentum. The gradient through the mean is taken from the batch, as the sample
    of all rollouts that it is: what all have in common moves none.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], config: RolloutUpper) -> None:
        super().__init__(groups, config)
        self.state |= {name: self._nothing() for name in ("raw", *_MOMENTS)}

    def _mean(self) -> Tensor:
        return (self._share * softplus(self.state["raw"])).sum()

    def factors(self, names: Sequence[str], features: Tensor | None = None) -> Tensor:
        """The weights of these rollouts, [n]."""
        return softplus(self.state["raw"][self.places(names)]) / self._mean()

    def all_weights(self) -> Tensor:
        """Weight of every rollout, [rollouts]."""
        return softplus(self.state["raw"]) / self._mean()

    def _learn(self, names: Sequence[str], gradient: Tensor) -> None:
        weights = self.all_weights()[self.places(names)]
        common = (gradient * weights).sum() / weights.sum()
        places, centred = self._merged(names, gradient - common)
        pulled = torch.sigmoid(self.state["raw"][places]) / self._mean() * centred
        here, config = {name: self.state[name][places] for name in _MOMENTS}, self.config
        number = self.state["reads"][places]
        smooth = averaged(here, pulled, number, config.ema)
        change = adam_change(here, smooth, number, config.rate, config.betas)
        for name, value in (here | {"raw": self.state["raw"][places] - change}).items():
            self.state[name] = self.state[name].index_copy(0, places, value)


class RolloutNet(RolloutWeights):
    """A network from what the PRM makes of a rollout to its weight.

    State: `raw`, `average`, `m`, `s` [parameters], and `features` [rollouts, 2] as they were last seen (NaN: never).
    """

    featured = True

    def __init__(self, groups: Mapping[str, Sequence[str]], config: RolloutUpper, seed: int) -> None:
        super().__init__(groups, config)
        draw = torch.randn(_PARAMETERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # The last layer starts at 0, so that all weights start at 1.
        draw[-(HIDDEN + 1) :] = 0
        self.state |= {name: torch.zeros_like(draw) for name in _MOMENTS} | {"raw": draw}
        self.state["features"] = torch.full_like(self._nothing(FEATURES), torch.nan)

    @staticmethod
    def _values(raw: Tensor, features: Tensor) -> Tensor:
        """softplus(f(x)), [n], of features [n, 2]."""
        first, bias, last, shift = raw.split([FEATURES * HIDDEN, HIDDEN, HIDDEN, 1])
        inner = torch.tanh(features @ first.view(FEATURES, HIDDEN) + bias)
        return softplus(inner @ last + shift)

    def factors(self, names: Sequence[str], features: Tensor | None = None) -> Tensor:
        """softplus(f) of rollouts with these features, [n]."""
        assert features is not None  # noqa: S101
        return self._values(self.state["raw"], features)

    def settle(self, names: Sequence[str], features: Tensor | None = None) -> float:
        """1 / mean softplus(f) of the batch; keeps its features."""
        assert features is not None  # noqa: S101
        self.state["features"] = self.state["features"].index_copy(0, self.places(names), features)
        return 1 / float(self._values(self.state["raw"], self._batch(names)).mean())

    def _batch(self, names: Sequence[str]) -> Tensor:
        return self.state["features"][self.places(names)]

    def all_weights(self) -> Tensor:
        """Weight that the network gives now to every rollout as it was last seen, [rollouts]; NaN: never seen."""
        values = self._values(self.state["raw"], self.state["features"])
        seen = ~values.isnan()
        share = self._share[seen]
        return values / ((share * values[seen]).sum() / share.sum()) if seen.any() else values

    def _learn(self, names: Sequence[str], gradient: Tensor) -> None:
        raw = self.state["raw"].clone().requires_grad_()
        values = self._values(raw, self._batch(names))
        (pulled,) = torch.autograd.grad((gradient * values / values.mean()).sum(), raw)
        # What moves all weights alike has no gradient but for rounding, of which Adam would make a whole step.
        pulled = torch.where(pulled.abs() > _ROUNDING * pulled.abs().max(), pulled, 0.0)
        smooth = averaged(self.state, pulled, self.updates, self.config.ema)
        change = adam_change(self.state, smooth, self.updates, self.config.rate, self.config.betas)
        self.state["raw"] = self.state["raw"] - change


def rollout_weights(config: TrainConfig, groups: Mapping[str, Sequence[str]], seed: int) -> RolloutWeights | None:
    """Make what learns the weights of rollouts in this mode of training; None where none are learned."""
    if not isinstance(config, RolloutTraining):
        return None
    if config.mode == "instance-table":
        return RolloutTable(groups, config.upper)
    return RolloutNet(groups, config.upper, seed)
