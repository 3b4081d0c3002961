"""How many completions each prefix gets, decided before any of them is seen. Pure.

Cheap late prefixes serve all earlier labels too, so a prefix gets completions in proportion to 1 / sqrt(tokens that one
costs), and problems whose other rollouts disagree get more: sqrt(a (1 - a)) with a their share of right answers. How
much of a chain is left after step i is what other chains that came past step i had left. All of it is known at the
prefix and independent of this rollout's own outcome and length, which keeps labels unbiased.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curate.seeds import rng
from curate.stages import monte_carlo

# Prefixes that are looked at together when a factor is sought.
_BLOCK = 65_536
# So many chains the rest of the domain counts as, beside the other rollouts of the problem.
DOMAIN_WEIGHT = 2


def _left(lengths: Mapping[int, int], step: int) -> tuple[float, int]:
    """(steps left after `step` in all chains that came past it, how many did); `lengths` counts chains by steps."""
    past = {steps: count for steps, count in lengths.items() if steps > step + 1}
    return sum((steps - step - 1) * count for steps, count in past.items()), sum(past.values())


@dataclass(frozen=True)
class Siblings:
    """What other rollouts say: how often those of the problem are right (smoothed), and how chains go on.

    `lengths` counts the problem's other rollouts by their steps, `domain` the chains of other problems of the domain.
    `per_step` is the mean size of a step and `last` that of a last one, which says the answer, too; in tokens (or
    characters, where an engine does not count tokens).
    """

    right: float = 0.5
    lengths: Mapping[int, int] = field(default_factory=dict)
    domain: Mapping[int, int] = field(default_factory=dict)
    per_step: float = 1.0
    last: float = 1.0

    @classmethod
    def of(
        cls,
        outcomes: Sequence[bool | None],
        sizes: Sequence[Sequence[int]],
        domain: Mapping[int, int] | None = None,
        like: Sequence[float] = (1.0, 1.0),
    ) -> Siblings:
        """From outcomes and step sizes of the problem's other rollouts; never from the rollout itself.

        `like` is the mean size of a step and of a last one in other problems' chains, for a problem without others.
        """
        known = [outcome for outcome in outcomes if outcome is not None]
        right = (sum(known) + 0.5) / (len(known) + 1)
        lasts: Sequence[float] = [each[-1] for each in sizes] or [like[1]]
        others: Sequence[float] = [size for each in sizes for size in each[:-1]] or (lasts if sizes else [like[0]])
        return cls(
            right,
            Counter(map(len, sizes)),
            domain or {},
            max(sum(others) / len(others), 1.0),
            max(sum(lasts) / len(lasts), 1.0),
        )

    @property
    def spread(self) -> float:
        """Variance of one outcome, p (1 - p) of the problem."""
        return self.right * (1 - self.right)

    def left(self, step: int) -> float:
        """Steps that are expected after `step`, which is not the last; at least 1."""
        total, count = _left(self.lengths, step)
        elsewhere, others = _left(self.domain, step)
        if others:
            total, count = total + DOMAIN_WEIGHT * elsewhere / others, count + DOMAIN_WEIGHT
        return total / count if count else 1.0


def cost(siblings: Siblings, step: int) -> float:
    """Tokens that one completion of the prefix that ends with `step` is expected to take."""
    return _cost(siblings, siblings.left(step))


def _cost(siblings: Siblings, left: float) -> float:
    return (left - 1) * siblings.per_step + siblings.last


def pull(siblings: Siblings, step: int) -> float:
    """How much a prefix asks for, before scaling: sqrt(a (1 - a)) / sqrt(cost of one)."""
    return math.sqrt(siblings.spread / cost(siblings, step))


def rate(
    pulls: Sequence[float] | NDArray[np.float64],
    costs: Sequence[float] | NDArray[np.float64] | None,
    goal: float,
    max_completions: int,
) -> float:
    """The factor for which the sum of min(factor * pull, max_completions) * cost over these prefixes is `goal`.

    Without costs the goal is a number of completions, else of tokens. The factor that gives every prefix
    `max_completions` where even that does not reach the goal. Sums go from the first to the last prefix, in double
    precision: the same prefixes in the same order give the same factor to the last bit.
    """
    if not len(pulls):
        return 0.0
    pulled = np.asarray(pulls, np.float64)
    each = None if costs is None else np.asarray(costs, np.float64)
    high = max_completions / float(pulled.min())

    def spent(factor: float) -> float:
        total = 0.0
        for start in range(0, len(pulled), _BLOCK):
            block = slice(start, start + _BLOCK)
            sizes = np.minimum(factor * pulled[block], max_completions)
            total = _sum(total, sizes if each is None else sizes * each[block])
        return total

    # At twice the highest factor no rounding leaves a prefix below `max_completions`.
    if spent(2 * high) <= goal:
        return high
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) >= goal else (middle, high)
    return high


def _sum(start: float, values: NDArray[np.float64]) -> float:
    """One after the other: numpy's own sum goes by pairs, and its last bits with the number of values."""
    return float(np.add.accumulate(np.concatenate([[start], values]))[-1])


def size(expected: float, max_completions: int, *name: object) -> int:
    """A whole number of completions with this mean: rounded up or down by a draw that the prefix's name decides."""
    return min(max_completions, math.floor(expected + rng("size", *name).random()))


def tau(siblings: Siblings, step: int, factor: float, max_completions: int, floor: int = 0) -> float:
    """The pooling share of a step (see `montecarlo.shares`) when its chain goes on as others did.

    `factor` and `max_completions` are those of the sizes, `floor` is what every step has at least.
    """
    left = max(round(siblings.left(step)), 1)
    sizes = [
        max(floor, min(max_completions, factor * math.sqrt(siblings.spread / _cost(siblings, left - past))))
        for past in range(left)
    ]
    return monte_carlo.shares(sizes)[0]
