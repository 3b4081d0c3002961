"""The report as CSV: one row a domain, columns whose names stay. Missing is an empty cell, never 0.

Names come from data. A spreadsheet reads a cell that begins with one of `=+-@` as a formula (OWASP, "CSV Injection"),
so a text that does gets an apostrophe in front; figures are written as they are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prm.render.figures import plain

if TYPE_CHECKING:
    from prm.reporting.compare import Change, Comparison
    from prm.reporting.model import DomainRow, Report

# The wide ones count where a keyboard writes them.
_FORMULA = tuple("=+-@＝＋－＠")
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class ReportColumn:
    """A column: its name, what it says, and how it is read from a row."""

    name: str
    text: str
    of: Callable[[Any], Cell]


def _fact(name: str) -> Callable[[DomainRow], Cell]:
    return lambda row: getattr(row.facts, name)


def _at(name: str, part: str) -> Callable[[Any], Cell]:
    """`row.name.part`; None where there is no `row.name`."""
    return lambda row: None if getattr(row, name) is None else getattr(getattr(row, name), part)


COLUMNS: tuple[ReportColumn, ...] = (
    ReportColumn("domain", "name of the training domain", lambda row: row.domain),
    ReportColumn("verdict", "up, down, indistinguishable (from chance) or unknown", lambda row: row.verdict),
    ReportColumn("too_hard", "whether less than a tenth of its rollouts are right", lambda row: row.too_hard),
    ReportColumn("weight", "mean final weight over runs; the mean over domains is 1", lambda row: row.weight),
    ReportColumn("weight_low", "lower end of the weight's interval over runs", _at("interval", "low")),
    ReportColumn("weight_high", "upper end", _at("interval", "high")),
    ReportColumn(
        "weight_interval", "t (Student, 95 %), range (two runs) or single (one run)", _at("interval", "method")
    ),
    ReportColumn("chance_low", "lower end of the band that chance gives this domain", _at("band", "low")),
    ReportColumn("chance_high", "upper end", _at("band", "high")),
    ReportColumn("rank", "rank of the mean weight, 1 is the heaviest", lambda row: row.rank),
    ReportColumn("best_rank", "best rank in any run", lambda row: row.best_rank),
    ReportColumn("worst_rank", "worst rank in any run", lambda row: row.worst_rank),
    ReportColumn("t", "running t of the domain's dots at the end, mean over runs", _at("t", "mean")),
    ReportColumn("t_low", "lowest over runs", _at("t", "low")),
    ReportColumn("t_high", "highest over runs", _at("t", "high")),
    ReportColumn("t_pooled", "t of the dots of all runs together", lambda row: row.signal),
    ReportColumn("loss_first", "mean train loss over the first tenth of the updates", lambda row: row.loss_first),
    ReportColumn("loss_last", "over the last tenth", lambda row: row.loss_last),
    ReportColumn("problems", "problems that came in", _fact("problems")),
    ReportColumn("rejects", "rows that ingest rejected for other reasons than the next two", _fact("rejects")),
    ReportColumn("duplicates", "rows or problems left out as duplicates (ingest, dedup)", _fact("duplicates")),
    ReportColumn("contaminated", "left out because the meta or test set shows them", _fact("contaminated")),
    ReportColumn("rollouts", "chains, sampled here or given", _fact("rollouts")),
    ReportColumn("given", "of them those that were imported or came with a source", _fact("given")),
    ReportColumn("no_answer", "rollouts in which no rule reads an answer; they count as wrong", _fact("no_answer")),
    ReportColumn("accuracy", "share of rollouts with an outcome that are right", _fact("accuracy")),
    ReportColumn("undecided", "share of rollouts without an outcome", _fact("undecided")),
    ReportColumn(
        "truncated", "share of rollouts cut by length or repetition, of those whose end is known", _fact("truncated")
    ),
    ReportColumn("labelled_steps", "steps with a label", _fact("labelled_steps")),
    ReportColumn("undefined_steps", "steps whose label is undefined", _fact("undefined_steps")),
    ReportColumn("mean_label", "mean label", _fact("mean_label")),
    ReportColumn("label_noise", "mean standard error of the labels estimated from completions", _fact("label_noise")),
    ReportColumn("consensus_kept", "share of labelled steps that the judge did not mask", _fact("consensus_kept")),
    ReportColumn("rollout_tokens", "tokens generated for rollouts", _fact("rollout_tokens")),
    ReportColumn("label_tokens", "tokens generated for completions", _fact("label_tokens")),
    ReportColumn("judge_tokens", "tokens that the judge generated", _fact("judge_tokens")),
    ReportColumn(
        "licences", "licences of its problems, separated by semicolons", lambda row: "; ".join(row.facts.licences)
    ),
    ReportColumn("planted", "defects planted on purpose", lambda row: "; ".join(row.facts.planted)),
)


def _side(side: str, name: str) -> Callable[[Change], Cell]:
    """A figure of one of the two rows; None where that workspace has no such domain."""
    column = next(column for column in COLUMNS if column.name == name)
    return lambda change: None if getattr(change, side) is None else column.of(getattr(change, side))


_BOTH = ("verdict", "problems", "rejects", "duplicates", "contaminated", "rollouts", "labelled_steps", "accuracy")
DIFFERENCE: tuple[ReportColumn, ...] = (
    ReportColumn("domain", "name of the training domain", lambda change: change.domain),
    ReportColumn("weight_a", "mean final weight in the workspace reported on", lambda change: change.weight_a),
    ReportColumn("weight_b", "in the one it is held against", lambda change: change.weight_b),
    ReportColumn("difference", "weight_a - weight_b", lambda change: change.difference),
    ReportColumn("difference_low", "lower end of its 95 % interval (Welch)", _at("interval", "low")),
    ReportColumn("difference_high", "upper end", _at("interval", "high")),
    ReportColumn(
        "moved",
        "heavier, lighter, indistinguishable (the interval has 0 in it) or unknown",
        lambda change: change.moved,
    ),
    ReportColumn("verdict_changed", "whether the verdicts differ", lambda change: change.verdict_changed),
    *(
        ReportColumn(f"{name}_{side}", f"{name} of {side}, as in report.csv", _side(side, name))
        for name in _BOTH
        for side in ("a", "b")
    ),
)


def cell(value: Cell) -> str:
    """One cell: null is empty, a text is one line that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value)


def _csv(columns: Sequence[ReportColumn], rows: Iterable[Any]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([cell(column.of(row)) for column in columns] for row in rows)
    return buffer.getvalue()


def render(report: Report) -> str:
    """One row a domain, the heaviest first; columns are `COLUMNS`."""
    return _csv(COLUMNS, report.domains)


def render_difference(comparison: Comparison) -> str:
    """One row a domain; columns are `DIFFERENCE`."""
    return _csv(DIFFERENCE, comparison.domains)
