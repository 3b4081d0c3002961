"""Batches, weights, losses, aggregations: invariants and known values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UserError
from prm.aggregate import AGGREGATIONS, aggregation
from prm.batches import Stream, shuffled_outcomes
from prm.losses import rollout_loss
from prm.weights import UpperAdam, domain_weights, pull_back

names = st.lists(st.text("xyz", min_size=1, max_size=4), min_size=1, max_size=7, unique=True)
groups = st.dictionaries(st.sampled_from("abcd"), names, min_size=1)
reals = st.floats(-6, 6)


@settings(deadline=None)
@given(groups, st.integers(1, 5), st.integers(0, 3), st.integers(0, 40))
def test_batches_are_functions_of_seed_and_step(rows, size, seed, step):
    walked = Stream("train", rows, size, seed)
    for past in range(step):
        walked.rows(past)
    shuffled = {group: list(reversed(rows[group])) for group in reversed(list(rows))}
    assert walked.rows(step) == Stream("train", shuffled, size, seed).rows(step)
    assert {group: len(part) for group, part in walked.rows(step).items()} == dict.fromkeys(rows, size)


@settings(deadline=None)
@given(groups, st.integers(1, 4))
def test_every_row_is_seen_once_an_epoch(rows, size):
    stream = Stream("train", rows, size, 1)
    for group, names in rows.items():
        seen = [name for step in range(len(names)) for name in stream.rows(step)[group]]
        for epoch in range(size):
            assert sorted(seen[epoch * len(names) : (epoch + 1) * len(names)]) == sorted(names)


def test_seeds_and_names_give_other_orders():
    rows = {"a": [str(i) for i in range(50)]}
    first = Stream("train", rows, 50, 0).rows(0)
    assert Stream("train", rows, 50, 1).rows(0) != first
    assert Stream("meta", rows, 50, 0).rows(0) != first


def test_shuffled_outcomes_keep_the_counts_and_move():
    outcomes = {str(i): i % 3 == 0 for i in range(60)}
    dealt = shuffled_outcomes(outcomes, 4)
    assert dealt.keys() == outcomes.keys()
    assert sum(dealt.values()) == sum(outcomes.values())
    assert dealt != outcomes
    assert dealt == shuffled_outcomes(dict(reversed(outcomes.items())), 4)
    assert dealt != shuffled_outcomes(outcomes, 5)


@settings(deadline=None)
@given(st.lists(reals, min_size=2, max_size=6), st.data())
def test_pull_back_is_the_transposed_jacobian(raw, data):
    raw = torch.tensor(raw, dtype=torch.float64)
    gradient = torch.tensor(data.draw(st.lists(reals, min_size=len(raw), max_size=len(raw))), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(domain_weights, raw)
    torch.testing.assert_close(pull_back(raw, gradient), jacobian.T @ gradient, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(st.lists(st.lists(reals, min_size=3, max_size=3), max_size=20), st.floats(0, 0.95))
def test_weights_stay_positive_with_mean_one(gradients, ema):
    upper = UpperAdam(3, 0.1, (0.9, 0.999), ema)
    assert upper.weights.tolist() == [1, 1, 1]
    for gradient in gradients:
        upper.update(torch.tensor(gradient, dtype=torch.float64))
    assert upper.weights.min() > 0
    assert upper.weights.mean() == pytest.approx(1)


def test_a_common_gradient_moves_no_weight_and_a_low_one_gains():
    upper = UpperAdam(3, 0.1, (0.9, 0.999), 0.0)
    upper.update(torch.zeros(3, dtype=torch.float64))
    assert upper.raw.tolist() == [0, 0, 0]
    for _ in range(5):
        upper.update(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64))
    first, middle, last = upper.weights.tolist()
    assert first < middle < last


def test_upper_adam_is_torchs_adam():
    ours, raw = UpperAdam(4, 0.05, (0.9, 0.99), 0.0), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([raw], lr=0.05, betas=(0.9, 0.99), eps=1e-300)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        raw.grad = pull_back(raw.detach(), gradient)
        theirs.step()
        ours.update(gradient)
    torch.testing.assert_close(ours.raw, raw.detach())


@pytest.mark.parametrize("name", AGGREGATIONS)
@settings(deadline=None)
@given(logits=st.lists(st.floats(-8, 8), min_size=1, max_size=8))
def test_aggregations_agree_with_the_plain_formula(name, logits):
    logits = torch.tensor(logits, dtype=torch.float64)
    scores = torch.sigmoid(logits)
    odds = torch.log(scores / (1 - scores))
    expected = {
        "mean-log-odds": torch.sigmoid(odds.mean()),
        "sum-log-odds": torch.sigmoid(odds.sum()),
        "mean": scores.mean(),
        "min": scores.min(),
        "last": scores[-1],
        "product": scores.prod(),
    }[name]
    torch.testing.assert_close(torch.sigmoid(aggregation(name)(logits)), expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("level", [-200.0, 60.0, 200.0])
def test_aggregations_survive_saturation(name, level):
    logits = torch.full((4,), level, requires_grad=True)
    value = aggregation(name)(logits)
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()


def test_an_unknown_aggregation_is_a_user_error():
    with pytest.raises(UserError, match="did you mean"):
        aggregation("mean-logodds")


EACH = {
    "mse": lambda p, v: (p - v) ** 2,
    "bce": lambda p, v: -(v * math.log(p) + (1 - v) * math.log(1 - p)),
}


@pytest.mark.parametrize("name", EACH)
def test_loss_is_the_weighted_sum_over_labelled_steps(name):
    each = EACH[name]
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    # Step 1 has no text, so no logit; step 3 has no label.
    loss = rollout_loss(name, logits, (4, None, 9, 12), (0.25, 0.5, None, 1.0), (2.0, 1.0, 1.0, 0.5))
    p = torch.sigmoid(logits).tolist()
    assert loss.item() == pytest.approx(2 * each(p[0], 0.25) + 0.5 * each(p[2], 1.0))


def test_a_null_value_gives_no_gradient():
    logits = torch.tensor([0.5, -1.0], requires_grad=True)
    rollout_loss("mse", logits, (4, 9), (None, 0.5), (1.0, 1.0)).backward()
    assert logits.grad[0] == 0
    assert logits.grad[1] != 0
    nothing = torch.tensor([0.5], requires_grad=True)
    rollout_loss("mse", nothing, (4,), (None,), (1.0,)).backward()
    assert nothing.grad.tolist() == [0]
