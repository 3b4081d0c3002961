"""Counts to step labels: the estimators of Monte Carlo labelling. Pure.

p_i = P(right answer | problem and steps 0..i), estimated from completions of the prefix that are right or wrong
(Math-Shepherd, arXiv 2312.08935; DreamPRM, arXiv 2505.20241, section 3).

The chain-pooled estimator (`pooled`) uses that a rollout drawn from the completing policy is a martingale: whatever is
sampled later, and the rollout's own outcome, has p_i as its mean given the prefix, so it may be pooled into the label
of step i. It stays unbiased for every prefix as long as the pooling weights are known at the prefix: they come from a
nominal chain, never from the chain's own length or outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepLabel:
    """Value in [0, 1] and its standard error; None where undefined, the error also where it has none."""

    value: float | None
    standard_error: float | None


UNDEFINED = StepLabel(None, None)


def exact(k: int, m: int, min_graded: int = 1) -> StepLabel:
    """k/m; undefined with fewer than `min_graded` graded completions.

    The standard error uses q = (k + 1/2) / (m + 1) in sqrt(q (1 - q) / m), so that 0 of 4 does not look certain.
    """
    if not 0 <= k <= m:
        raise ValueError(f"{k} right of {m} graded")
    if m < max(min_graded, 1):
        return UNDEFINED
    q = (k + 0.5) / (m + 1)
    return StepLabel(k / m, math.sqrt(q * (1 - q) / m))


def known(outcome: bool | None) -> StepLabel:
    """Label of the last step: the chain is over, so its value is its outcome, without any completion."""
    return UNDEFINED if outcome is None else StepLabel(float(outcome), 0.0)


class Counted(Protocol):
    """A step label with its counts: columns of `step_labels`."""

    @property
    def value(self) -> float | None:
        """In [0, 1]; null where undefined."""
        ...

    @property
    def mode(self) -> str:
        """How it was estimated."""
        ...

    @property
    def m(self) -> int | None:
        """Graded completions; null where they are not known."""
        ...


def defined(label: Counted | None, last: bool, min_graded: int) -> bool:
    """Whether a row of `step_labels` counts as one. Pooled ones may stand on later steps alone, given ones come without
    counts.
    """
    if label is None or label.value is None:
        return False
    return last or label.mode == "pooled" or label.m is None or label.m >= min_graded


def count(outcomes: Sequence[bool | None]) -> tuple[int, int]:
    """(k, m): right and graded; an undecided or failed completion is in neither."""
    graded = [outcome for outcome in outcomes if outcome is not None]
    return sum(graded), len(graded)


# --- any of N --------------------------------------------------------------------------------------------------------

# The first success ends it, so small rounds come first.
HARD_ROUNDS = (1, 1, 2, 4, 8)


def hard_missing(outcomes: Sequence[bool | None], max_completions: int) -> int:
    """How many completions to draw next for "any of `max_completions` is right"; 0 when that is decided."""
    drawn = len(outcomes)
    if any(outcomes) or drawn >= max_completions:
        return 0
    size, reached = HARD_ROUNDS[-1], 0
    for each in HARD_ROUNDS:
        if drawn <= reached:
            size = each
            break
        reached += each
    return min(size, max_completions - drawn)


def hard(outcomes: Sequence[bool | None], max_completions: int) -> StepLabel:
    """1 when any of the first `max_completions` is right, 0 when none is (the hard label of Math-Shepherd).

    No error is given. Stopping at the first success changes no label. Undefined while neither is known.
    """
    if any(outcomes[:max_completions]):
        return StepLabel(1.0, None)
    if len(outcomes) < max_completions or all(outcome is None for outcome in outcomes[:max_completions]):
        return UNDEFINED
    return StepLabel(0.0, None)


# --- DreamPRM's rule -------------------------------------------------------------------------------------------------

LEGACY_LEAST = 4


def legacy_missing(outcomes: Sequence[bool | None], own: bool | None, max_completions: int) -> int:
    """How many completions to draw next by DreamPRM's public code; 0 when it stops.

    The rollout's own outcome is the first sample of each of its steps. Draws go on while there are fewer than
    `LEGACY_LEAST`, and then, up to `max_completions` in all, while right and wrong ones have both been seen.
    """
    drawn = len(outcomes) + 1
    right, graded = count([own, *outcomes])
    if drawn < LEGACY_LEAST:
        return min(LEGACY_LEAST, max_completions) - drawn
    return int(drawn < max_completions and 0 < right < graded)


def legacy(outcomes: Sequence[bool | None], own: bool | None, max_completions: int) -> StepLabel:
    """k/t of that rule, biased by up to 0.05 because it stops by what it has seen; undefined before it stops.

    Kept for comparison with published labels.
    """
    for drawn in range(len(outcomes) + 1):
        if legacy_missing(outcomes[:drawn], own, max_completions) == 0:
            return exact(*count([own, *outcomes[:drawn]]))
    return UNDEFINED


# --- pooled over the chain -------------------------------------------------------------------------------------------


def shares(sizes: Sequence[float]) -> list[float]:
    """[N] tau of the last N prefixes of a nominal chain, which have `sizes` completions each in the mean.

    tau_i = Var(V_{i+1} | prefix i) / (p_i (1 - p_i)), when each of the steps that are left resolves an equal part of
    the uncertainty: r = 1 / (steps left), tau_i = min(1, r + (1 - r) v_{i+1}), with v_i = tau_i / (1 + m_i tau_i) the
    variance of the pooled value in the same unit.
    """
    found: list[float] = []
    variance = 1.0
    for left, size in enumerate(reversed(sizes), start=1):
        tau = 1.0 if left == 1 else min(1.0, 1 / left + (1 - 1 / left) * variance)
        variance = tau / (1 + size * tau)
        found.append(tau)
    return found[::-1]


def weights(graded: Sequence[int], taus: Sequence[float]) -> list[float]:
    """w_i = 1 / (1 + m_i tau_i): how much the later value counts beside the step's own completions.

    Best linear unbiased for a martingale.
    """
    return [1 / (1 + m * tau) for m, tau in zip(graded, taus, strict=True)]


def chain_values(
    counts: Sequence[tuple[int, int]], outcome: bool | None, weights: Sequence[float]
) -> list[float | None]:
    """Values of all steps but the last, backwards: V_i = w_i V_{i+1} + (1 - w_i) k_i / m_i, from V_n = the outcome.

    A step without graded completions takes the later value, a step after which nothing is known its own share; None
    where there is neither. With w = 0 it is k/m exactly.
    """
    later = None if outcome is None else float(outcome)
    values: list[float | None] = []
    for (k, m), w in zip(reversed(counts), reversed(weights), strict=True):
        if m == 0:
            values.append(later if w > 0 else None)
        elif later is None or w == 0:
            later = k / m
            values.append(later)
        else:
            later = w * later + (1 - w) * (k / m)
            values.append(later)
    return values[::-1]


def pooled(
    counts: Sequence[tuple[int, int]], outcome: bool | None, taus: Sequence[float], spread: float
) -> list[StepLabel]:
    """Chain-pooled labels of all steps but the last. `counts` are (right, graded) a step; `spread` is p (1 - p).

    The standard error is sqrt(v_i spread) with v_i = w_i^2 tau_i + (1 - w_i)^2 / m_i. `spread` and `taus` come from
    other rollouts of the problem.
    """
    graded = [m for _, m in counts]
    chosen = weights(graded, taus)
    values = chain_values(counts, outcome, chosen)
    labels = []
    for value, w, m, tau in zip(values, chosen, graded, taus, strict=True):
        own = (1 - w) ** 2 / m if m else 0.0
        labels.append(StepLabel(value, None if value is None else math.sqrt((w * w * tau + own) * spread)))
    return labels
