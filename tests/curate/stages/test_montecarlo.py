"""Counts to labels: unbiased, undefined when nothing was graded, honest at the edges."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.stages import monte_carlo
from curate.stages.label import allocation


@given(st.integers(1, 64).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))))
def test_exact_is_the_share_with_a_positive_error(counts):
    k, m = counts
    label = monte_carlo.exact(k, m)
    assert label.value == k / m
    assert 0 < label.standard_error <= 0.5 / math.sqrt(m) * (1 + 1e-12)


def test_too_few_graded_is_undefined_never_zero():
    assert monte_carlo.exact(0, 0) == monte_carlo.StepLabel(None, None)
    assert monte_carlo.exact(2, 2, min_graded=3) == monte_carlo.StepLabel(None, None)
    assert monte_carlo.known(None) == monte_carlo.StepLabel(None, None)


def test_undecided_completions_are_in_neither_count():
    assert monte_carlo.count([True, None, False, None, True]) == (2, 3)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="right of"):
        monte_carlo.exact(3, 2)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.85])
def test_exact_is_unbiased_and_its_error_is_about_right(p):
    rng, m, n = random.Random(7), 8, 4000
    labels = [monte_carlo.exact(sum(rng.random() < p for _ in range(m)), m) for _ in range(n)]
    mean = sum(label.value for label in labels) / n
    spread = math.sqrt(sum((label.value - p) ** 2 for label in labels) / n)
    said = math.sqrt(sum(label.standard_error**2 for label in labels) / n)
    assert abs(mean - p) < 4 * math.sqrt(p * (1 - p) / (m * n))
    assert said == pytest.approx(spread, rel=0.15)


OUTCOMES = st.lists(st.sampled_from([True, False, None]), max_size=20)
COUNTS = st.integers(0, 9).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m)))


@given(st.lists(COUNTS, max_size=8), st.sampled_from([True, False, None]))
def test_without_pooling_a_chain_has_the_exact_labels_bit_for_bit(counts, outcome):
    values = monte_carlo.chain_values(counts, outcome, [0.0] * len(counts))
    assert values == [monte_carlo.exact(k, m).value for k, m in counts]


@given(st.lists(COUNTS, min_size=1, max_size=8), st.booleans(), st.floats(0.01, 0.25))
def test_pooled_labels_lie_between_what_they_are_made_of_and_have_errors(counts, outcome, spread):
    taus = monte_carlo.shares([2.0] * len(counts))
    labels = monte_carlo.pooled(counts, outcome, taus, spread)
    later = [k / m for k, m in counts if m] + [float(outcome)]
    for label in labels:
        assert min(later) - 1e-12 <= label.value <= max(later) + 1e-12
        assert 0 < label.standard_error <= math.sqrt(spread) * (1 + 1e-12)


def test_a_chain_without_completions_has_its_outcome_and_one_without_an_outcome_its_counts():
    taus = monte_carlo.shares([0.0, 0.0])
    assert taus == [1.0, 1.0]
    assert [label.value for label in monte_carlo.pooled([(0, 0), (0, 0)], True, taus, 0.25)] == [1.0, 1.0]
    labels = monte_carlo.pooled([(1, 2), (0, 0)], None, taus, 0.25)
    assert [label.value for label in labels] == [0.5, None]
    assert monte_carlo.pooled([(0, 0), (3, 4)], None, taus, 0.25)[0].value == 0.75


def test_pooling_weights_are_those_of_the_best_linear_estimate():
    # Two prefixes, two completions each: the last has tau 1, so w = 1/3 and v = 1/3; before it r = 1/2.
    tau = monte_carlo.shares([2.0, 2.0])
    assert tau[1] == 1.0
    assert tau[0] == pytest.approx(0.5 + 0.5 / 3)
    first, last = monte_carlo.weights([2, 2], tau)
    assert (first, last) == (pytest.approx(1 / (1 + 2 * tau[0])), pytest.approx(1 / 3))
    value = monte_carlo.chain_values([(1, 2), (2, 2)], False, [first, last])
    assert value[1] == pytest.approx(2 / 3)
    assert value[0] == pytest.approx(first * 2 / 3 + (1 - first) / 2)


@given(OUTCOMES, st.integers(1, 16))
def test_stopping_at_the_first_success_changes_no_hard_label(outcomes, maximum):
    outcomes = (outcomes + [False] * maximum)[:maximum]
    drawn = 0
    while more := monte_carlo.hard_missing(outcomes[:drawn], maximum):
        drawn += more
    assert drawn <= maximum
    assert monte_carlo.hard(outcomes[:drawn], maximum) == monte_carlo.hard(outcomes, maximum)
    assert monte_carlo.hard(outcomes, maximum).value == (
        1.0 if any(outcomes) else None if all(each is None for each in outcomes) else 0.0
    )


def legacy_mean(p, maximum=11):
    """E[label] of DreamPRM's rule by exact enumeration, when all samples, the rollout's too, are right with p."""
    total, open_ = 0.0, {(): 1.0}
    while open_:
        after = {}
        for drawn, mass in open_.items():
            own, rest = (drawn[0], list(drawn[1:])) if drawn else (None, [])
            if drawn and monte_carlo.legacy_missing(rest, own, maximum) == 0:
                total += mass * monte_carlo.legacy(rest, own, maximum).value
                continue
            for outcome, chance in ((True, p), (False, 1 - p)):
                after[(*drawn, outcome)] = after.get((*drawn, outcome), 0.0) + mass * chance
        open_ = after
    return total


@pytest.mark.parametrize(("p", "bias"), [(0.2, -0.051), (0.5, 0.0), (0.8, 0.051), (0.9, 0.042)])
def test_the_legacy_rule_has_the_bias_that_it_is_known_for(p, bias):
    assert legacy_mean(p) - p == pytest.approx(bias, abs=6e-4)


@given(
    st.lists(st.floats(0.01, 2), min_size=1, max_size=30),
    st.floats(0.1, 6),
    st.integers(7, 30),
)
def test_sizes_reach_the_mean_or_the_budget_that_is_asked_for(pulls, mean, maximum):
    goal = mean * len(pulls)
    factor = allocation.rate(pulls, [1.0] * len(pulls), goal, maximum)
    assert sum(min(factor * pull, maximum) for pull in pulls) == pytest.approx(goal, rel=1e-6)
    costs = [10.0 * (place + 1) for place in range(len(pulls))]
    factor = allocation.rate(pulls, costs, 0.5 * maximum * sum(costs), maximum)
    spent = sum(min(factor * pull, maximum) * cost for pull, cost in zip(pulls, costs, strict=True))
    assert spent == pytest.approx(0.5 * maximum * sum(costs), rel=1e-6)


def test_a_size_is_right_in_the_mean_and_the_same_again():
    sizes = [allocation.size(1.3, 8, name) for name in range(4000)]
    assert set(sizes) == {1, 2}
    assert abs(sum(sizes) / len(sizes) - 1.3) < 4 * math.sqrt(0.21 / len(sizes))
    assert sizes == [allocation.size(1.3, 8, name) for name in range(4000)]


def test_what_is_left_of_a_chain_is_what_others_had_left():
    one = allocation.Siblings.of([True, False], [[10, 10, 13], [10, 10, 10, 10, 17]], {4: 2})
    # Past step 1: one sibling has 1 left (3 steps), one 3; the domain's have 2. They count as two chains.
    assert one.left(1) == pytest.approx((1 + 3 + 2 * 2) / 4)
    assert one.left(3) == pytest.approx(1.0)
    assert allocation.Siblings().left(0) == 1.0
    assert (one.per_step, one.last) == (10, 15)
    assert allocation.cost(one, 1) == pytest.approx(10 + 15)
    assert one.right == pytest.approx(0.5)
