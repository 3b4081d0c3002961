"""Figures with intervals: a bootstrap over whole problems, of anything that is a function of sums over chains. Pure.

Steps of a chain, and chains of a problem, are alike, so that intervals over steps would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate import seeds
from prm.bench.suites.base import Values

LEVEL = 0.95
# Of resamples in which a figure has a value; with fewer it has no interval.
_DEFINED = 0.95
_CHUNK = 200

Measure = Callable[[NDArray[Any], Sequence[str]], Values]


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its 95 % interval; None where it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ResampledCounts:
    """Counts [problems, groups, cells], and the stratum of each problem."""

    groups: tuple[str, ...]
    counts: NDArray[Any]
    strata: tuple[str, ...]

    @property
    def sums(self) -> NDArray[Any]:
        """[groups, cells]."""
        sums: NDArray[Any] = self.counts.sum(axis=0)
        return sums

    def problems(self, group: str | None) -> int:
        """How many problems count in a group."""
        part = self.counts if group is None else self.counts[:, self.groups.index(group)]
        return int(part.reshape(len(part), -1).any(axis=1).sum())


def tally(rows: Iterable[tuple[str, str, Sequence[float]]], stratified: bool) -> ResampledCounts:
    """Count (problem, group, cells) rows; with `stratified` a problem's stratum is its group."""
    rows = list(rows)
    groups = tuple(sorted({group for _, group, _ in rows}))
    problems = {problem: place for place, problem in enumerate(sorted({problem for problem, _, _ in rows}))}
    counts = np.zeros((len(problems), len(groups), len(rows[0][2]) if rows else 0))
    strata = [""] * len(problems)
    for problem, group, cells in rows:
        counts[problems[problem], groups.index(group)] += cells
        strata[problems[problem]] = group if stratified else ""
    return ResampledCounts(groups, counts, tuple(strata))


def _draws(strata: Sequence[str], resamples: int, seed: int) -> Iterator[NDArray[Any]]:
    """How often each problem is drawn, [up to 200 resamples, problems]: as many of each stratum as there are."""
    random = np.random.default_rng(seeds.seed("eval", seed))
    names = np.array(strata)
    places = [np.flatnonzero(names == name) for name in sorted(set(strata))]
    for start in range(0, resamples, _CHUNK):
        drawn = np.zeros((min(_CHUNK, resamples - start), len(strata)))
        for place in places:
            drawn[:, place] = random.multinomial(len(place), np.full(len(place), 1 / len(place)), size=len(drawn))
        yield drawn


def figures(
    counted: ResampledCounts, measure: Measure, resamples: int, seed: int
) -> dict[tuple[str | None, str], Figure]:
    """Every figure of `measure` with its percentile interval.

    None where the figure has no value, where one problem alone counts, or where it has no value in more than 5 % of the
    resamples.
    """
    values = measure(counted.sums, counted.groups)
    flat = counted.counts.reshape(len(counted.counts), -1)
    drawn: dict[tuple[str | None, str], list[float]] = {key: [] for key in values}
    for weights in _draws(counted.strata, resamples, seed):
        for sums in (weights @ flat).reshape(-1, *counted.counts.shape[1:]):
            for key, value in measure(sums, counted.groups).items():
                if value is not None and key in drawn:
                    drawn[key].append(value)
    found = {}
    for key, value in values.items():
        sound = value is not None and counted.problems(key[0]) > 1 and len(drawn[key]) >= _DEFINED * resamples
        ends = np.quantile(drawn[key], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() if sound else [None, None]
        found[key] = Figure(value, *ends)
    return found
