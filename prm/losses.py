"""Losses of the two levels.

Lower level: a rollout's loss is the SUM over its labelled steps of weight x loss(score, label); a batch's loss is
sum over domains of (domain weight) x (sum over the domain's rollouts) / (rollouts in the batch). The divisor does not
depend on the domain weights, so no centring of the hypergradient is needed. With equally many rollouts of each domain
this is the mean over domains of weight x mean loss of a rollout. DreamPRM's rows are single prefixes; one rollout here
carries all its prefixes, hence sum and not mean.

Upper level, averaged over the items of the meta batch (`prm.data.meta`), A being the aggregated logit of a rollout:
either (sigmoid(A) - r)^2 with r its outcome, 0 or 1 (DreamPRM), or sigmoid(A_wrong - A_right) for two rollouts of a
problem. `prm.loss_table` names both levels' losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from prm.loss_table import STEP_LOSSES


# Both are least in expectation at the true probability.
def mse(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared error of each step's score against its label, [N], from logits [N] and labels [N] in [0, 1]."""
    return (torch.sigmoid(logits) - labels) ** 2


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each step's score and its label, [N], from logits [N] and labels [N] in [0, 1]."""
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")


@dataclass(frozen=True)
class Targets:
    """What the read steps of several rollouts are trained towards, one entry a logit, rollout by rollout.

    `owners` [N] int64 is each step's rollout by its place, `labels` [N] in [0, 1], `weights` [N]; a step without label
    has weight 0.
    """

    owners: Tensor
    labels: Tensor
    weights: Tensor
    rollouts: int

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int | None], Sequence[float | None], Sequence[float]]]) -> Targets:
        """From (reads, values, weights) of each rollout, one entry a step; a step with null `reads` has no logit."""
        owners, labels, weights = [], [], []
        for place, row in enumerate(rows):
            for read, value, weight in zip(*row, strict=True):
                if read is not None:
                    owners.append(place)
                    labels.append(0.5 if value is None else value)
                    weights.append(0.0 if value is None else weight)
        real = torch.float64
        labelled, weighted = torch.tensor(labels, dtype=real), torch.tensor(weights, dtype=real)
        return cls(torch.tensor(owners), labelled, weighted, len(rows))

    def to(self, logits: Tensor) -> Targets:
        """Move the targets to where the logits are, in their precision."""
        owners = to_device(self.owners, logits.device)
        labels, weights = (to_device(part.to(logits.dtype), logits.device) for part in (self.labels, self.weights))
        return Targets(owners, labels, weights, self.rollouts)


def to_device(values: Tensor, device: Any) -> Tensor:
    """`values` on the device; a GPU that is busy is not waited for."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def rollout_losses(name: str, logits: Tensor, targets: Targets) -> Tensor:
    """Sum of weighted step losses of each rollout, [rollouts]; `logits` [N] and `targets` are of the same steps.

    A step's loss may differ in the last place with how many steps there are: a processor's vector instructions round
    whole stretches of entries (16 in float32 with AVX2, 32 with AVX-512) otherwise than the rest. A batch that is cut
    into other forwards, or another kind of processor, gives the same gradient to rounding and not bit for bit.
    """
    losses: Tensor = targets.weights * STEP_LOSSES.find(name)(logits, targets.labels)
    return losses.new_zeros(targets.rollouts).index_add(0, targets.owners, losses)


def outcome_loss(score_logit: Tensor, outcome: bool) -> Tensor:
    """Squared error of a rollout's score against its outcome, a scalar."""
    return (torch.sigmoid(score_logit) - float(outcome)) ** 2


def pair_loss(right_logit: Tensor, wrong_logit: Tensor) -> Tensor:
    """How far a wrong rollout's score is above a right one's, in (0, 1), a scalar: sigmoid(A_wrong - A_right).

    Averaged over pairs this is a smooth form of the share of pairs in the wrong order (1 - AUC within problems).
    """
    return torch.sigmoid(wrong_logit - right_logit)
