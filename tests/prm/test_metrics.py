"""Figures against known values and invariants."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm import metrics
from prm.scoring.best_of_n import Candidate, share_right

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    # Tables of Student's t.
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 4, 2.77645), (0.95, 9, 1.83311), (0.975, 120, 1.97993)],
)
def test_student_quantiles_are_those_of_the_tables(probability, freedom, expected):
    assert metrics.student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-5)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = random.Random(3)
    hits = 0
    for _ in range(2000):
        found = metrics.interval([rng.gauss(0.3, 1) for _ in range(3)])
        hits += found.low <= 0.3 <= found.high
    # Binomial with p = 0.95: four standard deviations either way.
    assert abs(hits - 1900) < 4 * math.sqrt(2000 * 0.95 * 0.05)


def test_few_values_say_how_their_interval_was_made():
    assert metrics.interval([]) is None
    assert metrics.interval([1.5]) == metrics.Interval(1.5, 1.5, "single")
    assert metrics.interval([2.0, 1.0]) == metrics.Interval(1.0, 2.0, "range")
    assert metrics.interval([1.0, 1.0, 1.0]) == metrics.Interval(1.0, 1.0, "t")


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_kendall_tau_of_itself_of_its_reverse_and_swapped(sample, rng):
    other = sample[:]
    rng.shuffle(other)
    assert metrics.kendall_tau(sample, other) == metrics.kendall_tau(other, sample)
    if len(set(sample)) > 1:
        assert metrics.kendall_tau(sample, sample) == pytest.approx(1)
        assert metrics.kendall_tau(sample, [-x for x in sample]) == pytest.approx(-1)
    else:
        assert metrics.kendall_tau(sample, other) is None


def test_kendall_tau_with_ties_by_hand():
    # 6 pairs: 4 agree, 1 disagrees, 1 is tied on the left alone.
    assert metrics.kendall_tau([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3 / math.sqrt(5 * 6))


def test_ranks_share_the_best_place():
    assert metrics.ranks({"a": 1.0, "b": 2.0, "c": 1.0, "d": 0.5}) == {"a": 2, "b": 1, "c": 2, "d": 4}


def test_brier_and_calibration_by_hand():
    assert metrics.brier([0.8, 0.2], [True, True]) == pytest.approx((0.04 + 0.64) / 2)
    assert metrics.brier([], []) is None
    bins = metrics.calibration([0.05, 0.95, 1.0, 0.91], [False, True, True, False])
    assert [(part.count, part.observed) for part in bins] == [(1, 0.0), (3, pytest.approx(2 / 3))]
    gap = abs((0.95 + 1.0 + 0.91) / 3 - 2 / 3)
    assert metrics.calibration_error(bins) == pytest.approx((0.05 + 3 * gap) / 4)
    with pytest.raises(ValueError, match="no probability"):
        metrics.calibration([1.2], [True])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_bins_hold_every_prediction_once(pairs):
    bins = metrics.calibration([p for p, _ in pairs], [o for _, o in pairs])
    assert sum(part.count for part in bins) == len(pairs)
    assert all(part.low - 1e-9 <= part.predicted <= part.high + 1e-9 for part in bins)


def test_pair_order_counts_ties_as_wrong():
    weights = {"bad": 0.5, "worse": 1.0, "clean": 1.0, "best": 1.4}
    assert metrics.pair_order(weights, ["bad", "worse"], ["clean", "best"]) == metrics.PairOrder(3, 4)
    assert metrics.pair_order(weights, [], ["clean"]).share is None


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.2, 0.7, 0.9]), st.booleans()), max_size=12))
def test_auroc_is_the_share_of_ordered_pairs(steps):
    pairs = [(right, wrong) for right, good in steps if good for wrong, other in steps if not other]
    expected = sum((r > w) + (r == w) / 2 for r, w in pairs) / len(pairs) if pairs else None
    assert metrics.auroc(*([row[column] for row in steps] for column in (0, 1))) == pytest.approx(expected)


def test_brier_takes_weights_and_shares():
    assert metrics.brier([0.5, 1.0], [0.25, 0.0], [3.0, 1.0]) == pytest.approx((3 * 0.0625 + 1) / 4)
    assert metrics.brier([0.5], [1], [0.0]) is None


def test_first_error_f1_is_that_of_processbench():
    assert [metrics.first_error(values, 0.5) for values in ([0.9, 0.5, 0.1], [0.6, 0.7], [0.2])] == [1, None, 0]
    # Two of three wrong chains found, one of two right ones left alone: 2 * (2/3) * (1/2) / (2/3 + 1/2).
    assert metrics.first_error_f1([1, 0, 2, None, 0], [1, 0, 3, None, None]) == pytest.approx(4 / 7)
    assert metrics.first_error_f1([0, 1], [None, 0]) == 0
    assert metrics.first_error_f1([None], [None]) is None


def test_ties_at_the_top_share_the_pick():
    def candidates(*pairs):
        return [Candidate(i, None, outcome, {"r": logit}) for i, (logit, outcome) in enumerate(pairs)]

    assert share_right(candidates((0.2, True), (0.1, False)), "r") == 1
    assert share_right(candidates((0.2, False), (0.3, True), (0.3, False), (0.3, None)), "r") == pytest.approx(1 / 3)
    assert share_right(candidates((None, True), (-5.0, False)), "r") == 0
