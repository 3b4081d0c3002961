"""Labels against the truth, in worlds where the value of every prefix is known exactly."""

import random
from collections import Counter, defaultdict

import pytest

from curate.engines import worlds
from curate.stages.label import allocation, rules
from curate.stages.label.allocation import Siblings
from curate.stages.label.families import Chain
from tests.beds.rows import made

PROBLEMS, ROLLOUTS, BANK = 900, 6, 8
MEAN = 2.0


def right(text, world):
    return text.rpartition("Final answer: ")[2] == world.gold


def split(text):
    *lines, final = text.splitlines(keepends=True)
    return [*lines[:-1], lines[-1] + final]


def chains(name, problems=PROBLEMS):
    """(problem, rollout, siblings' facts, steps, exact values, outcomes of BANK completions a prefix)."""
    found = []
    for number in range(problems):
        world, rng = worlds.world(f"label {number}", name, None), random.Random(f"{name} {number}")
        texts = [world.continue_("", rng)[0] for _ in range(ROLLOUTS)]
        counts = [text.count("Step ") for text in texts]
        others = [right(text, world) for text in texts[1:]], [list(map(len, split(text))) for text in texts[1:]]
        steps = split(texts[0])
        rollout = made(Chain, rollout_id=str(number), steps=steps, outcome=right(texts[0], world))
        prefixes = ["".join(steps[: place + 1]) for place in range(len(steps) - 1)]
        bank = [[right(world.continue_(prefix, rng)[0], world) for _ in range(BANK)] for prefix in prefixes]
        found.append((number, rollout, others, counts, [world.value_of(prefix) for prefix in prefixes], bank))
    return found


@pytest.fixture(scope="module", params=sorted(worlds.WORLDS))
def world(request):
    return request.param, chains(request.param)


def rule_of(found, own_length=False):
    domain = Counter(count for *_, counts, _, _ in found for count in counts)
    siblings = {
        rollout.rollout_id: Siblings.of(
            others[0],
            [list(map(len, rollout.steps))] * (ROLLOUTS - 1) if own_length else others[1],
            {} if own_length else domain - Counter(counts),
        )
        for _, rollout, others, counts, _, _ in found
    }
    pulls = [
        allocation.pull(siblings[rollout.rollout_id], step)
        for _, rollout, *_ in found
        for step in range(len(rollout.steps) - 1)
    ]
    factor = allocation.rate(pulls, None, MEAN * len(pulls), BANK)
    return rules.PooledRule(factor, BANK, siblings)


def errors(found, rule):
    """(problem, error, exact value, value before, step, steps) of every label but the last steps'."""
    rows = []
    for number, rollout, _, _, values, bank in found:
        used = [outcomes[: rule.certain(rollout, step)] for step, outcomes in enumerate(bank)]
        labels = rule.labels(rollout, used)
        for step, (label, value) in enumerate(zip(labels, values, strict=True)):
            before = values[step - 1] if step else value
            rows.append((number, label.value - value, value, before, step, len(rollout.steps)))
    return rows


def in_standard_errors(rows):
    """Mean error over its standard error; problems are the independent units."""
    sums, sizes = defaultdict(float), Counter()
    for number, error, *_ in rows:
        sums[number] += error
        sizes[number] += 1
    mean = sum(sums.values()) / sizes.total()
    spread = sum((sums[number] - mean * sizes[number]) ** 2 for number in sums) ** 0.5
    return mean * sizes.total() / spread if spread else 0.0


def test_pooled_labels_are_unbiased_in_every_group_that_is_known_at_the_prefix(world):
    name, found = world
    rows = errors(found, rule_of(found))
    groups = {"all": rows, "after a drop": [row for row in rows if row[2] - row[3] < -0.3]}
    groups |= {f"decile {d}": [row for row in rows if int(min(row[2], 0.999) * 10) == d] for d in range(10)}
    groups |= {f"step {s}": [row for row in rows if row[4] == s] for s in range(8)}
    # A chain's final length is in the future of its prefixes. Where it says nothing about the outcome, labels are
    # unbiased given it, too; where wrong chains are longer, no label that uses the outcome can be.
    if name != "longer":
        groups |= {f"{s} steps": [row for row in rows if row[5] == s] for s in range(3, 13)}
    assert len(groups["after a drop"]) > 50 or name == "drift"
    for label, group in groups.items():
        if len(group) > 30:
            assert abs(in_standard_errors(group)) < 4, (label, len(group))


@pytest.mark.parametrize("block", [7, 65_536])
def test_the_factor_is_that_of_sums_from_the_first_prefix_to_the_last(monkeypatch, block):
    monkeypatch.setattr(allocation, "_BLOCK", block)
    draw = random.Random(3)
    pulls = [draw.uniform(0.01, 0.3) for _ in range(1000)]
    for costs, goal in (([1.0] * 1000, 2000.0), ([draw.uniform(5, 90) for _ in pulls], 70_000.0)):
        low, high = 0.0, BANK / min(pulls)
        for _ in range(60):
            middle, spent = (low + high) / 2, 0.0
            for pull, cost in zip(pulls, costs, strict=True):
                spent += min(middle * pull, BANK) * cost
            low, high = (low, middle) if spent >= goal else (middle, high)
        assert allocation.rate(pulls, costs, goal, BANK) == high
    assert allocation.rate(pulls, None, 2000.0, BANK) == allocation.rate(pulls, [1.0] * 1000, 2000.0, BANK)
    # More than there is to draw: all of it, and no more.
    assert allocation.rate(pulls, None, 9000.0, BANK) == BANK / min(pulls)
    assert allocation.rate([], None, 0.0, BANK) == 0.0


def test_standard_errors_are_about_right(world):
    _, found = world
    rule = rule_of(found)
    real, said = [], []
    for _, rollout, _, _, values, bank in found:
        used = [outcomes[: rule.certain(rollout, step)] for step, outcomes in enumerate(bank)]
        for label, value in zip(rule.labels(rollout, used), values, strict=True):
            real.append((label.value - value) ** 2)
            said.append(label.standard_error**2)
    assert 0.6 < (sum(said) / sum(real)) ** 0.5 < 1.7


def test_weights_that_know_the_chains_own_length_are_caught():
    """The test above can fail: with the chain's own length in its weights, wrong chains pull labels down."""
    found = chains("longer", 3000)
    assert in_standard_errors(errors(found, rule_of(found, own_length=True))) < -4
    assert abs(in_standard_errors(errors(found, rule_of(found)))) < 3


def test_a_rule_uses_only_what_was_drawn_whatever_it_said():
    rollout = made(Chain, rollout_id="a", steps=["x", "y"], outcome=True)
    outcomes = [False, False, False, True]
    exact, hard, legacy = rules.Exact(4), rules.Hard(16), rules.Legacy(11)
    assert rules.usable(rollout, 0, outcomes, exact, [exact]) == outcomes
    assert rules.usable(rollout, 0, outcomes, exact, [hard]) == outcomes[:1]
    assert rules.usable(rollout, 0, outcomes, exact, [hard, legacy]) == outcomes[:3]
    assert rules.usable(rollout, 0, outcomes, hard, [hard]) == outcomes
    assert rules.usable(rollout, 0, outcomes, exact, []) == []


@pytest.mark.parametrize(
    ("history", "rule", "enough"),
    [
        ([rules.Exact(8)], rules.Exact(8), True),
        ([rules.Exact(8)], rules.Exact(9), False),
        ([rules.Exact(8)], rules.Hard(8), True),
        ([rules.Exact(8)], rules.Hard(16), False),
        ([rules.Exact(8)], rules.Legacy(9), True),
        ([rules.Exact(8)], rules.Legacy(11), False),
        ([rules.Hard(16)], rules.Hard(8), True),
        ([rules.Hard(16)], rules.Exact(1), True),
        ([rules.Hard(16)], rules.Exact(2), False),
        ([rules.Legacy(11)], rules.Exact(3), True),
        ([rules.Legacy(11)], rules.Hard(4), False),
        ([rules.Exact(2)], rules.PooledRule(0.0, 8, {}), True),
        ([], rules.PooledRule(0.0, 8, {}), False),
    ],
)
def test_what_can_be_labelled_again_from_what_was_drawn(history, rule, enough):
    assert rules.covers(history, rule) is enough
