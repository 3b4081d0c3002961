"""The page of a calibration: reliability diagrams with intervals, and the tables behind them. One HTML file, as the
report's page; nothing is loaded from anywhere.
"""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prm.bench import presentation
from prm.bench.result import BenchmarkResult, Group
from prm.render import charts
from prm.render.page import embedded
from prm.reporting import formats

_LINE, _POINT, _BAR = "#858d99", "#3a83c5", "rgba(133, 141, 153, 0.35)"


def diagram(group: Group) -> go.Figure:
    """Mean target of each bin of scores over its mean score, with its interval; below, how many steps a bin has.

    On the dashed line a score says what comes true.
    """
    bins, figure = group.bins, go.Figure()
    observed = [each.observed.value or 0.0 for each in bins]
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": _LINE, "dash": "dash", "width": 1.5},
        name="calibrated", hoverinfo="skip")  # fmt: skip
    error = {
        "type": "data",
        "symmetric": False,
        "array": [_gap(each.observed.high, value) for each, value in zip(bins, observed, strict=True)],
        "arrayminus": [_gap(value, each.observed.low) for each, value in zip(bins, observed, strict=True)],
        "thickness": 2,
        "width": 4,
        "color": _POINT,
    }
    figure.add_scatter(x=[each.predicted for each in bins], y=observed, error_y=error, mode="markers",
        marker={"size": 9, "color": _POINT}, name="mean target, 95 % interval",
        customdata=[[each.steps, each.problems] for each in bins],
        hovertemplate="score %{x:.3f}: %{y:.1%} of %{customdata[0]:,} steps, %{customdata[1]:,} problems"
        "<extra></extra>")  # fmt: skip
    total = sum(each.steps for each in bins)
    figure.add_bar(x=[(each.low + each.high) / 2 for each in bins], y=[each.steps / total for each in bins],
        width=[each.high - each.low for each in bins], marker={"color": _BAR, "line_width": 0}, yaxis="y2",
        name="share of steps", hovertemplate="%{y:.1%} of steps<extra></extra>")  # fmt: skip
    charts.layout(figure, 460)
    figure.update_layout(yaxis={"domain": [0.26, 1]}, yaxis2={"domain": [0, 0.2], "anchor": "x"})
    figure.update_xaxes(title_text="score", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="target", range=[-0.03, 1.03], tickformat=".0%", selector={"anchor": None})
    steps = {"text": "steps", "font": {"size": 13}}
    figure.update_layout(yaxis2={"tickformat": ".0%", "title": steps, "showgrid": False}, xaxis={"anchor": "y2"})
    return figure


def _gap(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else max(0.0, high - low)


def page(result: BenchmarkResult) -> str:
    """The page: all steps together first, then every group."""
    groups = sorted(result.groups, key=lambda group: (group.name is not None, group.name or ""))
    environment = Environment(
        loader=PackageLoader("prm.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = {name: PackageLoader("prm.render").get_source(environment, f"page.{name}")[0] for name in ("css", "js")}
    return environment.get_template("reliability.html.j2").render(
        result=result,
        headline=presentation.headline(result),
        sentences=presentation.sentences(result),
        charts=[_chart(place, group) for place, group in enumerate(groups) if group.bins],
        tables=[_figures(result), *(_table(group) for group in groups if group.bins)],
        style=Markup(assets["css"]),  # noqa: S704
        script=Markup(assets["js"]),  # noqa: S704
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )


def _chart(place: int, group: Group) -> dict[str, Any]:
    figure, name = diagram(group), _name(group)
    said = ", ".join(f"{each.predicted:.2f} gave {each.observed.value or 0:.2f}" for each in group.bins)
    return {
        "id": f"reliability-{place}",
        "title": f"Reliability: {name}",
        "text": f"{group.counts.steps:,} steps of {group.counts.problems:,} problems. On the dashed line, scores say "
        "what comes true.",
        "label": f"Mean score and mean target of each bin: {said}. The tables have the figures.",
        "height": figure.layout.height,
        "figure": embedded(json.loads(figure.to_json())),
    }


def _name(group: Group) -> str:
    return "all" if group.name is None else formats.plain(group.name)


def _figures(result: BenchmarkResult) -> dict[str, Any]:
    head = ["group", *(name.replace("_", " ") for name in result.overall.figures), "steps", "problems"]
    rows = [
        [
            _name(group),
            *(presentation.share(group.figures.get(name), False) for name in result.overall.figures),
            formats.count(group.counts.steps),
            formats.count(group.counts.problems),
        ]
        for group in result.groups
    ]
    return {"title": "Figures, with 95 % intervals", "head": head, "rows": rows}


def _table(group: Group) -> dict[str, Any]:
    rows = list(presentation.bin_rows(group))
    return {"title": f"Reliability: {_name(group)}", "head": presentation.BIN_HEAD, "rows": rows}
