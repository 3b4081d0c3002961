"""From weights of real and null runs to a verdict for each domain, and one plain sentence that explains it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prm import metrics
from prm.metrics import Interval, PairOrder
from prm.reporting.null_band import Band

UP, DOWN, SAME, UNKNOWN = "up", "down", "indistinguishable", "unknown"
VERDICTS = (UP, SAME, DOWN, UNKNOWN)
# Below this share of right rollouts a domain has next to no right step to learn from.
TOO_HARD = 0.1


@dataclass(frozen=True)
class Weighing:
    """A domain's weight: mean over runs, its interval (from 0 on), verdict, rank of the mean, best and worst rank."""

    weight: float
    interval: Interval
    verdict: str
    rank: int
    best_rank: int
    worst_rank: int


def judge(weight: float, band: Band | None) -> str:
    """`up` when the mean weight lies above what chance gives (the band), `down` below it, `unknown` without a band."""
    if band is None:
        return UNKNOWN
    if weight > band.high:
        return UP
    return DOWN if weight < band.low else SAME


def weigh(
    final: Mapping[str, Mapping[str, float]], bands: Mapping[str, Band], learned: bool = True
) -> dict[str, Weighing]:
    """Each domain's weighing over the real runs, by its band; fixed weights (`learned` false) have no verdict."""
    domains = sorted({domain for weights in final.values() for domain in weights})
    values = {domain: [w[domain] for w in final.values() if domain in w] for domain in domains}
    means = {domain: sum(part) / len(part) for domain, part in values.items()}
    overall = metrics.ranks(means)
    by_run = [metrics.ranks(weights) for weights in final.values()]
    weighings = {}
    for domain in domains:
        spread = metrics.within(metrics.interval(values[domain]), 0.0, math.inf)
        places = [ranks[domain] for ranks in by_run if domain in ranks]
        if spread is not None:
            verdict = judge(means[domain], bands.get(domain)) if learned else UNKNOWN
            weighings[domain] = Weighing(means[domain], spread, verdict, overall[domain], min(places), max(places))
    return weighings


def agreement(final: Mapping[str, Mapping[str, float]]) -> float | None:
    """Mean Kendall tau of the weights over all pairs of runs, in [-1, 1]; None below two comparable runs."""
    runs = list(final.values())
    taus = []
    for place, one in enumerate(runs):
        for other in runs[place + 1 :]:
            shared = sorted(one.keys() & other.keys())
            taus.append(metrics.kendall_tau([one[name] for name in shared], [other[name] for name in shared]))
    return metrics.mean([tau for tau in taus if tau is not None])


def planted_order(
    final: Mapping[str, Mapping[str, float]], bad: Sequence[str], clean: Sequence[str]
) -> dict[str, PairOrder]:
    """The order of (bad, clean) pairs in every run, over the domains that the run has; empty without such pairs."""
    if not bad or not clean:
        return {}
    return {
        run: metrics.pair_order(weights, [d for d in bad if d in weights], [d for d in clean if d in weights])
        for run, weights in final.items()
    }


def _range(interval: Interval, runs: int) -> str:
    if interval.method == "single":
        return "one run, so no interval"
    kind = "95 % interval" if interval.method == "t" else "range"
    return f"{kind} {interval.low:.2f} to {interval.high:.2f} over {runs} runs"


def explain(
    weighing: Weighing | None,
    band: Band | None,
    runs: int,
    accuracy: float | None,
    planted: Sequence[str],
    learned: bool = True,
    least: float = 1.0,
) -> str:
    """Why a domain has its verdict, in plain words."""
    return " ".join(
        part
        for part in (
            _weight_sentence(weighing, band, runs, learned, too_hard(accuracy), least),
            _hard_sentence(accuracy),
            _planted_sentence(weighing, planted),
        )
        if part
    )


def _weight_sentence(
    weighing: Weighing | None, band: Band | None, runs: int, learned: bool, hard: bool, least: float
) -> str:
    if weighing is None:
        return "No weight yet: it was not part of a training run."
    found = f"Weight {weighing.weight:.2f} ({_range(weighing.interval, runs)})"
    if not learned:
        return f"{found} was given, not learned, so there is no verdict."
    if band is None:
        return f"{found}; without a null run it cannot be told from chance, so there is no verdict."
    given = "its null band" if least == 1 else f"its null band with a factor of {least:g}"
    chance = f"{given} ({band.low:.2f} to {band.high:.2f})"
    if hard and weighing.verdict in (UP, DOWN):
        # Without step signal the weight moves for other reasons than the worth of the steps.
        return f"{found} lies {'above' if weighing.verdict == UP else 'below'} {chance}."
    if weighing.verdict == UP:
        return f"{found} lies above {chance}: its steps teach what the meta set needs."
    if weighing.verdict == DOWN:
        return f"{found} lies below {chance}: its steps teach little of what the meta set needs, or mislead."
    return f"{found} lies within {chance}: there is no reason to prefer or to drop it."


def too_hard(accuracy: float | None) -> bool:
    """Whether so few rollouts are right that the steps carry no signal."""
    return accuracy is not None and accuracy < TOO_HARD


def _hard_sentence(accuracy: float | None) -> str:
    if accuracy is None or not too_hard(accuracy):
        return ""
    return (
        f"Too hard ({100 * accuracy:.0f} % of its graded rollouts are right): it carries no step signal, which is not "
        "the same as bad; wrong gold answers would look the same."
    )


def _planted_sentence(weighing: Weighing | None, planted: Sequence[str]) -> str:
    if not planted:
        return ""
    defect = f"It has a planted defect ({', '.join(planted)})"
    if weighing is None or weighing.verdict in (UNKNOWN, SAME):
        return f"{defect}; these runs neither find nor miss it."
    if weighing.interval.method == "single":
        return f"{defect}; one run is too few to say whether the weight finds it."
    return f"{defect}, and the weight finds it." if weighing.verdict == DOWN else f"{defect}, and the weight misses it."
