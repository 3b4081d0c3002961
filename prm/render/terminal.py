"""The report and best-of-N for a terminal, by rich; fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prm.render import figures
from prm.render.figures import MISSING, plain, shortened
from prm.reporting.model import DomainRow, Report
from prm.reporting.verdict import DOWN, UP
from prm.scoring.select import Selection

Justify = Literal["left", "right"]
_COLUMNS: tuple[tuple[str, Justify], ...] = (
    ("domain", "left"),
    ("weight  interval", "right"),
    ("chance", "right"),
    ("verdict", "left"),
    ("rank", "right"),
    ("problems", "right"),
    ("right", "right"),
    ("known", "left"),
)
_DATA: tuple[tuple[str, Justify], ...] = (
    ("domain", "left"),
    ("left out", "right"),
    ("undecided", "right"),
    ("truncated", "right"),
    ("noise", "right"),
    ("kept", "right"),
    ("loss", "right"),
    ("t", "right"),
)
_STYLES = {UP: "bold blue", DOWN: "bold yellow"}

# Numbers of candidates that fit beside one another.
_SIZES = 4


def titled(title: str, columns: Sequence[tuple[str, Justify]]) -> Table:
    """An empty table whose first column is a name."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", show_edge=False)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for place, (name, justify) in enumerate(columns):
        # Figures are never cut: only the first column, a name, gives way.
        widest = None if place else 19
        table.add_column(name, justify=justify, no_wrap=True, min_width=None if place else 8, max_width=widest)
    return table


def fill(table: Table, rows: Iterable[Sequence[Text]]) -> Table:
    """Add rows; figures keep the width that they need."""
    for cells in rows:
        table.add_row(*cells)
        for column, cell in list(zip(table.columns, cells, strict=True))[1:]:
            column.min_width = max(column.min_width or 0, cell.cell_len, len(str(column.header)))
    return table


def _domain_cells(row: DomainRow) -> list[Text]:
    interval = figures.spread(row.interval, "–")
    weight = figures.number(row.weight) + ("" if interval == MISSING else f"  {interval}")
    facts = row.facts
    mark = ", ".join(facts.planted) or ("too hard" if row.too_hard else "")
    return [
        Text(plain(row.domain)),
        Text(weight),
        Text(figures.spread(row.band, "–")),
        Text(row.verdict, style=_STYLES.get(row.verdict, "")),
        Text(figures.rank(row)),
        Text(figures.count(facts.problems)),
        Text(figures.percent(facts.accuracy)),
        Text(plain(mark)),
    ]


def _data_cells(row: DomainRow) -> list[Text]:
    facts, ends = row.facts, (row.loss_first, row.loss_last)
    loss = MISSING if None in ends else f"{figures.number(ends[0], 3)} → {figures.number(ends[1], 3)}"
    out = f"{facts.rejects:,} / {facts.duplicates:,} / {facts.contaminated:,}"
    cells = [
        *(plain(row.domain), out, figures.percent(facts.undecided, 1), figures.percent(facts.truncated, 1)),
        *(figures.number(facts.label_noise), figures.percent(facts.consensus_kept), loss),
        figures.number(row.t.mean if row.t else None, 1),
    ]
    return [Text(cell) for cell in cells]


def _data(report: Report) -> list[RenderableType]:
    """What came of each domain's rows, and its training."""
    key = (
        "left out: rejected / duplicate / shown by meta or test set; noise: standard error of a label; kept: by "
        "consensus; t: of its dots, mean over runs."
    )
    found = (
        figures.given_sentence(report),
        figures.no_answer_sentence(report),
        figures.licences_sentence(report),
        figures.spend_sentence(report),
    )
    sentences = [text for text in found if text]
    table = fill(titled("Data and training", _DATA), map(_data_cells, report.domains))
    return [Text(), table, Text(), Text(key, style="dim"), *(Text(text) for text in sentences)]


def render(report: Report) -> Group:
    """The dataset-quality table, what the data are, a sentence for each domain, best-of-N, and the notes."""
    table = fill(titled("Dataset quality", _COLUMNS), map(_domain_cells, report.domains))
    key = "right: share of the rollouts with an outcome that are right; rank: of the mean (best–worst over runs)."
    parts: list[RenderableType] = [table, Text(), Text(key, style="dim")]
    parts += [Text(line) for line in (figures.training_sentence(report), figures.order_sentence(report)) if line]
    parts += [*_data(report), Text()]
    for row in report.domains:
        parts.append(Text.assemble((shortened(plain(row.domain), 60), "bold"), f": {row.explanation}"))
    if report.selection is not None:
        parts += [Text(), render_selection(report.selection)]
    if report.notes:
        parts.append(Text())
        parts += [Text(f"Note: {plain(note)}") for note in report.notes]
    return Group(*parts)


def render_selection(selection: Selection) -> Group:
    """Accuracy of every method and size, then every domain with the most candidates."""
    sizes = selection.sizes if len(selection.sizes) <= _SIZES else (selection.sizes[0], *selection.sizes[1 - _SIZES :])
    numbers: list[tuple[str, Justify]] = [(f"N = {size}", "right") for size in sizes]
    table = titled("Best of N, % right ± standard error", [("pick", "left"), *numbers, ("gain over random", "right")])
    for name, scores in figures.overall(selection):
        shown = [score for score in scores if score.size in sizes]
        cells = [name, *(figures.accuracy(score) for score in shown), figures.gain(scores[-1])]
        fill(table, [[Text(cell) for cell in cells]])
    size = selection.sizes[-1]
    methods: list[tuple[str, Justify]] = [(figures.METHOD_NAMES[method], "right") for method in selection.methods]
    domains = titled(f"By domain, N = {size}", [("domain", "left"), *methods, ("problems", "right")])
    for domain, found in figures.by_domain(selection):
        values = (found[method].accuracy if method in found else None for method in selection.methods)
        cells = [figures.percent(value, 1) for value in values]
        fill(domains, [[Text(cell) for cell in (plain(domain), *cells, str(found["random"].problems))]])
    missing = sum(selection.missing.values())
    lines = [Text(figures.selection_sentence(selection))]
    if missing:
        lines.append(Text(f"{missing:,} rollout scores are missing over {len(selection.runs)} runs; they rank last."))
    return Group(table, Text(), *lines, Text(), domains)
