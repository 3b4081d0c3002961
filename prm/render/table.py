"""The report as CSV: one row a domain, columns whose names stay. Missing is an empty cell, never 0.

Names come from data. A spreadsheet reads a cell that begins with one of `=+-@` as a formula (OWASP, "CSV Injection"),
so a text that does gets an apostrophe in front; figures are written as they are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TypeVar

from prm.render.difference import difference_columns
from prm.reporting.columns import report_columns
from prm.reporting.compare import Comparison
from prm.reporting.formats import plain
from prm.reporting.model import Report
from prm.reporting.report_column import ReportColumn

R = TypeVar("R")
# The wide ones count where a keyboard writes them.
_FORMULA = tuple("=+-@＝＋－＠")
Cell = str | int | float | bool | Sequence[str] | None


def cell(value: Cell) -> str:
    """One cell: null is empty, a text is one line that no spreadsheet takes for a formula, texts have semicolons."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return cell("; ".join(value))
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return repr(value)


def _csv(columns: Iterable[ReportColumn[R]], rows: Iterable[R]) -> str:
    buffer, columns = io.StringIO(), [column for column in columns if column.csv]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([cell(column.value(row)) for column in columns] for row in rows)
    return buffer.getvalue()


def render(report: Report) -> str:
    """One row a domain, the heaviest first; columns are those of `prm.reporting.columns` that the CSV has."""
    return _csv(report_columns(), report.domains)


def render_difference(comparison: Comparison) -> str:
    """One row a domain; columns are those of `prm.render.difference` that the CSV has."""
    return _csv(difference_columns(report_columns()), comparison.domains)
