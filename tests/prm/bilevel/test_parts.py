"""Batches, weights, losses, aggregations: invariants and known values."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UserError
from prm.bilevel.hypergradient import GradientAverage
from prm.bilevel.weights import UpperAdam, UpperMirror, domain_weights, pull_back
from prm.data.batches import EvenBatches, Stream, by_value
from prm.data.meta import AnyPairs, Pairs, Singles, shuffled_outcomes
from prm.losses import Targets, outcome_loss, pair_loss, rollout_losses
from prm.model.aggregate import AGGREGATIONS, aggregation

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


problems = st.dictionaries(
    st.text("pq", min_size=1, max_size=3), st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=8
)


def meta_rollouts(problems: dict[str, list[bool]]) -> tuple[dict[str, list[str]], dict[str, bool]]:
    """Rollouts of each problem, and their outcomes."""
    groups = {problem: [f"{problem}-{i}" for i in range(len(rights))] for problem, rights in problems.items()}
    return groups, {f"{p}-{i}": right for p, rights in problems.items() for i, right in enumerate(rights)}


@settings(deadline=None)
@given(problems, st.integers(0, 3))
def test_shuffled_outcomes_keep_the_counts_of_every_group(problems, seed):
    groups, outcomes = meta_rollouts(problems)
    dealt = shuffled_outcomes(list(groups.values()), outcomes, seed)
    assert dealt.keys() == outcomes.keys()
    for names in groups.values():
        assert sum(dealt[name] for name in names) == sum(outcomes[name] for name in names)
    backwards = {name: outcomes[name] for name in reversed(outcomes)}
    assert dealt == shuffled_outcomes([names[::-1] for names in reversed(groups.values())], backwards, seed)


def test_shuffled_outcomes_say_nothing_of_the_true_ones():
    groups, outcomes = meta_rollouts({str(i): [True, False, True, False] for i in range(500)})
    for whole in (True, False):
        parts = [list(outcomes)] if whole else list(groups.values())
        dealt = shuffled_outcomes(parts, outcomes, 4)
        agreeing = sum(dealt[name] is outcomes[name] for name in outcomes)
        assert abs(agreeing - 1000) < 4 * 500**0.5
        assert dealt != shuffled_outcomes(parts, outcomes, 5)


@settings(deadline=None)
@given(problems, st.integers(1, 4), st.integers(0, 3))
def test_pairs_are_right_and_wrong_of_one_problem_each_once_an_epoch(problems, count, seed):
    groups, outcomes = meta_rollouts(problems)
    mixed = {problem for problem, rights in problems.items() if len(set(rights)) == 2}
    if not mixed:
        with pytest.raises(UserError, match="both a right and a wrong rollout"):
            Pairs(groups, outcomes, count, seed)
        return
    pairs, seen = Pairs(groups, outcomes, count, seed), []
    for step in range(len(mixed)):
        items = pairs.items(step)
        assert items == Pairs(groups, outcomes, count, seed).items(step)
        assert len(items) == count
        for right, wrong in items:
            assert outcomes[right] is True
            assert outcomes[wrong] is False
            assert right.rsplit("-", 1)[0] == wrong.rsplit("-", 1)[0]
            seen.append(right.rsplit("-", 1)[0])
    for epoch in range(count):
        assert set(seen[epoch * len(mixed) : (epoch + 1) * len(mixed)]) == mixed


def test_every_pair_of_a_problem_comes_up():
    groups, outcomes = meta_rollouts({"p": [True, False, True, False]})
    pairs = Pairs(groups, outcomes, 2, 0)
    found = {item for step in range(40) for item in pairs.items(step)}
    assert found == {("p-0", "p-1"), ("p-0", "p-3"), ("p-2", "p-1"), ("p-2", "p-3")}


@settings(deadline=None)
@given(problems, st.integers(1, 4), st.integers(0, 3))
def test_any_pairs_are_right_and_wrong_of_the_whole_set_and_no_side_waits_longer_than_its_epoch(rights, count, seed):
    _, outcomes = meta_rollouts(rights)
    if len(set(outcomes.values())) < 2:
        return
    domains = {name: name.rsplit("-", 1)[0] for name in outcomes}
    pairs, seen = AnyPairs(outcomes, count, seed, domains), ([], [])
    for step in range(len(outcomes)):
        items = pairs.items(step)
        assert items == AnyPairs(outcomes, count, seed, domains).items(step)
        assert len(items) == count
        for side, names in enumerate(zip(*items, strict=True)):
            seen[side].extend(names)
    for side, wanted in enumerate((True, False)):
        names = {name for name, outcome in outcomes.items() if outcome is wanted}
        assert set(seen[side]) <= names
        # Within a step the order is another one, so that an epoch's edge may be off by less than a step.
        assert set(seen[side][: len(names) + count]) == names


def test_any_pairs_bring_domains_together():
    outcomes = {f"{domain}-{i}": i % 2 == 0 for domain in "abcd" for i in range(20)}
    pairs = AnyPairs(outcomes, 8, 0, {name: name[0] for name in outcomes})
    found = [(right[0], wrong[0]) for step in range(100) for right, wrong in pairs.items(step)]
    for domain in "abcd":
        assert found.count((domain, domain)) < len(found) / 10
    assert {*found} == {(one, other) for one in "abcd" for other in "abcd"}


def test_singles_walk_through_all_rollouts():
    singles = Singles(list("abcdef"), 2, 3)
    assert sorted(name for step in range(3) for (name,) in singles.items(step)) == list("abcdef")


@given(reals, reals, reals)
def test_a_pair_feels_no_common_shift_and_its_mirror_image_undoes_it(right, wrong, shift):
    right, wrong = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (right, wrong))
    loss = pair_loss(right, wrong)
    torch.testing.assert_close(pair_loss(right + shift, wrong + shift), loss)
    if abs(right - wrong) > 1e-6:
        assert (loss < 0.5) == (right > wrong)
    # So a control whose pairs are turned round by a coin has no expected gradient, unlike single outcomes.
    both = torch.autograd.grad(loss + pair_loss(wrong, right), (right, wrong))
    assert all(abs(float(part)) < 1e-12 for part in both)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 3))
def test_a_stretch_of_an_even_walk_has_of_every_stratum_its_share(sizes, size, seed):
    strata = {f"s{place}": [f"{place}-{row}" for row in range(count)] for place, count in enumerate(sizes)}
    total = sum(sizes)
    epoch = [row for step in range(total) for row in EvenBatches("m", {"g": strata}, 1, seed).rows(step)["g"]]
    assert sorted(epoch) == sorted(row for part in strata.values() for row in part)
    for start in range(0, total, size):
        stretch = epoch[start : start + size]
        for place, count in enumerate(sizes):
            here = sum(row.startswith(f"{place}-") for row in stretch)
            assert abs(here - len(stretch) * count / total) <= 1 + len(sizes) * count / total + 1e-9
    walked = EvenBatches("m", {"g": strata}, size, seed)
    assert [row for step in range(5) for row in walked.rows(step)["g"]][:total] == epoch[: 5 * size]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 9))
def test_strata_are_of_equal_size_and_in_the_order_of_their_values(values, count):
    rows = {f"r{place}": value / 4 for place, value in enumerate(values)}
    strata = by_value(rows, count)
    assert sorted(row for part in strata.values() for row in part) == sorted(rows)
    sizes = {len(part) for part in strata.values()}
    assert len(strata) == min(count, len(rows))
    assert max(sizes) - min(sizes) <= 1
    edges = [rows[row] for _, part in sorted(strata.items()) for row in (part[0], part[-1])]
    assert edges == sorted(edges)


def test_every_batch_of_a_domain_has_low_and_high_labels():
    """Of 40 rows whose labels are their numbers, eight a step: means differ by less than a stratum is wide."""
    rows = {f"r{number:02d}": float(number) for number in range(40)}
    walked = EvenBatches("train", {"a": by_value(rows, 8)}, 8, 3)
    plain = Stream("train", {"a": list(rows)}, 8, 3)
    means = [statistics.mean(rows[name] for name in walked.rows(step)["a"]) for step in range(50)]
    apart = [statistics.mean(rows[name] for name in plain.rows(step)["a"]) for step in range(50)]
    assert max(abs(mean - 19.5) for mean in means) < 5
    assert statistics.stdev(means) < statistics.stdev(apart) / 3


def test_single_outcomes_without_signal_still_pull_towards_their_rate():
    score = torch.tensor(1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(outcome_loss(score, True) + outcome_loss(score, False), score)
    assert float(slope) > 0.05


@settings(deadline=None)
@given(st.lists(reals, min_size=2, max_size=6), st.data())
def test_pull_back_is_the_transposed_jacobian(raw, data):
    raw = torch.tensor(raw, dtype=torch.float64)
    gradient = torch.tensor(data.draw(st.lists(reals, min_size=len(raw), max_size=len(raw))), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(domain_weights, raw)
    torch.testing.assert_close(pull_back(raw, gradient), jacobian.T @ gradient, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(st.booleans(), st.lists(st.lists(reals, min_size=3, max_size=3), max_size=20), st.floats(0, 0.95))
def test_weights_stay_positive_with_mean_one(mirror, gradients, ema):
    upper = UpperMirror(3, 0.1, ema, 1) if mirror else UpperAdam(3, 0.1, (0.9, 0.999), ema)
    assert upper.weights.tolist() == [1, 1, 1]
    for gradient in gradients:
        upper.update(torch.tensor(gradient, dtype=torch.float64))
    assert upper.weights.min() > 0
    assert upper.weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("upper", [UpperAdam(3, 0.1, (0.9, 0.999), 0.0), UpperMirror(3, 0.1, 0.0, 1)])
def test_a_common_gradient_moves_no_weight_and_a_low_one_gains(upper):
    upper.update(torch.zeros(3, dtype=torch.float64))
    assert upper.raw.tolist() == [0, 0, 0]
    for _ in range(5):
        upper.update(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64))
    first, middle, last = upper.weights.tolist()
    assert first < middle < last


def test_a_mirrored_weight_is_the_meta_loss_that_a_domain_took_off():
    """Steady h, U lower steps to an update: w_k is proportional to exp(-lr n U h_k), as gradient flow has it."""
    h, lr, n = torch.tensor([2e-4, -1e-4, 0.0], dtype=torch.float64), 50.0, 30
    weights = []
    for unroll, updates in ((1, n), (5, n // 5)):
        mirror = UpperMirror(3, lr, 0.0, unroll)
        for _ in range(updates):
            mirror.update(h)
        weights.append(mirror.weights)
    torch.testing.assert_close(weights[0], 3 * torch.softmax(-lr * n * h, dim=0))
    torch.testing.assert_close(weights[0], weights[1])


def test_a_mirrored_weight_never_vanishes_and_can_come_back():
    """The running dot divides by it."""
    mirror, push = UpperMirror(2, 50.0, 0.0, 1), torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(1000):
        mirror.update(push)
    assert mirror.weights[0] / mirror.weights[1] == pytest.approx(1e-4, rel=0.02)
    mirror.update(-push)
    assert mirror.weights[0] > mirror.weights[1]


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
        "max": scores.max(),
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


def losses_of(name, logits, *rows):
    return rollout_losses(name, logits, Targets.of(rows).to(logits))


@pytest.mark.parametrize("name", EACH)
def test_loss_is_the_weighted_sum_over_labelled_steps(name):
    each = EACH[name]
    logits = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    # Of the first rollout, step 1 has no text, so no logit; step 3 has no label.
    first = (4, None, 9, 12), (0.25, 0.5, None, 1.0), (2.0, 1.0, 1.0, 0.5)
    losses = losses_of(name, logits, first, ((7,), (0.75,), (3.0,)))
    p = torch.sigmoid(logits).tolist()
    assert losses.tolist() == pytest.approx([2 * each(p[0], 0.25) + 0.5 * each(p[2], 1.0), 3 * each(p[3], 0.75)])


def test_a_null_value_gives_no_gradient():
    logits = torch.tensor([0.5, -1.0, 0.5], requires_grad=True)
    losses = losses_of("mse", logits, ((4, 9), (None, 0.5), (1.0, 1.0)), ((4,), (None,), (1.0,)))
    losses.sum().backward()
    assert logits.grad[0] == 0
    assert logits.grad[1] != 0
    assert logits.grad[2] == 0
    assert losses[1] == 0


def test_gradient_average_is_bias_corrected_and_keeps_nothing_without_decay():
    one, two = [torch.tensor([1.0, -2.0])], [torch.tensor([4.0, 1.0])]
    average = GradientAverage(0.75)
    assert torch.equal(average.add(one)[0], one[0])
    torch.testing.assert_close(average.add(two)[0], (0.75 * one[0] + two[0]) / 1.75)
    plain = GradientAverage(0.0)
    assert torch.equal(plain.add(one)[0], one[0])
    assert torch.equal(plain.add(two)[0], two[0])
    assert plain.sums is None


def test_averaging_before_the_product_finds_a_signal_that_averaging_after_it_does_not():
    """Noise of a sum of dots over 40 steps, two gradients with a small common part in 3,000 dimensions."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return 0.25 + 8 * torch.randn(3000, generator=generator)

    sums = {0.0: [], 0.9: []}
    for _ in range(60):
        pairs = [(draw(), draw()) for _ in range(40)]
        for decay, found in sums.items():
            average = GradientAverage(decay)
            found.append(sum(float(average.add([meta])[0] @ train) for meta, train in pairs))
    ratios = {decay: torch.tensor(found).mean() / torch.tensor(found).std() for decay, found in sums.items()}
    assert ratios[0.9] > 1.5 * ratios[0.0]
