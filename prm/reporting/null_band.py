"""Where weights end when the meta set says nothing: a band for each domain, from null runs. Pure.

Weights are taken as log-normal over null runs. Domains differ in how far chance carries them (a domain with large
gradients goes far), and a handful of null runs says little about one domain, so variances are moderated: each is drawn
towards what all domains have in common, as far as they are alike (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1)).
The bands hold together: in 95 of 100 runs without signal no domain at all lies outside its band.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import digamma, polygamma

from prm import metrics

LEVEL = 0.95
# What all domains together say about one counts for so many null runs at most: how alike they are is itself known
# badly from a few, and bands then held too seldom (88 instead of 95 of 100 with two null runs and eight domains).
_PRIOR_MAX = 4.0
_MANY = 1e4
# A domain with an eighth of a neutral weight is as good as left out, and one with eight times is most of the batch: how
# far beyond that runs differ (0.03 and 0.002) is a large difference of logarithms and none to anybody.
_FAR = 8.0
_TINY = 1e-12


@dataclass(frozen=True)
class Band:
    """Band of chance for one domain: its edges, what null runs give in the mean, and from how many null runs."""

    low: float
    high: float
    centre: float
    runs: int

    def scaled(self, factor: float) -> Band:
        """The band for weights that are all this much larger."""
        return Band(self.low * factor, self.high * factor, self.centre * factor, self.runs)

    def reaching(self, low: float, high: float) -> Band:
        """The band, widened to reach from `low` to `high` at least."""
        return replace(self, low=min(self.low, low), high=max(self.high, high))


@dataclass(frozen=True)
class WeightSpread:
    """Spread of a domain's log weight over runs: its variance with degrees of freedom, its mean, and over how many
    runs.
    """

    variance: float
    freedom: float
    centre: float
    runs: int


def spreads(runs: Mapping[str, Mapping[str, float]]) -> dict[str, WeightSpread]:
    """Domain -> its spread over these runs, from weights run -> domain -> weight; variances are moderated.

    Domains that some run lacks are judged from those that have them.
    """
    domains = sorted({domain for weights in runs.values() for domain in weights})
    logs = {name: [math.log(max(w[name], _TINY)) for w in runs.values() if name in w] for name in domains}
    variances, freedoms = _moderated(logs) if logs else ({}, {})
    return {
        name: WeightSpread(variances[name], freedoms[name], math.fsum(values) / len(values), len(values))
        for name, values in logs.items()
    }


def null_bands(
    null: Mapping[str, Mapping[str, float]], own: Mapping[str, WeightSpread] | None = None
) -> dict[str, Band]:
    """Domain -> its band, from final weights run -> domain -> weight of null runs; empty without any.

    A new run without signal has all its domains inside with probability `LEVEL`. With `own` the bands are of means over
    runs that differ from one another for reasons of their own (their batches), by these spreads of such a mean: what is
    judged lies outside only when neither kind of chance explains it (Welch 1947, Biometrika 34, 28-35).
    """
    found = spreads(null)
    if len(found) < 2:
        # One weight of mean 1 never moves.
        return {}
    bands = {}
    for name, one in found.items():
        here = one.variance * (1 + 1 / one.runs)
        there, freedom = (own[name].variance, own[name].freedom) if own and name in own else (0.0, 1.0)
        total = here + there
        # Welch's and Satterthwaite's degrees of freedom of a sum of two estimated variances.
        together = total**2 / (here**2 / one.freedom + there**2 / freedom) if total else one.freedom
        reach = metrics.student_quantile(1 - (1 - LEVEL) / (2 * len(found)), together)
        half = reach * math.sqrt(total)
        bands[name] = Band(math.exp(one.centre - half), math.exp(one.centre + half), math.exp(one.centre), one.runs)
    return bands


def bands_for(
    final: Mapping[str, Mapping[str, float]],
    null: Mapping[str, Mapping[str, float]],
    neutral: Mapping[str, float],
    noise: Mapping[str, Mapping[str, WeightSpread]],
    least: float = 1.0,
) -> dict[str, Band]:
    """Domain -> the band that chance gives the mean of its weights in these real runs (`final`).

    `neutral` is by run the weight of a domain that moved the meta loss neither way, where the rule has such (mirror);
    runs that it lacks have 1. Weights have a mean of 1, so what one domain gains is taken from all others, and most of
    them would end outside a band of plain weights without any fault of theirs: bands are of weights relative to the
    neutral one, and shown about that of the real runs. `noise` is what the updates of a run alone spread the log
    weights of its domains, for rules that have such; see `_own` for what becomes of it.

    Enough runs tell any domain from chance, also one whose pull is too small to matter. So bands reach at least from
    1/`least` to `least` times the neutral weight, for those who ask for that (1 or more).
    """
    relative = {
        run: {name: w / neutral.get(run, 1.0) for name, w in weights.items()}
        for run, weights in {**final, **null}.items()
    }
    # Of real runs alone: null runs that went so far would leave no band.
    capped = {run: {name: min(max(w, 1 / _FAR), _FAR) for name, w in relative[run].items()} for run in final}
    own = _own(capped, noise)
    here = metrics.mean([neutral.get(run, 1.0) for run in final]) or 1.0
    bands = null_bands({run: relative[run] for run in null}, own)
    return {name: band.reaching(1 / least, least).scaled(here) for name, band in bands.items()}


def _own(
    final: Mapping[str, Mapping[str, float]], noise: Mapping[str, Mapping[str, WeightSpread]]
) -> dict[str, WeightSpread]:
    """Domain -> how far batches carry the mean log weight of these runs.

    Read off their updates where all runs have such: dozens a run, where the runs themselves are few, and not enlarged
    by an effect that is larger in one run than in another. That is rather too much, since an epoch's batches make up
    for one another; should runs differ by more all the same, over all domains together, it is enlarged by as much.
    Else read off how the runs differ; nothing is known of a single run without.
    """
    domains = {domain for weights in final.values() for domain in weights}
    told = bool(final) and all(noise.get(run, {}).keys() >= weights.keys() for run, weights in final.items())
    if not told and len(final) > 1:
        return {name: replace(one, variance=one.variance / one.runs) for name, one in spreads(final).items()}
    if not told:
        return {}
    own, ratios, between = {}, list[float](), 0.0
    for name in sorted(domains):
        each = [noise[run][name] for run, weights in final.items() if name in weights]
        logs = [math.log(weights[name]) for weights in final.values() if name in weights]
        variance = math.fsum(one.variance for one in each) / len(each)
        freedom = math.fsum(one.freedom for one in each)
        own[name] = WeightSpread(variance / len(each), freedom, math.fsum(logs) / len(logs), len(each))
        spread = metrics.deviation(logs)
        # Those that all lie as far as is counted do not differ, whatever batches do.
        if spread and variance and any(abs(log) < math.log(_FAR) for log in logs):
            ratios.append(spread**2 / variance)
            between += len(logs) - 1
    factor = metrics.mean(ratios) or 0.0
    if factor <= 1:
        return own
    return {name: replace(one, variance=one.variance * factor, freedom=between) for name, one in own.items()}


def _moderated(logs: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Variance of each domain's log weight, and its degrees of freedom."""
    own = {name: metrics.deviation(values) for name, values in logs.items() if len(values) > 1}
    squares = {name: spread**2 for name, spread in own.items() if spread is not None}
    if len(squares) < 2 or not any(squares.values()):
        # One null run: how far the domains lie from one another is all that there is.
        values = [value for part in logs.values() for value in part]
        spread = metrics.deviation(values) or 0.0
        return dict.fromkeys(logs, spread**2), dict.fromkeys(logs, float(len(values) - 1))
    floor = 1e-6 * max(squares.values())
    freedoms = {name: float(len(logs[name]) - 1) for name in logs}
    common, prior = common_variance([(max(squares[name], floor), freedoms[name]) for name in squares])
    prior = min(prior, _PRIOR_MAX)
    together = {name: prior + freedom for name, freedom in freedoms.items()}
    sums = {name: prior * common + freedom * squares.get(name, 0.0) for name, freedom in freedoms.items()}
    return {name: each / together[name] for name, each in sums.items()}, together


def common_variance(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(variance, degrees of freedom) of the prior that these (variance, degrees of freedom) were drawn from: s0^2 and
    d0 of Smyth (2004), section 6.2, at most `_MANY` where the variances differ no more than chance has them differ.
    """
    logs = [math.log(square) - float(digamma(freedom / 2)) + math.log(freedom / 2) for square, freedom in found]
    mean = math.fsum(logs) / len(logs)
    spread = math.fsum((each - mean) ** 2 for each in logs) / (len(logs) - 1)
    excess = spread - math.fsum(_trigamma(freedom / 2) for _, freedom in found) / len(found)
    prior = 2 * _where_trigamma_is(excess) if excess > _trigamma(_MANY / 2) else _MANY
    return math.exp(mean + float(digamma(prior / 2)) - math.log(prior / 2)), prior


def _trigamma(x: float) -> float:
    return float(polygamma(1, x))


def _where_trigamma_is(value: float) -> float:
    """The x in (0, `_MANY`] whose trigamma is this; it falls from infinity to 0, so by bisection in log x."""
    low, high = math.log(_TINY), math.log(_MANY)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _trigamma(math.exp(middle)) > value else (low, middle)
    return math.exp(low)
