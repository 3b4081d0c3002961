"""Counts to step labels: the estimators of Monte Carlo labelling. Pure.

p_i = P(right answer | problem and steps 0..i), estimated from m graded completions of which k are right
(Math-Shepherd, arXiv 2312.08935; DreamPRM, arXiv 2505.20241, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """Value in [0, 1] and its standard error; both None when undefined."""

    value: float | None
    standard_error: float | None


def exact(k: int, m: int, min_graded: int = 1) -> Label:
    """k/m; undefined with fewer than `min_graded` graded completions.

    The standard error uses q = (k + 1/2) / (m + 1) in sqrt(q (1 - q) / m), so that 0 of 4 does not look certain.
    """
    if not 0 <= k <= m:
        raise ValueError(f"{k} right of {m} graded")
    if m < max(min_graded, 1):
        return Label(None, None)
    q = (k + 0.5) / (m + 1)
    return Label(k / m, math.sqrt(q * (1 - q) / m))


def known(outcome: bool | None) -> Label:
    """Label of the last step: the chain is over, so its value is its outcome, without any completion."""
    return Label(None, None) if outcome is None else Label(float(outcome), 0.0)


def count(outcomes: Sequence[bool | None]) -> tuple[int, int]:
    """(k, m): right and graded; an undecided or failed completion is in neither."""
    graded = [outcome for outcome in outcomes if outcome is not None]
    return sum(graded), len(graded)
