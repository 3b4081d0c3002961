"""More charts: running t, spent tokens, and the differences of two workspaces. Style as in `prm.render.charts`."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from prm.render import charts
from prm.reporting.compare import HEAVIER, LIGHTER, SAME, UNKNOWN, Comparison
from prm.reporting.model import Report

_KINDS = (
    ("train", "rollouts", "rollouts, train", "#3a83c5", ""),
    ("train", "completions", "completions for labels", "#d1702a", "/"),
    ("train", "judge", "judge", "#4d9b86", "x"),
    ("meta", None, "meta set", "#b59a3c", "."),
    ("test", None, "test set", "#858d99", ""),
)
_MOVED = {HEAVIER: "#3a83c5", LIGHTER: "#d1702a", SAME: "#858d99", UNKNOWN: "#858d99"}
_MARKS = {HEAVIER: "triangle-up", LIGHTER: "triangle-down", SAME: "circle", UNKNOWN: "circle-open"}


def running_t(report: Report) -> go.Figure | None:
    """Running t of each domain's dots over steps: mean over runs, lowest to highest as a ribbon; grey is noise."""
    if not report.running:
        return None
    figure, rows = go.Figure(), {row.domain: row for row in report.domains}
    names, ends = charts.unique([row.domain for row in report.domains]), []
    figure.add_hrect(y0=-2, y1=2, fillcolor=charts.BAND, line_width=0, layer="below")
    for curve in sorted(report.running, key=lambda curve: -(curve.values[-1] or 0)):
        verdict = rows[curve.name].verdict
        colour = charts.COLOURS[verdict]
        charts.ribbon(figure, curve, charts.clear(colour), showlegend=False, legendgroup=curve.name)
        figure.add_scatter(x=curve.steps, y=curve.values, name=names[curve.name], mode="lines",
            line={"color": colour, "width": 2}, legendgroup=curve.name,
            hovertemplate="%{fullData.name}: t %{y:.1f} at step %{x}<extra></extra>")  # fmt: skip
        ends.append((curve.values[-1] or 0.0, names[curve.name], verdict))
    charts.layout(figure, 480, hovermode="closest")
    spread = [value for curve in report.running for value in (*curve.low, *curve.high) if value is not None]
    charts.label_ends(figure, ends, [*spread, -2.0, 2.0])
    figure.update_xaxes(title_text="lower step")
    figure.update_yaxes(title_text="running t")
    return figure


def tokens(report: Report) -> go.Figure | None:
    """Generated tokens of each domain, by role and kind; the dearest on top."""
    totals: dict[str, int] = {}
    for one in report.token_usage:
        totals[one.domain] = totals.get(one.domain, 0) + one.generated
    domains = sorted((domain for domain, total in totals.items() if total), key=lambda domain: totals[domain])
    if not domains:
        return None
    names, figure = charts.unique(domains), go.Figure()
    for role, kind, label, colour, pattern in _KINDS:
        found = {
            one.domain: one.generated if kind is None else getattr(one, kind) or 0
            for one in report.token_usage
            if one.role == role
        }
        shown = [domain for domain in domains if found.get(domain)]
        if shown:
            figure.add_bar(y=[names[domain] for domain in shown], x=[found[domain] for domain in shown], name=label,
                orientation="h", marker={"color": colour, "pattern": _hatched(pattern)},
                hovertemplate="%{y}, " + label + ": %{x:,} tokens<extra></extra>")  # fmt: skip
    height = 130 + 26 * len(domains)
    charts.layout(figure, height, barmode="stack", bargap=0.3)
    figure.update_yaxes(categoryorder="array", categoryarray=[names[domain] for domain in domains], showgrid=False)
    figure.update_xaxes(title_text="generated tokens", tickformat="~s")
    figure.update_yaxes(ticklabelstandoff=6)
    figure.update_layout(legend_y=-60 / height, legend_traceorder="normal")
    return figure


def _hatched(shape: str) -> dict[str, Any]:
    """A pattern over the bar's own colour, for those who cannot tell the colours apart."""
    return {"shape": shape, "solidity": 0.2, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.55, "size": 7}


def differences(comparison: Comparison) -> go.Figure | None:
    """Difference of each domain's weight with its interval; the largest on top."""
    rows = [change for change in reversed(comparison.domains) if change.difference is not None]
    if not rows:
        return None
    names, figure = charts.unique([change.domain for change in rows]), go.Figure()
    for moved in dict.fromkeys(change.moved for change in reversed(rows)):
        part = [change for change in rows if change.moved == moved]
        spans = [(change.difference or 0, change.interval) for change in part]
        figure.add_scatter(x=[change.difference for change in part], y=[names[change.domain] for change in part],
            name=moved, mode="markers", marker={"size": 12, "color": _MOVED[moved], "symbol": _MARKS[moved]},
            error_x=charts.errors(spans, _MOVED[moved]), hovertemplate="%{y}: %{x:+.2f}<extra></extra>")  # fmt: skip
    height = 110 + 30 * len(rows)
    charts.layout(figure, height)
    figure.add_vline(x=0, line={"width": 1.5, "color": "#858d99"})
    figure.update_yaxes(categoryorder="array", categoryarray=[names[change.domain] for change in rows], showgrid=False)
    figure.update_xaxes(title_text="weight in A - weight in B")
    figure.update_layout(legend_y=-0.01 - 60 / height)
    return figure
