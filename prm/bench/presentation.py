"""What `prm eval` found, for a terminal and as Markdown; both show the same cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prm.bench.resample import Figure
from prm.bench.result import BenchmarkResult, Group
from prm.render.markdown import escape
from prm.reporting.formats import MISSING, count, number, plain

# So many runs are shown group by group on a terminal; more are one line each.
_IN_FULL = 3
# Shown without their intervals on a terminal, which is narrow.
_BARE = ("noise_floor", "bias")
_DECOMPOSITION = ("reliability", "resolution", "uncertainty", "within")


def share(figure: Figure | None, percent: bool) -> str:
    """A value with its interval, in per cent or with three decimals."""
    if figure is None or figure.value is None:
        return MISSING

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.3f}"

    ends = f" [{text(figure.low)}, {text(figure.high)}]" if figure.low is not None and figure.high is not None else ""
    return text(figure.value) + ends


def headline(result: BenchmarkResult) -> str:
    """The figure that the benchmark is known by, in one sentence."""
    percent = not _calibrates(result)
    figure = result.overall.figures.get(result.headline)
    unit = " %" if percent and figure is not None and figure.value is not None else ""
    name = result.shown.get(result.headline, result.headline.replace("_", " "))
    return f"{result.title}, {plain(result.run)}: {name} {share(figure, percent)}{unit}."


def _calibrates(result: BenchmarkResult) -> bool:
    return any(group.bins for group in result.groups)


def _titles(result: BenchmarkResult) -> list[str]:
    unit = "" if _calibrates(result) else ", %"
    return [f"{title}{unit}" for title in result.shown.values()]


def _head(result: BenchmarkResult) -> list[str]:
    return ["group", *_titles(result), "problems", "chains", "steps", "unscored"]


def _brief(result: BenchmarkResult, cells: list[str]) -> list[str]:
    """The table in fewer characters: without chains, and without what is unscored where all is scored."""
    bare = {place for place, name in enumerate(result.shown, start=1) if name in _BARE}
    left = {len(cells) - 3} | (set() if result.overall.counts.unscored else {len(cells) - 1})
    short = [cell.partition(" [")[0] if place in bare else cell for place, cell in enumerate(cells)]
    return [cell for place, cell in enumerate(short) if place not in left]


def _cells(result: BenchmarkResult, group: Group) -> list[str]:
    counts, percent = group.counts, not _calibrates(result)
    return [
        "all" if group.name is None else plain(group.name),
        *(share(group.figures.get(name), percent) for name in result.shown),
        *(count(each) for each in (counts.problems, counts.chains, counts.steps)),
        count(sum(counts.unscored.values())),
    ]


def _others(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Figures of all groups together that have no column."""
    percent = not _calibrates(result)
    named = result.overall.figures.items()
    return [(name.replace("_", " "), share(each, percent)) for name, each in named if name not in result.shown]


def sentences(result: BenchmarkResult) -> list[str]:
    """How the figures were made, and what they leave out."""
    told = [result.rule[:1].upper() + result.rule[1:]]
    if result.threshold is not None:
        one = result.threshold
        told.append(f"Threshold {one.value:.4g}: {one.rule}; a step above it is judged right.")
        if one.best_on_the_same_data is not None and one.headline_at_best is not None:
            told.append(
                f"The best of a hundred thresholds on these very data, {one.best_on_the_same_data:.4g}, would give "
                f"{100 * one.headline_at_best:.1f} %: an upper bound, not a result."
            )
    told.append(f"Intervals: {result.intervals}.")
    told.append(f"Account: {_account(result)}.")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.overall.counts.unscored.items())
    return told + ([f"Chains without scores: {reasons}."] if reasons else []) + list(result.notes)


def _account(result: BenchmarkResult) -> str:
    parts = []
    for name, value in result.account.items():
        if isinstance(value, dict):
            parts += [f"{count:,} {name.replace('_', ' ')} ({reason})" for reason, count in sorted(value.items())]
        else:
            parts.append(f"{value:,} {name.replace('_', ' ')}")
    return ", ".join(parts)


def bin_rows(group: Group) -> Iterator[list[str]]:
    """The cells of each bin of scores, under `BIN_HEAD`."""
    for each in group.bins:
        yield [
            f"{each.low:.2f}–{each.high:.2f}",
            count(each.steps),
            count(each.problems),
            number(each.predicted, 3),
            share(each.observed, True),
        ]


BIN_HEAD = ("score", "steps", "problems", "mean score", "target, %")


def terminal(results: Sequence[BenchmarkResult]) -> Stack:
    """Every result: its headline, and its groups where there are few results."""
    parts: list[RenderableType] = []
    for result in results:
        parts.append(Text(headline(result), style="bold"))
        if len(results) > _IN_FULL:
            continue
        parts.append(_table(_brief(result, _head(result)), [_brief(result, _cells(result, g)) for g in result.groups]))
        parts.append(Text())
        parts += [Text(f"{name}: {text}") for name, text in _others(result)]
        if result.overall.bins:
            parts += [Text(), _table(BIN_HEAD, list(bin_rows(result.overall)))]
        parts += [Text(line, style="dim") for line in sentences(result)] + [Text()]
    if len(results) > 1:
        parts.append(Text(_mean(results), style="bold"))
    if len(results) > _IN_FULL:
        parts.append(Text("The files have each run in full, group by group.", style="dim"))
    return Stack(*parts)


def _mean(results: Sequence[BenchmarkResult]) -> str:
    """The headline over several PRMs."""
    values = [result.overall.figures[result.headline].value for result in results]
    known = [value for value in values if value is not None]
    if not known:
        return f"No value in any of {len(results)} PRMs."
    percent = not _calibrates(results[0])
    low, centre, high = (share(Figure(value), percent) for value in (min(known), sum(known) / len(known), max(known)))
    name = results[0].shown.get(results[0].headline, results[0].headline.replace("_", " "))
    return f"{name}, mean of {len(known)} PRMs: {centre}, from {low} to {high}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(head):
        # Figures are never cut: on a narrow terminal an interval goes below its value. A name may be.
        if place:
            table.add_column(name, justify="right", overflow="fold")
        else:
            table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=8, max_width=19)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown(result: BenchmarkResult) -> str:
    """One result in full; every name is escaped."""
    lines = [f"# {escape(result.title)}: {escape(result.run)}", "", f"**{escape(headline(result))}**", ""]
    lines += _pipes(_head(result), [_cells(result, group) for group in result.groups])
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in _others(result)] + [""]
    for group in result.groups:
        if group.bins:
            lines += [f"## Reliability: {'all' if group.name is None else escape(group.name)}", ""]
            lines += [f"- {name}: {share(group.figures.get(name), False)}" for name in _DECOMPOSITION] + [""]
            lines += _pipes(BIN_HEAD, list(bin_rows(group)))
    lines += ["## How this was made", ""] + [f"- {escape(line)}" for line in sentences(result)]
    data = ", ".join(f"{name} {value}" for name, value in result.data.items() if value is not None)
    return "\n".join([*lines, f"- Data: {escape(data)}"]).rstrip() + "\n"


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(head) - 1)]
    escaped = [[escape(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in ([escape(name) for name in head], marks, *escaped)] + [""]
