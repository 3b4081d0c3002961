"""Figures with their uncertainty: intervals, rank agreement, calibration, order of known pairs. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """`low` to `high`, and how it was made: "t" (Student), "range" (lowest to highest) or "single" (one value)."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions in [low, high): how many, their mean, and the share that came true."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class PairOrder:
    """Order of (bad, clean) pairs: `right` of `total` have the bad one strictly lower."""

    right: int
    total: int

    @property
    def share(self) -> float | None:
        """Share of right pairs; None without pairs."""
        return self.right / self.total if self.total else None


def total_order(orders: Iterable[PairOrder]) -> PairOrder:
    """Pairs of several runs together."""
    orders = list(orders)
    return PairOrder(sum(order.right for order in orders), sum(order.total for order in orders))


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None without values."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None below two values."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of independent values; None below two values."""
    spread = deviation(values)
    return None if spread is None else spread / math.sqrt(len(values))


def student_quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = probability for Student's T with `freedom` > 0 degrees, whole or not."""
    if not 0 < probability < 1 or not freedom > 0:
        raise ValueError(f"no quantile {probability} of Student's T with {freedom} degrees")
    return float(stdtrit(freedom, probability))


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Interval of the mean: Student's t from three values on, below that their range; None without values."""
    if not values:
        return None
    error = standard_error(values)
    if error is None:
        return Interval(values[0], values[0], "single")
    if len(values) == 2:
        return Interval(min(values), max(values), "range")
    centre = math.fsum(values) / len(values)
    half = student_quantile((1 + level) / 2, len(values) - 1) * error
    return Interval(centre - half, centre + half, "t")


def within(found: Interval | None, low: float, high: float) -> Interval | None:
    """The interval, cut to [low, high]."""
    return found and Interval(max(low, found.low), min(high, found.high), found.method)


def ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Rank of each name, 1 for the largest value; equal values share the best rank."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b in [-1, 1], corrected for ties; None when either side is constant."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values")
    agree = ties_first = ties_second = pairs = 0
    for one, other in combinations(range(len(first)), 2):
        left = (first[one] > first[other]) - (first[one] < first[other])
        right = (second[one] > second[other]) - (second[one] < second[other])
        agree += left * right
        ties_first += left == 0
        ties_second += right == 0
        pairs += 1
    scale = math.sqrt((pairs - ties_first) * (pairs - ties_second))
    return agree / scale if scale else None


def brier(
    probabilities: Sequence[float], outcomes: Sequence[float], weights: Sequence[float] | None = None
) -> float | None:
    """Mean squared difference of probability and outcome (or share of outcomes), in [0, 1]; None without weight."""
    weights = [1.0] * len(probabilities) if weights is None else weights
    total = math.fsum(weights)
    squares = [w * (p - outcome) ** 2 for p, outcome, w in zip(probabilities, outcomes, weights, strict=True)]
    return math.fsum(squares) / total if total else None


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Share of (right, wrong) pairs in which the right one scores higher, a tie for half; None without such pairs."""
    ordered = sorted(zip(scores, right, strict=True))
    wins, below, place = 0.0, 0, 0
    while place < len(ordered):
        end = place
        while end < len(ordered) and ordered[end][0] == ordered[place][0]:
            end += 1
        good = sum(is_right for _, is_right in ordered[place:end])
        wins += good * (below + (end - place - good) / 2)
        below, place = below + end - place - good, end
    pairs = below * (len(ordered) - below)
    return wins / pairs if pairs else None


def first_error(values: Sequence[float], threshold: float) -> int | None:
    """Place of the first value that is not above the threshold; None where all are."""
    return next((place for place, value in enumerate(values) if not value > threshold), None)


def first_error_f1(found: Sequence[int | None], true: Sequence[int | None]) -> float | None:
    """ProcessBench's F1 (arXiv 2412.06559), in [0, 1]: harmonic mean of the shares of wrong chains whose first error is
    found and of right chains (None) where none is; None where either kind is missing.
    """
    hits: dict[bool, list[float]] = {True: [], False: []}
    for guess, truth in zip(found, true, strict=True):
        hits[truth is None].append(float(guess == truth))
    right, wrong = mean(hits[True]), mean(hits[False])
    if right is None or wrong is None:
        return None
    return harmonic(right, wrong)


def harmonic(one: float, other: float) -> float:
    """Harmonic mean of two shares; 0 where both are."""
    return 2 * one * other / (one + other) if one + other else 0.0


def f1(hits: float, false_alarms: float, misses: float) -> float | None:
    """F1 of a class from its counts, 2 hits / (2 hits + false alarms + misses); None where it neither is nor is said to
    be anywhere.
    """
    whole = 2 * hits + false_alarms + misses
    return 2 * hits / whole if whole else None


def calibration(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10) -> list[CalibrationBin]:
    """Reliability in equally wide bins over [0, 1] (1 belongs to the last); empty bins are left out.

    `outcomes` are true and false, or shares in [0, 1].
    """
    parts: dict[int, list[tuple[float, float]]] = {}
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        if not 0 <= probability <= 1:
            raise ValueError(f"{probability} is no probability")
        parts.setdefault(min(int(probability * bins), bins - 1), []).append((probability, outcome))
    return [
        CalibrationBin(
            index / bins,
            (index + 1) / bins,
            len(part),
            math.fsum(p for p, _ in part) / len(part),
            math.fsum(outcome for _, outcome in part) / len(part),
        )
        for index, part in sorted(parts.items())
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Expected calibration error: mean gap of predicted and observed, weighted by count; None without bins."""
    total = sum(part.count for part in bins)
    return math.fsum(abs(part.predicted - part.observed) * part.count for part in bins) / total if total else None


def pair_order(weights: Mapping[str, float], bad: Collection[str], clean: Collection[str]) -> PairOrder:
    """How many (bad, clean) pairs have the bad domain strictly below the clean one; a tie is not right."""
    pairs = [(weights[low], weights[high]) for low in sorted(bad) for high in sorted(clean)]
    return PairOrder(sum(low < high for low, high in pairs), len(pairs))
