"""What differs between the reports of two workspaces, domain by domain. Pure.

A is the workspace reported on, B the one that it is held against; a difference is A - B. Runs of A and B are taken as
independent, also where their seeds have the same numbers, so the interval is Welch's (Biometrika 34, 1947: unequal
variances, degrees of freedom by Satterthwaite).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prm import metrics
from prm.metrics import Interval
from prm.reporting.columns import plain_values, report_columns
from prm.reporting.model import Report
from prm.reporting.report_column import DomainRow

SCHEMA = "curate-prm/difference/1"
HEAVIER, LIGHTER, SAME, UNKNOWN = "heavier", "lighter", "indistinguishable", "unknown"


@dataclass(frozen=True)
class Change:
    """One domain in both workspaces; a row is None where its workspace has no such domain.

    Weights are None where no run weighs the domain; `moved` says whether the interval of the difference lies above 0
    ("heavier"), below ("lighter"), has it inside ("indistinguishable"), or is not there ("unknown"). `counts` are the
    values that differ of the columns that are told (`ReportColumn.told`), name -> (of A, of B).
    """

    domain: str
    a: DomainRow | None
    b: DomainRow | None
    weight_a: float | None
    weight_b: float | None
    difference: float | None
    interval: Interval | None
    moved: str
    verdict_changed: bool
    counts: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Comparison:
    """Both workspaces, by name, and every domain of either: the largest difference first, then those without one."""

    a: str
    b: str
    made: str
    runs: tuple[int, int]
    null_runs: tuple[int, int]
    best_of_n: tuple[float | None, float | None]
    size: int | None
    domains: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def moved(self) -> tuple[Change, ...]:
        """Domains whose weight differs by more than its interval."""
        return tuple(change for change in self.domains if change.moved in (HEAVIER, LIGHTER))

    @property
    def verdicts(self) -> tuple[Change, ...]:
        """Domains whose verdict differs."""
        return tuple(change for change in self.domains if change.verdict_changed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; missing is null."""
        return {"schema": SCHEMA} | {field.name: plain_values(getattr(self, field.name)) for field in fields(self)}


def welch(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval | None:
    """Interval of mean(a) - mean(b); None where either side has fewer than two values."""
    errors = metrics.standard_error(a), metrics.standard_error(b)
    if errors[0] is None or errors[1] is None:
        return None
    difference = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    parts = [(error**2, len(values) - 1) for error, values in zip(errors, (a, b), strict=True) if error is not None]
    variance = sum(part for part, _ in parts)
    # Against rounding: sides that do not vary at all have no degrees of freedom.
    if variance < 1e-24:
        return Interval(difference, difference, "welch")
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = metrics.student_quantile((1 + level) / 2, freedom) * math.sqrt(variance)
    return Interval(difference - half, difference + half, "welch")


def compare(a: Report, b: Report) -> Comparison:
    """A against B."""
    names, sets = _names(a, b), [_weighed(a), _weighed(b)]
    shared = sets[0] & sets[1]
    alike = sets[0] == sets[1] or not shared
    weights = [report.final if alike else _scaled(report.final, shared) for report in (a, b)]
    rows = [{row.domain: row for row in report.domains} for report in (a, b)]
    changes = [
        _change(name, rows[0].get(name), rows[1].get(name), *weights) for name in rows[0].keys() | rows[1].keys()
    ]
    sizes = set(a.selection.sizes if a.selection else ()) & set(b.selection.sizes if b.selection else ())
    size = max(sizes, default=None)
    return Comparison(
        a=names[0],
        b=names[1],
        made=a.made,
        runs=(len(a.runs), len(b.runs)),
        null_runs=(a.null_runs, b.null_runs),
        best_of_n=(_best(a, size), _best(b, size)),
        size=size,
        domains=tuple(sorted(changes, key=lambda one: (one.difference is None, -abs(one.difference or 0), one.domain))),
        notes=tuple(_notes(a, b, names, alike, len(shared))),
    )


def _names(a: Report, b: Report) -> tuple[str, str]:
    return (a.workspace, b.workspace) if a.workspace != b.workspace else (f"{a.workspace} (A)", f"{b.workspace} (B)")


def _weighed(report: Report) -> set[str]:
    return {domain for weights in report.final.values() for domain in weights}


def _scaled(final: Mapping[str, Mapping[str, float]], shared: set[str]) -> dict[str, dict[str, float]]:
    """Each run's weights with a mean of 1 over the shared domains."""
    scaled = {}
    for run, weights in final.items():
        mean = metrics.mean([weights[domain] for domain in shared if domain in weights])
        if mean:
            scaled[run] = {domain: weight / mean for domain, weight in weights.items()}
    return scaled


def _change(
    domain: str,
    a: DomainRow | None,
    b: DomainRow | None,
    final_a: Mapping[str, Mapping[str, float]],
    final_b: Mapping[str, Mapping[str, float]],
) -> Change:
    values = [[weights[domain] for weights in final.values() if domain in weights] for final in (final_a, final_b)]
    means = metrics.mean(values[0]), metrics.mean(values[1])
    difference = None if means[0] is None or means[1] is None else means[0] - means[1]
    interval = welch(values[0], values[1])
    moved = UNKNOWN if interval is None else HEAVIER if interval.low > 0 else LIGHTER if interval.high < 0 else SAME
    told = (column for column in report_columns() if column.told)
    found = {column.name: (a and column.value(a), b and column.value(b)) for column in told}
    return Change(
        domain=domain,
        a=a,
        b=b,
        weight_a=means[0],
        weight_b=means[1],
        difference=difference,
        interval=interval,
        moved=moved,
        verdict_changed=a is not None and b is not None and a.verdict != b.verdict,
        counts={name: pair for name, pair in found.items() if pair[0] != pair[1]},
    )


def _best(report: Report, size: int | None) -> float | None:
    found = report.selection.find("prm", size) if report.selection and size else None
    return found.accuracy if found else None


def _notes(a: Report, b: Report, names: tuple[str, str], alike: bool, shared: int) -> list[str]:
    notes = []
    if not alike:
        notes.append(
            "The runs weigh different sets of domains; weights are rescaled to a mean of 1 over the "
            f"{shared} shared ones."
        )
    for report, name in zip((a, b), names, strict=True):
        if len(report.runs) < 2:
            found = "has one trained run" if report.runs else "has no trained run"
            notes.append(f"{name} {found}, so differences have no interval; train 2 seeds or more (better 3).")
    if a.mode != b.mode and a.runs and b.runs:
        notes.append(f"The modes of training differ: {a.mode or 'mixed'} and {b.mode or 'mixed'}.")
    if a.runs and b.runs:
        notes.append("Each interval is a 95 % interval of its own: of 20 equal domains, one misses 0 by chance.")
    return notes
