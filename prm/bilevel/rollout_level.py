"""The lower backward with a weight for every rollout, and <D, g_i> of all of them out of it.

On an upper step the joint backward of an ordinary one is taken with ghost probes: about one unit more next to its three
(a forward is one). Where the gradient was clipped and `upper.clipped` is `correct`, the clip's derivative needs
<g, g_i> too, and g is known only now: one more forward of the batch and a backward that makes no gradients. `skip` or
`ignore` save that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prm.bilevel.ghost import Ghost
from prm.bilevel.hypergradient import derivative_of_clip, dot, gradients
from prm.bilevel.instances import RolloutWeights

# Makes the features [n, 2] of the rows of one forward: mean loss of a labelled step, mean step score.
Features = Callable[[], Tensor]


class RowObjective(Protocol):
    """What a loss for each rollout needs: losses by name as `prm.bilevel.loop.Objective` has them, also with the
    features of their rows, and a ghost.
    """

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]: ...
    def featured_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor, Features]]: ...
    def ghost(self, parameters: Sequence[Tensor], towards: Sequence[Tensor]) -> Ghost: ...


@dataclass(frozen=True)
class Seen:
    """One rollout of a batch: its loss, and <D, g_i> with g_i the gradient of loss / rollouts in the batch."""

    name: str
    loss: float
    dot: float


class RolloutLevel:
    """Backwards of one run; the weights are those of `weights`, and gradients end in `parameters`."""

    def __init__(self, objective: RowObjective, parameters: Sequence[Tensor], weights: RolloutWeights) -> None:
        self.objective, self.parameters, self.weights = objective, list(parameters), weights

    def backward(self, names: Sequence[str], towards: Sequence[Tensor] | None = None) -> list[Seen]:
        """Add the gradient of the weighted mean loss of a whole batch; dots are 0 without `towards`."""
        ghost = None if towards is None else self.objective.ghost(self.parameters, towards)
        seen, taken, features = [], [], list[Tensor]()
        with ghost or nullcontext():
            for part, losses, features_of in self.objective.featured_losses(names):
                of_part = features_of().double().cpu() if self.weights.featured else None
                features += [] if of_part is None else [of_part]
                factors = self.weights.factors(part, of_part)
                ((factors.to(losses) * losses).sum() / len(names)).backward()
                products = [0.0] * len(part) if ghost is None else ghost.take()
                taken += products
                # A weight that is rounded to 0 hides its rollout from this backward.
                dots = [p / f if f else 0.0 for p, f in zip(products, factors.tolist(), strict=True)]
                seen += [Seen(*row) for row in zip(part, losses.tolist(), dots, strict=True)]
        if ghost is not None:
            ghost.check(sum(taken), sum(map(abs, taken)))
        factor = self.weights.settle([one.name for one in seen], torch.cat(features) if features else None)
        if factor != 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)
        return seen

    def settled(
        self, seen: Sequence[Seen], towards: Sequence[Tensor], clip: float | None, how: str
    ) -> list[tuple[str, float]] | None:
        """Names and <D, C g_i> of a batch that went backward, C the derivative of clipping its gradient.

        `how` is `upper.clipped`. Call before the gradient is clipped; None when it will be and that step is skipped.
        """
        plain = [(one.name, one.dot) for one in seen]
        total = gradients(self.parameters)
        bent = derivative_of_clip(dot(total, total) ** 0.5, clip)
        if bent is None or how == "ignore":
            return plain
        if how == "skip":
            return None
        shrink, bend = bent
        whole, along = dot(towards, total), self._along([one.name for one in seen], total)
        return [(name, shrink * q - bend * whole * a) for (name, q), a in zip(plain, along, strict=True)]

    def _along(self, names: Sequence[str], total: Sequence[Tensor]) -> list[float]:
        """<g, g_i> of each rollout, g the whole gradient. `names` as they came, so that they come so again."""
        found: list[float] = []
        with self.objective.ghost(self.parameters, total) as ghost:
            for _, losses in self.objective.train_losses(names):
                found += ghost.of(losses.sum() / len(names))
        return found
