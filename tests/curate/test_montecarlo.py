"""Counts to labels: unbiased, undefined when nothing was graded, honest at the edges."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import montecarlo


@given(st.integers(1, 64).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))))
def test_exact_is_the_share_with_a_positive_error(counts):
    k, m = counts
    label = montecarlo.exact(k, m)
    assert label.value == k / m
    assert 0 < label.standard_error <= 0.5 / math.sqrt(m) * (1 + 1e-12)


def test_too_few_graded_is_undefined_never_zero():
    assert montecarlo.exact(0, 0) == montecarlo.Label(None, None)
    assert montecarlo.exact(2, 2, min_graded=3) == montecarlo.Label(None, None)
    assert montecarlo.known(None) == montecarlo.Label(None, None)


def test_undecided_completions_are_in_neither_count():
    assert montecarlo.count([True, None, False, None, True]) == (2, 3)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="right of"):
        montecarlo.exact(3, 2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.85])
def test_exact_is_unbiased_and_its_error_is_about_right(p):
    rng, m, n = random.Random(7), 8, 4000
    labels = [montecarlo.exact(sum(rng.random() < p for _ in range(m)), m) for _ in range(n)]
    mean = sum(label.value for label in labels) / n
    spread = math.sqrt(sum((label.value - p) ** 2 for label in labels) / n)
    said = math.sqrt(sum(label.standard_error**2 for label in labels) / n)
    assert abs(mean - p) < 4 * math.sqrt(p * (1 - p) / (m * n))
    assert said == pytest.approx(spread, rel=0.15)
