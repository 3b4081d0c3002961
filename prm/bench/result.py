"""What an evaluation found, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prm.bench.resample import Figure

SCHEMA = "curate-prm/eval/1"


@dataclass(frozen=True)
class StepCounts:
    """What the figures of a group are made of. `unscored` counts chains without scores by reason; `unscored_steps` are
    labelled steps without a score, of which some belong to chains that have others; `unlabelled` steps are neutral,
    behind the first error, or undecided.
    """

    problems: int
    chains: int
    steps: int
    unlabelled: int
    unscored: Mapping[str, int] = field(default_factory=dict)
    unscored_steps: int = 0


@dataclass(frozen=True)
class ScoreBin:
    """Scores in [low, high): how many steps and problems, their mean score, and the mean of the target with its
    interval.
    """

    low: float
    high: float
    steps: int
    problems: int
    predicted: float
    observed: Figure


@dataclass(frozen=True)
class Group:
    """Figures by name and counts of a group; `name` None is all of them together. `bins` are of calibration only."""

    name: str | None
    figures: Mapping[str, Figure]
    counts: StepCounts
    bins: tuple[ScoreBin, ...] = ()


@dataclass(frozen=True)
class Threshold:
    """The threshold that was used, how it was come by, and what the best on the very same data would have given."""

    value: float
    rule: str
    best_on_the_same_data: float | None
    headline_at_best: float | None


@dataclass(frozen=True)
class BenchmarkResult:
    """All figures of one PRM on one benchmark. `headline` is (group, figure) of the one that it is known by."""

    benchmark: str
    title: str
    run: str
    headline: str
    shown: Mapping[str, str]
    groups: tuple[Group, ...]
    account: Mapping[str, Any]
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    rule: str
    intervals: str
    threshold: Threshold | None = None
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> Group:
        """All groups together."""
        return next(group for group in self.groups if group.name is None)

    def to_json(self) -> dict[str, Any]:
        """Plain values; shares in [0, 1], missing as null."""
        return {"schema": SCHEMA} | asdict(self)
