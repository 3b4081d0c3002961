"""The report as Markdown; every cell is escaped, so that no name or note becomes markup."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from prm.render import figures
from prm.reporting.columns import shown_in
from prm.reporting.formats import MISSING, count, percent, plain
from prm.reporting.model import Report
from prm.reporting.report_column import ReportColumn
from prm.scoring.select import Selection

R = TypeVar("R")
# Columns that stand before the others.
_FIRST = (
    *("marked_verdict", "planted", "licences", "weight", "interval", "chance", "ranks", "problems", "rollouts"),
    *("labelled_steps", "accuracy", "mean_label", "label_noise", "undecided", "truncated"),
    *("rejects", "duplicates", "contaminated", "consensus_kept"),
)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def escape(text: object) -> str:
    """One line of text in which no character means anything to Markdown or HTML."""
    return _MARKUP.sub(lambda match: _ENTITIES.get(match[1], f"\\{match[1]}"), plain(text))


def pipes(head: Sequence[str], rows: Iterable[Sequence[str]], left: int | Collection[int] = 1) -> list[str]:
    """A pipe table; the first `left` columns, or those at these places, are aligned left, the others right."""
    at = range(left) if isinstance(left, int) else left
    marks = ["---" if place in at else "---:" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)] + [""]


def named_table(columns: Sequence[ReportColumn[R]], named: Iterable[tuple[str, R]]) -> list[str]:
    """A pipe table of (name, row): the name of each row and its columns."""
    rows = [[escape(name), *(escape(column.text(row, "markdown")) for column in columns)] for name, row in named]
    left = {0, *(place for place, column in enumerate(columns, 1) if column.left)}
    return pipes(["domain", *(escape(column.heading_in("markdown")) for column in columns)], rows, left)


def render(report: Report) -> str:
    """The whole report but for charts and chains."""
    made = f"Made {report.made}. {figures.training_sentence(report)}"
    lines = [f"# Dataset quality: {escape(report.workspace)}", "", made, ""]
    if report.planted:
        lines += [escape(figures.order_sentence(report)), ""]
    lines += named_table(shown_in("markdown", _FIRST), ((row.domain, row) for row in report.domains))
    for said in (figures.given_sentence(report), figures.no_answer_sentence(report)):
        lines += [escape(said), ""] if said else []
    if report.token_usage:
        lines += [figures.spend_sentence(report), ""]
    lines += [f"- **{escape(row.domain)}**: {escape(row.explanation)}" for row in report.domains] + [""]
    if report.selection is not None:
        lines += _selection(report.selection)
    lines += _ledger(report)
    lines += [f"> {escape(note)}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def _selection(selection: Selection) -> list[str]:
    lines = ["## Best of N", "", escape(figures.selection_sentence(selection)), ""]
    head = ["pick (% right ± standard error)", *(f"N = {size}" for size in selection.sizes), "gain over random"]
    lines += pipes(
        head,
        [
            [escape(name), *(figures.accuracy(score) for score in scores), figures.gain(scores[-1])]
            for name, scores in figures.overall(selection)
        ],
    )
    head = [f"domain, N = {selection.sizes[-1]}", *(figures.METHOD_NAMES[method] for method in selection.methods)]
    return lines + pipes(
        head,
        [
            [
                escape(domain),
                *(percent(found[m].accuracy, 1) if m in found else MISSING for m in selection.methods),
            ]
            for domain, found in figures.by_domain(selection)
        ],
    )


def _ledger(report: Report) -> list[str]:
    head = ["stage", "table", "partition", "reasons", "unit", "in", "out", "duplicate", "rejected", "failed"]
    rows = [
        [
            *(escape(text or MISSING) for text in (one.stage, one.table, one.partition, one.reasons, one.unit)),
            *(count(value) for value in (one.taken, one.out, one.duplicate, one.rejected, one.failed)),
        ]
        for one in report.ledger
    ]
    return ["## Ledger", "", *pipes(head, rows, left=5)] if rows else []
