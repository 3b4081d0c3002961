"""The difference of two workspaces: its columns, and it for a terminal (fits 100 columns) and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Group
from rich.text import Text

from prm.metrics import Interval
from prm.render.markdown import escape, named_table
from prm.render.terminal import named_tables
from prm.reporting.columns import COLUMNS, report_columns
from prm.reporting.compare import Change, Comparison
from prm.reporting.formats import MISSING, as_it_is, percent, plain
from prm.reporting.report_column import DomainRow, Form, ReportColumn, ShownAs, arranged


def signed(value: float | None) -> str:
    """A difference with its sign."""
    # Adding 0 takes the sign off what rounds to -0.
    return MISSING if value is None else f"{round(value, 2) + 0.0:+.2f}"


def interval(found: Interval | None, between: str = " to ") -> str:
    """Both ends, with their signs."""
    return MISSING if found is None else f"{signed(found.low)}{between}{signed(found.high)}"


def verdicts(change: Change) -> str:
    """The verdicts of B and then of A where they differ; "only in B" where A has no such domain."""
    if change.a is None or change.b is None:
        return f"only in {'A' if change.b is None else 'B'}"
    return f"{change.b.verdict} → {change.a.verdict}" if change.verdict_changed else change.a.verdict


def counts(change: Change) -> str:
    """What differs of the columns that are told, from B to A; empty where nothing does."""
    if change.a is None or change.b is None:
        return ""
    told = {column.name: column for column in report_columns()}
    return ", ".join(
        f"{told[name].heading_in()} {told[name].show(b)} → {told[name].show(a)}"
        for name, (a, b) in change.counts.items()
    )


def _end(part: str) -> Callable[[Change], float | None]:
    return lambda change: None if change.interval is None else getattr(change.interval, part)


def _side(side: str, column: ReportColumn[DomainRow]) -> ReportColumn[Change]:
    """A column of the report in one of the two workspaces; None where that one has no such domain."""
    return ReportColumn(
        f"{column.name}_{side}",
        f"{column.name} of {side.upper()}, as in the report",
        lambda change: None if getattr(change, side) is None else column.value(getattr(change, side)),
    )


# In the order of the CSV; the JSON has the fields of `Change`.
DIFFERENCE: tuple[ReportColumn[Change], ...] = (
    ReportColumn(
        "domain",
        "name of the training domain",
        lambda change: change.domain,
        left=True,
        terminal=ShownAs(),
        markdown=ShownAs(),
        page=ShownAs(),
    ),
    ReportColumn(
        "weight_a",
        "mean final weight in the workspace reported on",
        lambda change: change.weight_a,
        terminal=ShownAs(heading="A"),
        markdown=ShownAs(heading="A"),
        page=ShownAs(heading="weight in A"),
    ),
    ReportColumn(
        "weight_b",
        "mean final weight in the one it is held against",
        lambda change: change.weight_b,
        terminal=ShownAs(heading="B"),
        markdown=ShownAs(heading="B"),
        page=ShownAs(heading="in B"),
    ),
    ReportColumn(
        "difference",
        "weight_a - weight_b",
        lambda change: change.difference,
        signed,
        terminal=ShownAs(heading="A - B"),
        markdown=ShownAs(heading="A - B"),
        page=ShownAs(heading="A − B"),
    ),
    ReportColumn("difference_low", "lower end of the difference's 95 % interval (Welch)", _end("low")),
    ReportColumn("difference_high", "upper end of the difference's 95 % interval", _end("high")),
    ReportColumn(
        "interval",
        "both ends of the difference's 95 % interval",
        lambda change: change.interval,
        interval,
        "95 % interval",
        terminal=ShownAs(show=partial(interval, between=" – ")),
        markdown=ShownAs(),
        page=ShownAs(),
        csv=False,
    ),
    ReportColumn(
        "moved",
        "heavier, lighter, indistinguishable (the interval has 0 in it) or unknown",
        lambda change: change.moved,
        heading="weight is",
        left=True,
        terminal=ShownAs(),
        markdown=ShownAs(),
        page=ShownAs(),
    ),
    ReportColumn("verdict_changed", "whether the verdicts differ", lambda change: change.verdict_changed),
    ReportColumn(
        "verdicts",
        "verdicts of B and of A where they differ",
        verdicts,
        heading="verdict (B → A)",
        left=True,
        terminal=ShownAs(),
        markdown=ShownAs(),
        page=ShownAs(),
        csv=False,
    ),
    ReportColumn(
        "counts",
        "counts that differ, from B to A",
        lambda change: counts(change) or MISSING,
        as_it_is,
        "counts that differ (B → A)",
        left=True,
        markdown=ShownAs(),
        page=ShownAs(),
        csv=False,
    ),
)
# Columns of the report that the CSV has of both workspaces stand in this order, before others.
_FIRST_SIDES = ("verdict", "problems", "rejects", "duplicates", "contaminated", "rollouts", "labelled_steps")


def difference_columns(of_report: Sequence[ReportColumn[DomainRow]] = COLUMNS) -> tuple[ReportColumn[Change], ...]:
    """Every column of a difference: those above, and those of the report that are compared, of both workspaces."""
    compared = arranged((column for column in of_report if column.compared), _FIRST_SIDES)
    return (*DIFFERENCE, *(_side(side, column) for column in compared for side in ("a", "b")))


def shown_difference(form: Form, first: Sequence[str] = ()) -> list[ReportColumn[Change]]:
    """The columns beside the domain that a form for people has, those whose names are in `first` before the others."""
    return arranged((column for column in DIFFERENCE[1:] if column.shown(form) is not None), first)


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
        found = f"{percent(a, 1)} in A, {percent(b, 1)} in B"
        lines.append(f"The PRM's pick of {comparison.size} is right in {found} (of each one's own test problems).")
    return lines


def terminal(comparison: Comparison) -> Group:
    """The table of weights, counts that differ, sentences and notes."""
    named = [(change.domain, change) for change in comparison.domains]
    parts = named_tables("Difference of weights", shown_difference("terminal"), named)
    parts += [Text(), *(Text(line) for line in summary(comparison))]
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
    named = ((change.domain, change) for change in comparison.domains)
    lines += named_table(shown_difference("markdown", ("moved", "verdicts")), named)
    lines += [f"> {escape(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"
