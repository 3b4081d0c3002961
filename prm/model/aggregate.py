"""Step scores to one rollout score, by name. Everything starts from logits, so that a saturated score loses nothing.

`A` below is a logit: the rollout's score is sigmoid(A). For sums and means of log-odds it is what the name says
(DreamPRM's paper sums, its code takes the mean); for the others it is the logit of the aggregated probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prm.aggregations import AGGREGATIONS


@dataclass(frozen=True)
class Aggregation:
    """One way to make the score of a rollout.

    `logit` takes the step logits of one rollout, [steps] with at least one, and gives the logit A of its score, a
    scalar with a gradient. `formula` says the same in step scores s, for people.
    """

    formula: str
    logit: Callable[[Tensor], Tensor]

    def __call__(self, logits: Tensor) -> Tensor:
        """The logit of a rollout's score, from its step logits [steps]."""
        return self.logit(logits)


def log_odds_of(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, for p in (0, 1); p below 1 by less than a rounding counts as that rounding."""
    tiny = torch.finfo(log_probability.dtype).eps
    log_probability = log_probability.clamp(max=-tiny)
    return log_probability - torch.log(-torch.expm1(log_probability))


def _mean(logits: Tensor) -> Tensor:
    return torch.logsumexp(logsigmoid(logits), 0) - torch.logsumexp(logsigmoid(-logits), 0)


MEAN_LOG_ODDS = Aggregation("sigmoid(mean(log(s / (1 - s))))", lambda logits: logits.mean())
SUM_LOG_ODDS = Aggregation("sigmoid(sum(log(s / (1 - s))))", lambda logits: logits.sum())
MEAN = Aggregation("mean(s)", _mean)
MIN = Aggregation("min(s)", lambda logits: logits.min())
MAX = Aggregation("max(s)", lambda logits: logits.max())
LAST = Aggregation("s of the last step", lambda logits: logits[-1])
PRODUCT = Aggregation("product(s)", lambda logits: log_odds_of(logsigmoid(logits).sum()))


def aggregation(name: str) -> Aggregation:
    """The aggregation of this name; UserError with the nearest one when there is none."""
    found: Aggregation = AGGREGATIONS.find(name)
    return found


def rollout_logit(scores: Sequence[float | None], aggregate: Aggregation) -> float | None:
    """The logit of a rollout's score from its stored step scores; null where one is missing, or all are."""
    if not scores or None in scores:
        return None
    values = torch.tensor(scores, dtype=torch.float64)
    return float(aggregate(torch.logit(values, eps=torch.finfo(torch.float64).eps)))
