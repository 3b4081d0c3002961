"""Are step scores the chances that they say? Reliability, Brier with its noise floor, ECE with its chance level. Pure.

A step's target r is k right of m completions (or known). The Brier score, the mean of (s - r)^2, is then too high by
the mean of p (1 - p) / m, whatever the PRM is like; r (1 - r) / (m - 1) estimates a step's part of that without bias
where m is 2 or more. What is left, the excess, estimates the mean of (s - p)^2.

Over bins of scores the Brier score is exactly reliability - resolution + uncertainty + within (Murphy 1973, with the
terms within bins of Stephenson, Coelho and Jolliffe 2008): reliability is the mean squared distance of a bin's mean
score and mean target, resolution that of the bins' mean targets from the overall one, uncertainty the variance of
targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import seeds
from prm.bench.resample import LEVEL, Figure
from prm.bench.suites.base import Values

# Sums of a bin of steps: their number, scores, targets, squares and products, the estimated noise of the targets, and
# how many targets have one draw.
SUMS = ("steps", "s", "r", "ss", "rr", "sr", "noise", "noisy")
# Draws of a calibrated PRM's targets.
_SIMULATIONS = 500
SHOWN = {"brier": "Brier", "noise_floor": "noise", "excess": "excess", "ece": "ECE", "bias": "bias"}


@dataclass(frozen=True)
class ScoredStep:
    """A scored step: its group, problem and chain, score and target; `draws` None: the target is known exactly."""

    group: str
    problem: str
    chain: str
    score: float
    target: float
    draws: int | None


def bin_of(score: float, bins: int) -> int:
    """Which of equally wide bins over [0, 1]; 1 belongs to the last (as `metrics.calibration` has it)."""
    return min(int(score * bins), bins - 1)


def cells(step: ScoredStep, bins: int) -> list[float]:
    """The sums of one step, laid out by bins: [bins * len(SUMS)]."""
    s, r, m = step.score, step.target, step.draws
    noise = 0.0 if m is None else r * (1 - r) / (m - 1) if m > 1 else 0.0
    found = [0.0] * (bins * len(SUMS))
    start = bin_of(s, bins) * len(SUMS)
    found[start : start + len(SUMS)] = [1.0, s, r, s * s, r * r, s * r, noise, float(m == 1)]
    return found


def measure(sums: NDArray[Any], groups: Sequence[str]) -> Values:
    """Figures of sums [groups, bins * len(SUMS)], of every group and of all; and a bin's mean target as "bin 3"."""
    values: Values = {}
    for group, part in zip((*groups, None), (*sums, sums.sum(axis=0)), strict=True):
        found = _figures(part.reshape(-1, len(SUMS)))
        values |= {(group, name): value for name, value in found.items()}
    return values


def _figures(sums: NDArray[Any]) -> dict[str, float | None]:
    total = float(sums[:, 0].sum())
    filled = sums[sums[:, 0] > 0]
    names = [f"bin {place}" for place in range(len(sums))]
    if not total:
        keys = ("brier", "noise_floor", "excess", "reliability", "resolution", "uncertainty", "within", "ece", "bias")
        return dict.fromkeys((*keys, *names))
    n, s, r, ss, rr, sr, noise, noisy = filled.T
    mean_s, mean_r, rate = s / n, r / n, r.sum() / total
    brier = float((ss - 2 * sr + rr).sum() / total)
    # One completion alone says nothing of its own noise.
    floor = None if noisy.sum() else float(noise.sum() / total)
    found: dict[str, float | None] = {
        "brier": brier,
        "noise_floor": floor,
        "excess": None if floor is None else brier - floor,
        "reliability": float((n * (mean_s - mean_r) ** 2).sum() / total),
        "resolution": float((n * (mean_r - rate) ** 2).sum() / total),
        "uncertainty": float(rr.sum() / total - rate**2),
        "within": float(((ss - n * mean_s**2) - 2 * (sr - n * mean_s * mean_r)).sum() / total),
        "ece": float(np.abs(s - r).sum() / total),
        "bias": float((s - r).sum() / total),
    }
    for name, part in zip(names, sums, strict=True):
        found[name] = float(part[2] / part[0]) if part[0] else None
    return found


def chance(steps: Sequence[ScoredStep], bins: int, seed: int) -> Figure:
    """The ECE of targets drawn from these very scores, as of a calibrated PRM: its mean, and where 95 % of it lie.

    Counts are drawn for every step by itself. A target of one draw or known is of the whole chain: its steps share one
    uniform number, so that they are as alike as outcomes are.
    """
    if not steps:
        return Figure(None)
    random = np.random.default_rng(seeds.seed("eval chance", seed))
    scores = np.array([step.score for step in steps])
    draws = np.array([0 if step.draws is None else step.draws for step in steps])
    chains = np.unique([step.chain for step in steps], return_inverse=True)[1]
    places = np.array([bin_of(step.score, bins) for step in steps])
    single = draws <= 1
    errors = []
    for _ in range(_SIMULATIONS):
        drawn = random.binomial(np.maximum(draws, 1), scores) / np.maximum(draws, 1)
        shared = random.random(chains.max() + 1)[chains] < scores
        gaps = np.bincount(places, scores - np.where(single, shared, drawn), minlength=bins)
        errors.append(np.abs(gaps).sum() / len(steps))
    low, high = np.quantile(errors, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Figure(float(np.mean(errors)), low, high)


def widened(observed: Figure, problems: int) -> Figure:
    """A bin's mean target; where all of it is 0 or 1 no resample differs, so its far end is that of so many problems
    of which all are (Clopper and Pearson), a problem for a draw.
    """
    if observed.value not in (0.0, 1.0):
        return observed
    far = 1 - ((1 - LEVEL) / 2) ** (1 / problems)
    return Figure(0.0, 0.0, far) if observed.value == 0 else Figure(1.0, 1 - far, 1.0)
