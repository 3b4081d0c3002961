"""The report as Markdown; every cell is escaped, so that no name or note becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prm.render import figures
from prm.render.figures import MISSING, plain
from prm.reporting.model import Report
from prm.scoring.select import Selection

_HEAD = (
    *("domain", "verdict", "planted", "licence", "weight", "interval", "chance", "rank", "problems", "rollouts"),
    *("labelled steps", "right", "mean label", "label noise", "undecided", "truncated", "rejects", "duplicates"),
    *("contaminated", "consensus kept", "loss first", "loss last", "running t (over runs)"),
)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def escape(text: object) -> str:
    """One line of text in which no character means anything to Markdown or HTML."""
    return _MARKUP.sub(lambda match: _ENTITIES.get(match[1], f"\\{match[1]}"), plain(text))


def pipes(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A pipe table; the first `left` columns are aligned left, the others right."""
    marks = ["---" if place < left else "---:" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)] + [""]


def render(report: Report) -> str:
    """The whole report but for charts and chains."""
    made = f"Made {report.made}. {figures.training_sentence(report)}"
    lines = [f"# Dataset quality: {escape(report.workspace)}", "", made, ""]
    if report.planted:
        lines += [escape(figures.order_sentence(report)), ""]
    lines += _domains(report)
    for said in (figures.given_sentence(report), figures.no_answer_sentence(report)):
        lines += [escape(said), ""] if said else []
    if report.spend:
        lines += [figures.spend_sentence(report), ""]
    lines += [f"- **{escape(row.domain)}**: {escape(row.explanation)}" for row in report.domains] + [""]
    if report.selection is not None:
        lines += _selection(report.selection)
    lines += _ledger(report)
    lines += [f"> {escape(note)}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def _domains(report: Report) -> list[str]:
    rows = []
    for row in report.domains:
        facts = row.facts
        rows.append(
            [
                escape(row.domain),
                row.verdict + (", too hard" if row.too_hard else ""),
                escape(", ".join(facts.planted)) or MISSING,
                escape(", ".join(facts.licences)) or MISSING,
                figures.number(row.weight),
                figures.spread(row.interval),
                figures.spread(row.band),
                figures.rank(row),
                figures.count(facts.problems),
                figures.count(facts.rollouts),
                figures.count(facts.labelled_steps),
                figures.percent(facts.accuracy),
                figures.number(facts.mean_label),
                figures.number(facts.label_noise),
                figures.percent(facts.undecided, 1),
                figures.percent(facts.truncated, 1),
                figures.count(facts.rejects),
                figures.count(facts.duplicates),
                figures.count(facts.contaminated),
                figures.percent(facts.consensus_kept),
                figures.number(row.loss_first, 3),
                figures.number(row.loss_last, 3),
                figures.over(row.t),
            ]
        )
    return pipes(_HEAD, rows, left=4)


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
                *(figures.percent(found[m].accuracy, 1) if m in found else MISSING for m in selection.methods),
            ]
            for domain, found in figures.by_domain(selection)
        ],
    )


def _ledger(report: Report) -> list[str]:
    head = ["stage", "table", "partition", "reasons", "unit", "in", "out", "duplicate", "rejected", "failed"]
    rows = [
        [
            *(escape(text or MISSING) for text in (one.stage, one.table, one.partition, one.reasons, one.unit)),
            *(figures.count(value) for value in (one.taken, one.out, one.duplicate, one.rejected, one.failed)),
        ]
        for one in report.ledger
    ]
    return ["## Ledger", "", *pipes(head, rows, left=5)] if rows else []
