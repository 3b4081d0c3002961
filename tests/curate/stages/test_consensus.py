"""Masks where label and judge disagree: invariants of both rules, and the published one worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.stages.judge import judgement
from curate.stages.judge.consensus import AFTER, DISAGREED, UNJUDGED, masks

value = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])
chain = st.lists(st.tuples(value, st.sampled_from([True, False, None])), min_size=1, max_size=6).map(
    lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
)


@given(chain, st.sampled_from([0.0, 0.5]), st.booleans())
def test_steps_are_masked_exactly_where_two_opinions_differ(pair, threshold, mask_unjudged):
    values, verdicts = pair
    for label, verdict, reason in zip(
        values, verdicts, masks(values, verdicts, threshold, False, mask_unjudged), strict=True
    ):
        if label is None:
            assert reason is None
        elif verdict is None:
            assert reason == (UNJUDGED if mask_unjudged else None)
        else:
            assert reason == (None if (label > threshold) == verdict else DISAGREED)


@given(chain, st.sampled_from([0.0, 0.5]), st.booleans())
def test_a_chain_is_kept_only_where_no_step_of_what_is_kept_is_disputed(pair, threshold, mask_unjudged):
    values, verdicts = pair
    by_step = masks(values, verdicts, threshold, False, mask_unjudged)
    by_chain = masks(values, verdicts, threshold, True, mask_unjudged)
    kept = [place for place, reason in enumerate(by_chain) if reason is None and values[place] is not None]
    assert all(by_step[place] != DISAGREED for place in kept)
    reasons = {reason for reason, label in zip(by_chain, values, strict=True) if label is not None}
    assert reasons in (set(), {None}, {DISAGREED}, {UNJUDGED}, {None, AFTER})


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=6), st.integers(-1, 5))
def test_a_whole_chain_is_kept_when_both_find_the_same_first_error(values, first):
    first = -1 if first >= len(values) else first
    found = masks(values, judgement.verdicts(first, len(values)), 0.0, True, False)
    labels_first = values.index(0.0) if 0.0 in values else -1
    assert (DISAGREED not in found) == (labels_first == first)
    if labels_first == first >= 0:
        assert found == [None] * (first + 1) + [AFTER] * (len(values) - first - 1)


@pytest.mark.parametrize("whole", [True, False])
def test_without_any_verdict_nothing_disagrees(whole):
    assert masks([1.0, 0.0], [None, None], 0.0, whole, False) == [None, None]
    assert masks([1.0, None], [None, None], 0.0, whole, True) == [UNJUDGED, None]
