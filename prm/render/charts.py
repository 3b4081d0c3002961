"""The page's charts as Plotly figures.

Colours are middle tones that hold on a light and on a dark ground and stay apart for colour-blind readers; verdicts
differ in their marker as well. Plotly reads a little HTML in its texts, so every name is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prm.metrics import Interval
from prm.render import figures
from prm.reporting import formats
from prm.reporting.model import Report
from prm.reporting.report_column import DomainRow
from prm.reporting.stats import Curve
from prm.reporting.verdict import DOWN, SAME, TOO_HARD, UNKNOWN, UP
from prm.scoring.select import Selection

COLOURS = {UP: "#3a83c5", DOWN: "#d1702a", SAME: "#858d99", UNKNOWN: "#858d99"}
SYMBOLS = {UP: "triangle-up", DOWN: "triangle-down", SAME: "circle", UNKNOWN: "circle-open"}
BAND = "rgba(133, 141, 153, 0.2)"
_METHODS = {
    "prm": "#3a83c5",
    "weighted": "#8b6cc4",
    "orm": "#c05a8e",
    "majority": "#d1702a",
    "first": "#b59a3c",
    "random": "#858d99",
    "oracle": "#4d9b86",
}
_DASHES = {
    "prm": "solid",
    "weighted": "dash",
    "orm": "longdashdot",
    "majority": "dashdot",
    "first": "longdash",
    "random": "dot",
    "oracle": "solid",
}
_SYMBOLS = {
    "prm": "circle",
    "weighted": "diamond",
    "orm": "pentagon",
    "majority": "square",
    "first": "triangle-up",
    "random": "x",
    "oracle": "star",
}
_NAME = 22


def name(text: str) -> str:
    """A name for a chart: one short line, escaped."""
    short = formats.plain(text)
    return html.escape(short if len(short) <= _NAME else f"{short[: _NAME - 1]}…")


def unique(domains: Sequence[str]) -> dict[str, str]:
    """Chart name of each domain; names that are equal once cut get their place added."""
    found: dict[str, str] = {}
    for place, domain in enumerate(domains, 1):
        short = name(domain)
        found[domain] = f"{short} ({place})" if short in found.values() else short
    return found


def layout(figure: go.Figure, height: int, **more: Any) -> go.Figure:
    """The look that all charts share; `height` in pixels."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 16, "t": 24, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
        hoverlabel={"align": "left"},
        template="none",
        **more,
    )
    figure.update_xaxes(automargin=True, zeroline=False, showline=False, ticks="", title_standoff=8, title_font_size=13)
    figure.update_yaxes(automargin=True, zeroline=False, showline=False, ticks="", title_standoff=8, title_font_size=13)
    return figure


def forest(report: Report) -> go.Figure | None:
    """Every domain's weight with its interval and its runs, on its band of chance; the heaviest on top."""
    rows = tuple(row for row in reversed(report.domains) if row.weight is not None)
    if not rows:
        return None
    names, figure = unique([row.domain for row in rows]), go.Figure()
    banded = [(names[row.domain], row.band) for row in rows if row.band is not None]
    if banded:
        figure.add_bar(y=[name for name, _ in banded], x=[band.high - band.low for _, band in banded],
            base=[band.low for _, band in banded], orientation="h", width=0.7, marker={"color": BAND, "line_width": 0},
            name="chance", customdata=[[band.low, band.high] for _, band in banded],
            hovertemplate="%{y}: null band %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>")  # fmt: skip
    for weights in report.final.values():
        here = [row for row in rows if row.domain in weights]
        figure.add_scatter(
            x=[weights[row.domain] for row in here],
            y=[names[row.domain] for row in here],
            mode="markers",
            marker={"size": 5, "color": "#858d99", "opacity": 0.6},
            hoverinfo="skip",
            showlegend=False,
        )
    for verdict in dict.fromkeys(row.verdict for row in reversed(rows)):
        part = [row for row in rows if row.verdict == verdict]
        figure.add_scatter(x=[row.weight for row in part], y=[names[row.domain] for row in part], name=verdict,
            mode="markers", marker={"size": 12, "color": COLOURS[verdict], "symbol": SYMBOLS[verdict]},
            error_x=errors(_spans(part), COLOURS[verdict]), hovertemplate="%{y}: %{x:.2f}<extra></extra>")  # fmt: skip
    layout(figure, 110 + 30 * len(rows))
    figure.update_yaxes(categoryorder="array", categoryarray=[names[row.domain] for row in rows], showgrid=False)
    figure.update_xaxes(title_text="domain weight")
    figure.update_layout(legend_y=-0.01 - 60 / (110 + 30 * len(rows)))
    return figure


def errors(spans: Sequence[tuple[float, Interval | None]], colour: str) -> dict[str, Any]:
    """Error bars from values and their intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - weight if interval else 0 for weight, interval in spans],
        "arrayminus": [weight - interval.low if interval else 0 for weight, interval in spans],
        "thickness": 2.5,
        "width": 0,
        "color": colour,
    }


def _spans(rows: Sequence[DomainRow]) -> list[tuple[float, Interval | None]]:
    return [(row.weight or 0, row.interval) for row in rows]


def ribbon(figure: go.Figure, curve: Curve, colour: str, **more: Any) -> None:
    """The area between a curve's lowest and highest."""
    figure.add_scatter(x=[*curve.steps, *reversed(curve.steps)], y=[*curve.high, *reversed(curve.low)], fill="toself",
        fillcolor=colour, line_width=0, mode="lines", hoverinfo="skip", **more)  # fmt: skip


def clear(colour: str) -> str:
    """The colour, nearly transparent."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


def weights(report: Report) -> go.Figure | None:
    """Weights over lower steps: mean over runs, lowest to highest as a ribbon, and the null runs'."""
    if not report.weights:
        return None
    figure, rows = go.Figure(), {row.domain: row for row in report.domains}
    names = unique([row.domain for row in report.domains])
    if report.null_curve is not None:
        ribbon(figure, report.null_curve, BAND, name="null runs", legendgroup="null")
    ends = []
    for curve in sorted(report.weights, key=lambda curve: -(curve.values[-1] or 0)):
        colour = COLOURS[rows[curve.name].verdict]
        ribbon(figure, curve, clear(colour), showlegend=False, legendgroup=curve.name)
        figure.add_scatter(x=curve.steps, y=curve.values, name=names[curve.name], mode="lines",
            line={"color": colour, "width": 2}, legendgroup=curve.name,
            hovertemplate="%{fullData.name}: %{y:.2f} at step %{x}<extra></extra>")  # fmt: skip
        ends.append((curve.values[-1] or 0.0, names[curve.name], rows[curve.name].verdict))
    layout(figure, 480, hovermode="closest")
    label_ends(figure, ends, [value for curve in report.weights for value in (*curve.low, *curve.high) if value])
    figure.update_xaxes(title_text="lower step")
    figure.update_yaxes(title_text="domain weight")
    return figure


def label_ends(figure: go.Figure, ends: list[tuple[float, str, str]], values: list[float]) -> None:
    """A name at the end of each line, heaviest first, pushed apart so that none covers another."""
    # One label needs about 16 of the 400 pixels that the axis spans.
    room, above = (max(values) - min(values)) * 16 / 400, float("inf")
    for value, text, verdict in ends:
        above = min(value, above - room)
        figure.add_annotation(x=1, xref="paper", xanchor="left", xshift=6, y=above, text=text, showarrow=False,
            font={"color": COLOURS[verdict], "size": 12}, name=f"end-label {verdict}")  # fmt: skip


def _places(rows: list[DomainRow]) -> dict[str, str]:
    """Where each point's name stands so that names and points cover one another least, heaviest first."""
    # Size of the plot in pixels, about; a name is about 6 pixels a letter wide and 14 high.
    tall, wide, weights = 340, 480, [row.weight or 0 for row in rows]
    spans = [span for row in rows for span in (row.interval, row.band) if span is not None]
    ends = [*weights, *(span.low for span in spans), *(span.high for span in spans)]
    scale = tall / ((max(ends) - min(ends)) or 1)
    points = {row.domain: ((row.facts.accuracy or 0) * wide, (row.weight or 0) * scale) for row in rows}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points.values()]
    chosen = {}
    for row in rows:
        (x, y), width = points[row.domain], 6 * min(len(row.domain), _NAME)
        boxes = {
            "middle right": (x + 8, y - 7, x + 8 + width, y + 7),
            "middle left": (x - 8 - width, y - 7, x - 8, y + 7),
            "top center": (x - width / 2, y + 8, x + width / 2, y + 22),
            "bottom center": (x - width / 2, y - 22, x + width / 2, y - 8),
        }
        # What stands outside of the plot, over the axis or cut off, counts like what covers something.
        cost = {
            name: _covered(box, taken) + 14 * (max(0, box[2] - wide) + max(0, -25 - box[0]))
            for name, box in boxes.items()
        }
        chosen[row.domain] = min(boxes, key=lambda name: cost[name])
        taken.append(boxes[chosen[row.domain]])
    return chosen


def _covered(box: tuple[float, ...], taken: Sequence[tuple[float, ...]]) -> float:
    """Area of `box` that others cover."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )


def scatter(report: Report) -> go.Figure | None:
    """Weight against the share of right rollouts: what the weight says beyond how hard a domain is."""
    rows = [row for row in report.domains if row.weight is not None and row.facts.accuracy is not None]
    if not rows:
        return None
    names, figure, places = unique([row.domain for row in report.domains]), go.Figure(), _places(rows)
    banded = [(row.facts.accuracy, row.band) for row in rows if row.band is not None]
    if banded:
        figure.add_bar(x=[accuracy for accuracy, _ in banded], y=[band.high - band.low for _, band in banded],
            base=[band.low for _, band in banded], width=0.02, marker={"color": BAND, "line_width": 0},
            name="chance", hoverinfo="skip")  # fmt: skip
    for verdict in dict.fromkeys(row.verdict for row in rows):
        part = [row for row in rows if row.verdict == verdict]
        figure.add_scatter(x=[row.facts.accuracy for row in part], y=[row.weight for row in part],
            text=[names[row.domain] for row in part], name=verdict, mode="markers+text",
            textposition=[places[row.domain] for row in part],
            textfont_size=11, cliponaxis=False, error_y=errors(_spans(part), COLOURS[verdict]) | {"thickness": 1.5},
            marker={"size": 11, "color": COLOURS[verdict], "symbol": SYMBOLS[verdict]},
            hovertemplate="%{text}: %{x:.0%} right, weight %{y:.2f}<extra></extra>")  # fmt: skip
    if any(row.too_hard for row in rows):
        figure.add_vline(x=TOO_HARD, line={"dash": "dot", "width": 1, "color": "#858d99"})
        figure.add_annotation(x=TOO_HARD, y=1, yref="paper", yanchor="top", xanchor="left", text="too hard below",
            showarrow=False, font_size=11, xshift=3)  # fmt: skip
    layout(figure, 480)
    figure.update_xaxes(title_text="right rollouts", tickformat=".0%", range=[-0.06, 1])
    figure.update_yaxes(title_text="domain weight")
    return figure


def losses(report: Report) -> go.Figure | None:
    """Train loss of each domain, and the meta loss below."""
    if not report.losses and report.meta_loss is None:
        return None
    rows, names = {row.domain: row for row in report.domains}, unique([row.domain for row in report.domains])
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.08)
    for curve in report.losses:
        verdict = rows[curve.name].verdict
        figure.add_scatter(x=curve.steps, y=curve.values, name=names[curve.name], mode="lines", showlegend=False,
            line={"color": COLOURS[verdict], "width": 1.5}, opacity=0.85, row=1, col=1,
            hovertemplate="%{fullData.name}: %{y:.3f} at step %{x}<extra></extra>")  # fmt: skip
    if report.meta_loss is not None:
        figure.add_scatter(x=report.meta_loss.steps, y=report.meta_loss.values, mode="lines", showlegend=False,
            line={"color": "#4d9b86", "width": 2}, row=2, col=1,
            hovertemplate="meta loss: %{y:.3f} at step %{x}<extra></extra>")  # fmt: skip
    layout(figure, 480)
    figure.update_yaxes(title_text="train loss", row=1, col=1)
    figure.update_yaxes(title_text="meta loss", row=2, col=1)
    figure.update_xaxes(title_text="lower step", row=2, col=1)
    return figure


def best_of_n(selection: Selection | None) -> go.Figure | None:
    """Accuracy of every method over N, with 95 % intervals over problems."""
    if selection is None:
        return None
    figure = go.Figure()
    for place, (method, label) in enumerate(figures.METHOD_NAMES.items()):
        scores = [score for size in selection.sizes if (score := selection.find(method, size)) is not None]
        if not scores:
            continue
        ends = [(one.interval.low, one.interval.high) if one.interval else (one.accuracy,) * 2 for one in scores]
        above = [high - score.accuracy for (_, high), score in zip(ends, scores, strict=True)]
        below = [score.accuracy - low for (low, _), score in zip(ends, scores, strict=True)]
        # Side by side, or their bars would hide one another.
        figure.add_scatter(x=[score.size * 1.03 ** (place - 2.5) for score in scores],
            y=[score.accuracy for score in scores], name=label, mode="lines+markers",
            line={"color": _METHODS[method], "dash": _DASHES[method]},
            marker={"symbol": _SYMBOLS[method], "size": 8}, customdata=[score.size for score in scores],
            error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 3},
            hovertemplate="%{fullData.name}, N = %{customdata}: %{y:.1%}<extra></extra>")  # fmt: skip
    layout(figure, 420)
    figure.update_yaxes(title_text="problems answered right", tickformat=".0%", range=[0, 1.02])
    figure.update_xaxes(title_text="candidates N", type="log", tickvals=list(selection.sizes),
        ticktext=[str(size) for size in selection.sizes])  # fmt: skip
    return figure
