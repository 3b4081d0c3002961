"""Sentences and figures that every form of the report has, as text."""

from __future__ import annotations

from collections.abc import Mapping

from prm.metrics import PairOrder
from prm.reporting.formats import count, percent, plain
from prm.reporting.model import Report
from prm.scoring.select import BY_RUN, METHODS, Score, Selection

METHOD_NAMES = {
    "prm": "PRM",
    "weighted": "weighted vote",
    "orm": "ORM",
    "majority": "majority vote",
    "first": "first",
    "random": "random pick",
    "oracle": "oracle",
}

# Of more runs than these the lowest and the highest are told, not each.
_NAMED = 6


def licences_sentence(report: Report) -> str:
    """Which licence which domains have; empty before any problem came in."""
    by_licence: dict[str, list[str]] = {}
    for row in report.domains:
        if row.facts.problems:
            by_licence.setdefault(", ".join(row.facts.licences) or "none given", []).append(plain(row.domain))
    parts = [f"{plain(licence)} ({', '.join(domains)})" for licence, domains in by_licence.items()]
    if by_licence.keys() == {"none given"}:
        return "No licence is given."
    if len(parts) == 1:
        return f"Licence of every domain: {plain(next(iter(by_licence)))}."
    return f"Licences: {'; '.join(parts)}." if parts else ""


def given_sentence(report: Report) -> str:
    """How many training rollouts were not sampled here, and of which domains; empty where all were."""
    return _of_rollouts(report, "given", "were imported or came with a source, and were not sampled here")


def no_answer_sentence(report: Report) -> str:
    """In how many training rollouts no rule reads an answer, and of which domains; empty where there are none."""
    return _of_rollouts(report, "no_answer", "have no answer that a rule can read, and count as wrong")


def _of_rollouts(report: Report, fact: str, what: str) -> str:
    """How many training rollouts a count of the facts holds, and of which domains; empty where it is 0."""
    found = [(row, getattr(row.facts, fact)) for row in report.domains if getattr(row.facts, fact)]
    if not found:
        return ""
    total = sum(row.facts.rollouts for row in report.domains)
    parts = ", ".join(f"{plain(row.domain)} {count:,} of {row.facts.rollouts:,}" for row, count in found)
    return f"{sum(count for _, count in found):,} of {total:,} training rollouts {what} ({parts})."


def spend_sentence(report: Report) -> str:
    """Tokens generated in all, by kind; empty where none are known."""
    kinds = ("rollouts", "completions", "judge")
    totals = {
        kind: [getattr(one, kind) for one in report.token_usage if getattr(one, kind) is not None] for kind in kinds
    }
    parts = [
        f"{sum(values):,} for {'the ' if kind == 'judge' else ''}{kind}" for kind, values in totals.items() if values
    ]
    total = sum(sum(values) for values in totals.values())
    return f"{total:,} tokens generated: {', '.join(parts)}." if parts else ""


def order(pairs: PairOrder) -> str:
    """Such as `33 of 35 (94 %)`."""
    return f"{pairs.right:,} of {pairs.total:,} ({percent(pairs.share)})"


def accuracy(score: Score) -> str:
    """Per cent with its standard error over problems."""
    error = "" if score.standard_error is None else f" ± {100 * score.standard_error:.1f}"
    return f"{100 * score.accuracy:.1f}{error}"


def gain(score: Score) -> str:
    """Points above a random pick, with the paired standard error."""
    error = "" if score.gain_error is None else f" ± {100 * score.gain_error:.1f}"
    return f"{100 * score.gain:+.1f}{error}"


def overall(selection: Selection) -> list[tuple[str, list[Score]]]:
    """(method, its overall scores by size), with one line for each run below the mean over runs."""
    lines = []
    for method in METHODS:
        runs = selection.orms if method == "orm" else selection.runs
        several = method in BY_RUN and len(runs) > 1
        # Single runs of the PRM alone: what they spread is much the same for all methods.
        for run in (None, *selection.runs) if several and method == "prm" else (None,):
            found = [selection.find(method, size, None, run) for size in selection.sizes]
            name = METHOD_NAMES[method] if run is None else f"PRM {plain(run)}"
            mean = " (mean of runs)" if several and run is None else ""
            lines.append((name + mean, [score for score in found if score is not None]))
    return [(name, scores) for name, scores in lines if scores]


def by_domain(selection: Selection) -> list[tuple[str, dict[str, Score]]]:
    """(domain, scores by method) with the most candidates."""
    size = selection.sizes[-1]
    domains = sorted({score.domain for score in selection.scores if score.domain is not None and score.size == size})
    lines = []
    for domain in domains:
        found = {method: selection.find(method, size, domain) for method in METHODS}
        lines.append((domain, {method: score for method, score in found.items() if score is not None}))
    return lines


def selection_sentence(selection: Selection) -> str:
    """What the PRM gains, in one sentence."""
    size = selection.sizes[-1]
    scores = {method: selection.find(method, size) for method in METHODS}
    prm, chance, vote, ceiling = (scores[name] for name in ("prm", "random", "majority", "oracle"))
    if prm is None or chance is None or vote is None or ceiling is None:
        return ""
    return (
        f"Best of {size}: the PRM's pick is right in {percent(prm.accuracy, 1)} of {count(prm.problems)} problems, "
        f"{gain(prm)} points against a random pick; majority vote {percent(vote.accuracy, 1)}, "
        f"oracle {percent(ceiling.accuracy, 1)}."
    )


def training_sentence(report: Report) -> str:
    """How many runs and updates, and how many null runs."""
    if not report.runs:
        return ""
    runs = f"{len(report.runs)} run{'s' * (len(report.runs) > 1)}, {report.updates:,} weight updates each"
    if report.cosine is not None:
        runs += f", successive meta directions with a mean cosine of {report.cosine:.2f}"
    if not report.null_runs:
        return f"{runs}; no null run."
    null = f"{report.null_runs} run{'s' * (report.null_runs > 1)} with shuffled meta labels"
    return f"{runs}; {null} show what happens by chance."


def order_sentence(report: Report) -> str:
    """How many (bad, clean) pairs are in the right order; empty without planted defects."""
    if not report.planted:
        return ""
    return (
        f"Planted defects: {order(report.planted_total)} (bad, clean) domain pairs are in the right order "
        f"({_by_run(report.planted)}); domains that are too hard are left out.{_controls(report)}"
    )


def _by_run(orders: Mapping[str, PairOrder]) -> str:
    if len(orders) <= _NAMED:
        return ", ".join(f"{plain(run)} {pairs.right}/{pairs.total}" for run, pairs in orders.items())
    least, *_, maximum = sorted(orders.values(), key=lambda pairs: pairs.share or 0.0)
    return f"{least.right}/{least.total} to {maximum.right}/{maximum.total} in single runs"


def _controls(report: Report) -> str:
    if not report.planted_controls:
        return ""
    found = f" With shuffled meta labels it is {order(report.controls_total)} ({_by_run(report.planted_controls)})"
    return f"{found}; half would be chance."
