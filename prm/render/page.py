"""One HTML page that needs no network: styles, script, charts and images are all inside it.

Every text is escaped by the template; the page's own policy (Content-Security-Policy) forbids it to load anything but
the chains of its browser (`prm.render.browse`), where it has one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prm.render import charts, difference, evidence, figures, scripts
from prm.reporting import formats
from prm.reporting.columns import COLUMNS, shown_in
from prm.reporting.model import Report
from prm.reporting.report_column import grouped
from prm.reporting.verdict import VERDICTS
from prm.scoring.select import METHODS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from prm.reporting.compare import Comparison

# Longer texts in a chain are cut, and say by how much.
_LONGEST = 4000
# Groups of columns in their order, and columns that stand before the others of their group.
_TITLES, _FIRST = ("weight", "data", "rollouts", "step labels", "train loss", ""), ("planted",)
_SIGNS = {"up": "▲", "down": "▼", "indistinguishable": "●", "unknown": "○"}


def _made(text: str) -> bool:
    """Whether it is markup of ours, which holds no text that was not looked at."""
    return isinstance(text, Markup)


@cache
def _environment() -> Environment:
    loader = PackageLoader("prm.render")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: formats.lines(value) if isinstance(value, str) and not _made(value) else value,
    )
    environment.filters |= {
        "number": formats.number,
        "percent": formats.percent,
        "count": formats.count,
        "accuracy": figures.accuracy,
        "gain": figures.gain,
        "cut": lambda text: formats.shortened(text, _LONGEST),
        "sign": lambda verdict: _SIGNS[verdict],
        "outcome": lambda outcome: {True: "right", False: "wrong", None: "undecided"}[outcome],
    }
    return environment


def _asset(name: str) -> Markup:
    """A style or script of ours, as it stands."""
    environment = _environment()
    assert environment.loader is not None  # noqa: S101
    return Markup(environment.loader.get_source(environment, name)[0])  # noqa: S704


def embedded(value: Any) -> Markup:
    """JSON for a script element: no character in it can end the element or start another."""
    return Markup(scripts.literal(value))  # noqa: S704


def _chart(identity: str, figure: go.Figure | None, title: str, text: str, label: str) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {
        "id": identity,
        "title": title,
        "text": text,
        "label": label,
        "height": figure.layout.height,
        "figure": embedded(json.loads(figure.to_json())),
    }


def _weights_label(report: Report) -> str:
    weighed = [f"{formats.plain(row.domain)} {row.weight:.2f}" for row in report.domains if row.weight is not None]
    return f"Weights, heaviest first: {', '.join(weighed)}. The table below has the same figures."


def _charts(report: Report) -> dict[str, dict[str, Any] | None]:
    table = "The table of domains has the figures."
    sentence = figures.selection_sentence(report.selection) if report.selection else ""
    return {
        "forest": _chart(
            "chart-forest",
            charts.forest(report),
            "What each domain is worth",
            "Mean over runs with its interval; small dots are the runs. Grey: the domain's null band.",
            _weights_label(report),
        ),
        "weights": _chart(
            "chart-weights",
            charts.weights(report),
            "Weights while training",
            "Line: mean over runs. Ribbon: lowest to highest run. Grey: lowest to highest weight of any null run.",
            f"Domain weights over lower steps, ending at the weights of the table. {table}",
        ),
        "running": _chart(
            "chart-running",
            evidence.running_t(report),
            "Evidence while training",
            "Running t of what each domain's gradient does for the meta loss, from the tenth update on. Grey: about "
            "what noise alone gives.",
            f"Running t over lower steps. {table}",
        ),
        "tokens": _chart(
            "chart-tokens",
            evidence.tokens(report),
            "Tokens generated",
            "By domain: rollouts, completions that label their steps, the judge, and the other sets.",
            "Generated tokens by domain and kind. The table below has the figures.",
        ),
        "scatter": _chart(
            "chart-scatter",
            charts.scatter(report),
            "Weight against difficulty",
            "Across: share of graded rollouts that are right. A weight that only followed it would say nothing new.",
            f"Domain weight against the share of right rollouts. {table}",
        ),
        "losses": _chart(
            "chart-losses",
            charts.losses(report),
            "Losses",
            "Train loss of each domain, and below it the loss on the meta set; means over runs.",
            f"Train loss by domain and meta loss over lower steps. {table}",
        ),
        "best": _chart(
            "chart-best",
            charts.best_of_n(report.selection),
            "Share of problems answered right",
            "Mean over all subsets of N rollouts of each problem; bars show two standard errors over problems.",
            f"{sentence} The table below has the figures.",
        ),
    }


def _shared(title: str, theme: str, loads: str) -> dict[str, Any]:
    """What every page has: style and scripts; `loads` is what it may load besides what is in it."""
    return {
        "title": title,
        "theme": theme,
        "may_load": loads,
        "plotly": Markup(get_plotlyjs()),  # noqa: S704
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "missing": formats.MISSING,
    }


def render(report: Report, theme: str = "auto", browser: Mapping[str, Any] | None = None) -> str:
    """The page; `theme` is "auto", "light" or "dark", `browser` what `Browse.setup` says, for the browser of chains."""
    counts = Counter(row.verdict for row in report.domains)
    selection = report.selection
    # A page from disk has no origin of its own; Chromium's 'self' covers its neighbours, others need the scheme.
    loads = " 'self' file:" if browser else ""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **_shared(f"Dataset quality: {report.workspace}", theme, loads),
            report=report,
            columns=grouped(shown_in("page", _FIRST), "page", _TITLES),
            further=[column for column in shown_in("page") if column not in COLUMNS],
            browser=browser,
            browser_data=embedded(browser),
            browser_script=_asset("browser.js") if browser else "",
            verdicts=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
            charts=_charts(report),
            training_sentence=figures.training_sentence(report),
            spend_sentence=figures.spend_sentence(report),
            order_sentence=figures.order_sentence(report),
            given_sentence=figures.given_sentence(report),
            no_answer_sentence=figures.no_answer_sentence(report),
            selection_sentence=figures.selection_sentence(selection) if selection else "",
            best={method: selection and selection.find(method, selection.sizes[-1]) for method in METHODS},
            overall=figures.overall(selection) if selection else [],
            by_domain=figures.by_domain(selection) if selection else [],
            methods=[(method, figures.METHOD_NAMES[method]) for method in (selection.methods if selection else ())],
            chain_domains=sorted({chain.domain for chain in report.chains}),
        )
    )


def render_difference(comparison: Comparison, theme: str = "auto") -> str:
    """The page of two workspaces."""
    chart = _chart(
        "chart-difference",
        evidence.differences(comparison),
        "Weight in A minus weight in B",
        "Difference of the means over runs with its 95 % interval.",
        "Differences of domain weights. The table below has the figures.",
    )
    title = f"Difference: {comparison.a} against {comparison.b}"
    template = _environment().get_template("difference.html.j2")
    shared = _shared(title, theme, "")
    return template.render(
        **shared,
        comparison=comparison,
        columns=difference.shown_difference("page"),
        chart=chart,
        summary=difference.summary(comparison),
    )
