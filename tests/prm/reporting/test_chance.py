"""Bands of chance hold as often as they say, for few null runs and for domains that differ."""

import itertools
import math
import random

import pytest

from prm.reporting.null_band import LEVEL, WeightSpread, bands_for, common_variance, null_bands
from prm.reporting.verdict import DOWN, SAME, UP, weigh


def run(rng: random.Random, spreads: dict[str, float]) -> dict[str, float]:
    """Final weights of a run without signal: log-normal, each domain with a spread of its own."""
    return {name: math.exp(rng.gauss(0.0, spread)) for name, spread in spreads.items()}


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("differ", [False, True])
def test_no_domain_of_a_run_without_signal_lies_outside(runs, differ):
    """Share of new runs with all domains inside, over fresh null runs and fresh spreads each time."""
    rng, trials, inside = random.Random(f"{runs}-{differ}"), 600, 0
    for _ in range(trials):
        # Scaled inverse chi-square with 6 degrees, as if from a population of domains; or all alike.
        spreads = {f"d{k}": 0.2 * (math.sqrt(6 / rng.gammavariate(3, 2)) if differ else 1.0) for k in range(8)}
        bands = null_bands({f"null-{i}": run(rng, spreads) for i in range(runs)})
        inside += all(bands[name].low <= weight <= bands[name].high for name, weight in run(rng, spreads).items())
    # As often as promised but for three standard errors of the share; where domains are all alike, more often.
    assert inside / trials > LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / trials)
    if differ:
        assert inside / trials < 0.985


def test_a_domain_that_chance_carries_far_has_a_wider_band():
    rng = random.Random(1)
    spreads = {"far": 0.5} | {f"near-{k}": 0.05 for k in range(7)}
    bands = null_bands({f"null-{i}": run(rng, spreads) for i in range(10)})
    near = [band.high / band.low for name, band in bands.items() if name != "far"]
    assert bands["far"].high / bands["far"].low > 3 * max(near)
    assert all(band.low < band.centre < band.high and band.runs == 10 for band in bands.values())


def test_the_prior_is_that_which_the_variances_were_drawn_from():
    rng = random.Random(2)
    found = []
    for _ in range(4000):
        variance = 0.04 * 8 / rng.gammavariate(4, 2)
        found.append((variance * rng.gammavariate(2.5, 2) / 5, 5.0))
    common, prior = common_variance(found)
    assert common == pytest.approx(0.04, rel=0.1)
    assert prior == pytest.approx(8, rel=0.25)
    alike = [(0.04 * rng.gammavariate(2.5, 2) / 5, 5.0) for _ in range(200)]
    assert common_variance(alike)[1] > 30


def test_one_null_run_says_what_domains_together_say():
    """From ten domains of one run: as wide for each, around what it had."""
    rng = random.Random(3)
    only = run(rng, dict.fromkeys("abcdefghij", 0.3))
    bands = null_bands({"null-0": only})
    assert {name: band.centre for name, band in bands.items()} == pytest.approx(only)
    widths = [band.high / band.low for band in bands.values()]
    assert max(widths) == pytest.approx(min(widths))
    assert min(widths) > math.exp(4 * 0.3)


def test_nothing_to_judge_by():
    assert null_bands({}) == {}
    assert null_bands({"null-0": {"a": 1.0}}) == {}
    still = null_bands({"null-0": {"a": 1.0, "b": 1.0}, "null-1": {"a": 1.0, "b": 1.0}})
    assert {(band.low, band.high) for band in still.values()} == {(1.0, 1.0)}
    # A domain that came later has fewer runs.
    late = null_bands({"null-0": {"a": 0.9, "b": 1.1}, "null-1": {"a": 1.1, "b": 0.9, "c": 1.2}})
    assert [late[name].runs for name in "abc"] == [2, 2, 1]


def mirrored(pulls: dict[str, float]) -> tuple[dict[str, float], float]:
    """Weights of mean 1 from log weights, and the weight of one without pull."""
    neutral = len(pulls) / sum(math.exp(pull) for pull in pulls.values())
    return {name: math.exp(pull) * neutral for name, pull in pulls.items()}, neutral


def test_what_one_domain_gains_makes_no_other_one_bad():
    """Twelve domains, one that helps much and one that harms; ten without effect have only chance in them."""
    rng, null, neutral = random.Random(4), {}, {}
    names = [f"plain-{k}" for k in range(10)]
    for i in range(10):
        pulls = {name: rng.gauss(0, 0.02) for name in ("gains", "harms", *names)}
        null[f"null-{i}"], neutral[f"null-{i}"] = mirrored(pulls)
    wrong, told = 0, []
    for seed in range(100):
        pulls = {"gains": 2.0, "harms": -0.3} | {name: rng.gauss(0, 0.02) for name in names}
        weights, scale = mirrored(pulls)
        real = {"seed-0": weights}
        found = {
            name: one.verdict
            for name, one in weigh(real, bands_for(real, null, neutral | {"seed-0": scale}, {})).items()
        }
        wrong += any(found[name] != SAME for name in names)
        told.append((found["gains"], found["harms"]))
        # By plain weights all of them are below what null runs have.
        plain = weigh(real, bands_for(real, null, {}, {}))
        assert all(plain[name].verdict == DOWN for name in names), seed
    assert set(told) == {(UP, DOWN)}
    assert wrong <= 10


def test_bands_of_several_runs_are_about_the_mean_of_their_neutral_weights():
    null, neutral = {}, {}
    for i, pull in enumerate((-0.1, 0.1, 0.05)):
        null[f"null-{i}"], neutral[f"null-{i}"] = mirrored({"a": pull, "b": -pull, "c": 0.0})
    plain = null_bands({run: {d: w / neutral[run] for d, w in one.items()} for run, one in null.items()})
    found = bands_for({"seed-0": {}, "seed-1": {}}, null, neutral | {"seed-0": 0.5, "seed-1": 0.9}, {})
    for name, band in found.items():
        assert (band.low, band.high) == pytest.approx((0.7 * plain[name].low, 0.7 * plain[name].high))
        assert (band.centre, band.runs) == (pytest.approx(0.7 * plain[name].centre), 3)
    # Without a rule that has neutral weights they are those of null_bands.
    assert bands_for({"seed-0": {}}, null, {}, {}) == null_bands(null)


@pytest.mark.parametrize(
    ("runs", "told"), [(1, "the truth"), *itertools.product([2, 3, 5], ["nothing", "the truth", "half of it"])]
)
def test_what_batches_do_to_real_runs_alone_is_no_verdict(runs, told):
    """Real runs have twice the noise of null runs, of their batches: no more than 5 of 100 studies call a domain.

    So it is whether their updates tell how much that is, tell nothing, or tell too little and the runs themselves do.
    """
    rng, trials, names, outside, naive = random.Random(f"batches-{runs}"), 400, [f"d{k}" for k in range(8)], 0, 0
    for _ in range(trials):
        null = {f"null-{i}": run(rng, dict.fromkeys(names, 0.03)) for i in range(8)}
        # What all real runs share is the meta set, of which null runs have each their own.
        meta = {name: rng.gauss(0, 0.03) for name in names}
        real = {f"seed-{i}": {name: math.exp(meta[name] + rng.gauss(0, 0.06)) for name in names} for i in range(runs)}
        spread = 0.06 if told == "the truth" else 0.03
        each = {name: WeightSpread(spread**2, 60.0, 0.0, 1) for name in names}
        found = weigh(real, bands_for(real, null, {}, {} if told == "nothing" else dict.fromkeys(real, each)))
        outside += any(one.verdict != SAME for one in found.values())
        naive += any(one.verdict != SAME for one in weigh(real, null_bands(null)).values())
    assert outside / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    if runs <= 2:
        assert naive / trials > 0.2


def test_an_effect_that_is_larger_in_one_run_than_in_another_is_no_noise():
    rng, names = random.Random(13), [f"d{k}" for k in range(8)]
    null = {f"null-{i}": run(rng, dict.fromkeys(names, 0.1)) for i in range(8)}
    real = {f"seed-{i}": run(rng, dict.fromkeys(names, 0.1)) | {"d0": math.exp(-0.6 - i)} for i in range(2)}
    noise = {key: {name: WeightSpread(0.1**2, 60.0, 0.0, 1) for name in names} for key in real}
    called = [
        {name for name, one in weigh(real, bands_for(real, null, {}, each)).items() if one.verdict == DOWN}
        for each in (noise, {})
    ]
    assert called == [{"d0"}, set()]


def test_a_steady_effect_shows_through_the_noise_of_batches():
    rng, names = random.Random(9), [f"d{k}" for k in range(8)]
    null = {f"null-{i}": run(rng, dict.fromkeys(names, 0.03)) for i in range(8)}
    real = {
        f"seed-{i}": {name: math.exp((-0.4 if name == "d0" else 0.0) + rng.gauss(0, 0.06)) for name in names}
        for i in range(5)
    }
    found = weigh(real, bands_for(real, null, {}, {}))
    assert {name for name, one in found.items() if one.verdict == DOWN} == {"d0"}


@pytest.mark.parametrize(("pull", "least", "expected"), [(-0.4, 1.0, DOWN), (-0.4, 2.0, SAME), (-0.8, 2.0, DOWN)])
def test_an_effect_that_is_clear_of_chance_but_small_has_a_verdict_only_where_small_ones_count(pull, least, expected):
    """Weights of the real runs have a neutral one of 0.5: half of that is asked for, not half of 1."""
    rng, names = random.Random(11), [f"d{k}" for k in range(8)]
    null = {f"null-{i}": run(rng, dict.fromkeys(names, 0.03)) for i in range(8)}
    real = {
        f"seed-{i}": {name: 0.5 * math.exp((pull if name == "d0" else 0.0) + rng.gauss(0, 0.02)) for name in names}
        for i in range(3)
    }
    bands = bands_for(real, null, dict.fromkeys(real, 0.5), {}, least)
    found = weigh(real, bands)
    assert found.pop("d0").verdict == expected
    assert {one.verdict for one in found.values()} == {SAME}
    assert all(band.low <= 0.5 / least and band.high >= 0.5 * least for band in bands.values())


def test_how_deep_weights_fall_that_are_as_good_as_none_is_no_doubt_about_them():
    rng, names = random.Random(12), [f"d{k}" for k in range(8)]
    null = {f"null-{i}": run(rng, dict.fromkeys(names, 0.1)) for i in range(8)}
    real = {}
    for i, depth in enumerate((-3.0, -7.0)):
        real[f"seed-{i}"] = run(rng, dict.fromkeys(names, 0.05)) | {"d0": math.exp(depth)}
    bands = bands_for(real, null, {}, {})
    found = weigh(real, bands)
    assert {name for name, one in found.items() if one.verdict == DOWN} == {"d0"}
    assert bands["d0"].low > 0.3
