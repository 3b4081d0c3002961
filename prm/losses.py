"""Losses of the two levels.

Lower level: a rollout's loss is the SUM over its labelled steps of weight x loss(score, label); a batch's loss is
sum over domains of (domain weight) x (sum over the domain's rollouts) / (rollouts in the batch). The divisor does not
depend on the domain weights, so no centring of the hypergradient is needed. With equally many rollouts of each domain
this is the mean over domains of weight x mean loss of a rollout. DreamPRM's rows are single prefixes; one rollout here
carries all its prefixes, hence sum and not mean.

Upper level, averaged over the items of the meta batch (`prm.meta`), A being the aggregated logit of a rollout: either
(sigmoid(A) - r)^2 with r its outcome, 0 or 1 (DreamPRM), or sigmoid(A_wrong - A_right) for two rollouts of a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

Tensor = Any


def _mse(logits: Tensor, values: Tensor) -> Tensor:
    return (torch.sigmoid(logits) - values) ** 2


def _bce(logits: Tensor, values: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, values, reduction="none")


# Loss of each step, from logits and labels in [0, 1]. Both are least in expectation at the true probability.
STEP_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": _mse, "bce": _bce}


def rollout_loss(
    name: str,
    logits: Tensor,
    reads: Sequence[int | None],
    values: Sequence[float | None],
    weights: Sequence[float],
) -> Tensor:
    """Sum of weighted step losses of one rollout, a scalar.

    `logits` [read steps] belong to the steps whose `reads` is not null, in order. A step without label is masked.
    """
    read = [index for index, position in enumerate(reads) if position is not None]
    labels = [values[index] for index in read]
    keep = [place for place, label in enumerate(labels) if label is not None]
    if not keep:
        return logits.sum() * 0.0
    target = logits.new_tensor([labels[place] for place in keep])
    weight = logits.new_tensor([weights[read[place]] for place in keep])
    return (weight * STEP_LOSSES[name](logits[keep], target)).sum()


def outcome_loss(score_logit: Tensor, outcome: bool) -> Tensor:
    """Squared error of a rollout's score against its outcome, a scalar."""
    return (torch.sigmoid(score_logit) - float(outcome)) ** 2


def pair_loss(right_logit: Tensor, wrong_logit: Tensor) -> Tensor:
    """How far a wrong rollout's score is above a right one's, in (0, 1), a scalar: sigmoid(A_wrong - A_right).

    Averaged over pairs this is a smooth form of the share of pairs in the wrong order (1 - AUC within problems).
    """
    return torch.sigmoid(wrong_logit - right_logit)
