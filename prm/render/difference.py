"""The difference of two workspaces for a terminal (fits 100 columns) and as Markdown."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from prm.render import figures
from prm.render.figures import MISSING, plain
from prm.render.markdown import escape, pipes
from prm.render.terminal import Justify, fill, titled
from prm.reporting.compare import COUNTS, HEAVIER, LIGHTER, Change, Comparison

_STYLES = {HEAVIER: "bold blue", LIGHTER: "bold yellow"}


def signed(value: float | None) -> str:
    """A difference with its sign."""
    # Adding 0 takes the sign off what rounds to -0.
    return MISSING if value is None else f"{round(value, 2) + 0.0:+.2f}"


def interval(change: Change, between: str = " to ") -> str:
    """Both ends, with their signs."""
    found = change.interval
    return MISSING if found is None else f"{signed(found.low)}{between}{signed(found.high)}"


def verdicts(change: Change) -> str:
    """The verdicts of B and then of A where they differ; "only in B" where A has no such domain."""
    if change.a is None or change.b is None:
        return f"only in {'A' if change.b is None else 'B'}"
    return f"{change.b.verdict} → {change.a.verdict}" if change.verdict_changed else change.a.verdict


def counts(change: Change) -> str:
    """Counts that differ, from B to A; empty where none does."""
    if change.a is None or change.b is None:
        return ""
    return ", ".join(
        f"{COUNTS[name]} {figures.count(b)} → {figures.count(a)}" for name, (a, b) in change.counts.items()
    )


def summary(comparison: Comparison) -> list[str]:
    """What changed, in sentences."""
    moved, told = comparison.moved, comparison.verdicts
    known = [change for change in comparison.domains if change.interval is not None]
    lines = [
        f"A is {plain(comparison.a)} ({comparison.runs[0]} runs, {comparison.null_runs[0]} null runs), "
        f"B is {plain(comparison.b)} ({comparison.runs[1]} runs, {comparison.null_runs[1]} null runs)."
    ]
    if known:
        lines.append(f"{len(moved)} of {len(known)} domains have a weight that differs by more than its interval.")
    lines.append(f"{len(told)} of {len(comparison.domains)} domains have another verdict.")
    changed = sum(bool(change.counts) for change in comparison.domains)
    lines.append(f"{changed} of {len(comparison.domains)} domains have other counts of rows.")
    a, b = comparison.best_of_n
    if a is not None and b is not None:
        found = f"{figures.percent(a, 1)} in A, {figures.percent(b, 1)} in B"
        lines.append(f"The PRM's pick of {comparison.size} is right in {found} (of each one's own test problems).")
    return lines


def terminal(comparison: Comparison) -> Group:
    """The table of weights, counts that differ, sentences and notes."""
    columns: tuple[tuple[str, Justify], ...] = (
        ("domain", "left"), ("A", "right"), ("B", "right"), ("A - B", "right"), ("95 % interval", "right"),
        ("weight is", "left"), ("verdict (B → A)", "left"),
    )  # fmt: skip
    table = titled("Difference of weights", columns)
    for change in comparison.domains:
        ends = [figures.number(change.weight_a), figures.number(change.weight_b), signed(change.difference)]
        cells = [Text(cell) for cell in (plain(change.domain), *ends, interval(change, " – "))]
        fill(table, [[*cells, Text(change.moved, style=_STYLES.get(change.moved, "")), Text(verdicts(change))]])
    parts: list[RenderableType] = [table, Text(), *(Text(line) for line in summary(comparison))]
    differing = [change for change in comparison.domains if counts(change)]
    if differing:
        parts += [Text(), Text("Counts that differ, B → A:")]
        parts += [Text.assemble((plain(change.domain), "bold"), f": {counts(change)}") for change in differing]
    if comparison.notes:
        parts += [Text(), *(Text(f"Note: {plain(note)}") for note in comparison.notes)]
    return Group(*parts)


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown; names are escaped."""
    title = f"# Difference: {escape(comparison.a)} against {escape(comparison.b)}"
    lines = [title, "", f"Made {comparison.made}. {escape(' '.join(summary(comparison)))}", ""]
    head = ["domain", "weight is", "verdict (B → A)", "A", "B", "A - B", "95 % interval", "counts that differ (B → A)"]
    rows = [
        [
            *(escape(change.domain), change.moved, verdicts(change)),
            *(figures.number(change.weight_a), figures.number(change.weight_b), signed(change.difference)),
            *(interval(change), counts(change) or MISSING),
        ]
        for change in comparison.domains
    ]
    lines += pipes(head, rows, left=3)
    lines += [f"> {escape(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"
