"""The report and best-of-N for a terminal, by rich; fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prm.render import figures
from prm.reporting.columns import DATA, QUALITY, shown_in
from prm.reporting.compare import HEAVIER, LIGHTER
from prm.reporting.formats import harmless, percent, plain, shortened
from prm.reporting.model import Report
from prm.reporting.report_column import ReportColumn, arranged, grouped
from prm.reporting.verdict import DOWN, UP
from prm.scoring.select import Selection

R = TypeVar("R")
Justify = Literal["left", "right"]
_STYLES = {"verdict": {UP: "bold blue", DOWN: "bold yellow"}, "moved": {HEAVIER: "bold blue", LIGHTER: "bold yellow"}}
# Columns, and keys of columns, that stand before the others.
_FIRST, _FIRST_KEYS = ("weight_spread", "chance"), ("accuracy",)
# Characters in a line, and of those at least and at most in a name where it is longer.
_WIDTH, _NAME_LEAST, _NAME_WIDTH = 100, 13, 19

# Numbers of candidates that fit beside one another.
_SIZES = 4


def titled(title: str, columns: Sequence[tuple[str, Justify]], name_width: int = _NAME_WIDTH) -> Table:
    """An empty table whose first column is a name of at most so many characters."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", show_edge=False)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for place, (name, justify) in enumerate(columns):
        # Figures are never cut: only the first column, a name, gives way.
        widest = None if place else name_width
        table.add_column(name, justify=justify, no_wrap=True, min_width=None if place else 8, max_width=widest)
    return table


def fill(table: Table, rows: Iterable[Sequence[Text]]) -> Table:
    """Add rows; figures keep the width that they need."""
    for cells in rows:
        table.add_row(*cells)
        for column, cell in list(zip(table.columns, cells, strict=True))[1:]:
            column.min_width = max(column.min_width or 0, cell.cell_len, len(str(column.header)))
    return table


def named_tables(
    title: str, columns: Sequence[ReportColumn[R]], named: Sequence[tuple[str, R]]
) -> list[RenderableType]:
    """A table of (name, row): the name of each row and its columns, going on in further tables where a line is full."""
    made: list[RenderableType] = []
    for part, name_width in _fitting(columns, [row for _, row in named]):
        heads: list[tuple[str, Justify]] = [
            (harmless(each.heading_in("terminal")), "left" if each.left else "right") for each in part
        ]
        table = titled(f"{title}, continued" if made else title, [("domain", "left"), *heads], name_width)
        rows = [[Text(plain(name)), *(_cell(each, row) for each in part)] for name, row in named]
        made += [*([Text()] if made else []), fill(table, rows)]
    return made


def _cell(column: ReportColumn[R], row: R) -> Text:
    text = harmless(column.text(row, "terminal"))
    return Text(text, style=_STYLES.get(column.name, {}).get(text, ""))


def _fitting(columns: Sequence[ReportColumn[R]], rows: Sequence[R]) -> Iterator[tuple[list[ReportColumn[R]], int]]:
    """The columns in order, in groups that fit into a line, each with the characters that are left for a name."""
    group, left = list[ReportColumn[R]](), _WIDTH
    for column in columns:
        cells = (column.heading_in("terminal"), *(column.text(row, "terminal") for row in rows))
        # Between two columns are two spaces.
        width = 2 + max(map(cell_len, cells))
        if group and left - width < _NAME_LEAST:
            yield group, min(_NAME_WIDTH, left)
            group, left = [], _WIDTH
        group.append(column)
        left -= width
    yield group, min(_NAME_WIDTH, max(_NAME_LEAST, left))


def _tables(report: Report) -> dict[str, list[RenderableType]]:
    """Title -> table and key of what the report's columns say."""
    named = [(row.domain, row) for row in report.domains]
    made = {}
    for title, columns in grouped(shown_in("terminal", _FIRST), "terminal", (QUALITY, DATA), DATA):
        keys = [
            f"{column.heading_in('terminal')}: {shown.key}"
            for column in arranged(columns, _FIRST_KEYS)
            if (shown := column.terminal) and shown.key
        ]
        key = [Text(), Text(f"{'; '.join(keys)}.", style="dim")] if keys else []
        made[title] = [*named_tables(title, columns, named), *key]
    return made


def _sentences(*texts: str) -> list[Text]:
    return [Text(text) for text in texts if text]


def render(report: Report) -> Group:
    """The dataset-quality table, what the data are, a sentence for each domain, best-of-N, and the notes."""
    tables = _tables(report)
    parts = [*tables.pop(QUALITY), *_sentences(figures.training_sentence(report), figures.order_sentence(report))]
    parts += [Text(), *tables.pop(DATA)]
    parts += _sentences(
        figures.given_sentence(report),
        figures.no_answer_sentence(report),
        figures.licences_sentence(report),
        figures.spend_sentence(report),
    )
    for more in tables.values():
        parts += [Text(), *more]
    parts.append(Text())
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
        cells = [percent(value, 1) for value in values]
        fill(domains, [[Text(cell) for cell in (plain(domain), *cells, str(found["random"].problems))]])
    missing = sum(selection.missing.values())
    lines = [Text(figures.selection_sentence(selection))]
    if missing:
        lines.append(Text(f"{missing:,} rollout scores are missing over {len(selection.runs)} runs; they rank last."))
    return Group(table, Text(), *lines, Text(), domains)
