"""What weights are worth: the same verdicts over seeds and unrolling, and none where domains do not differ."""

import pytest
import torch
from test_bilevel import CLEAN, DOMAINS, Toy, build, config, finish

from prm import metrics
from prm.bilevel.loop import Bilevel
from prm.bilevel.weights import upper_rule
from prm.config import AdamUpper
from prm.data.batches import Stream
from prm.data.meta import Singles
from prm.reporting import verdict

SEEDS = range(5)
RULES = ({"rule": "adam"}, {"rule": "mirror", "lr": 5.0})


def weights(seed: int, **upper) -> dict[str, float]:
    _, run = build(config(upper=upper), seed)
    finish(run)
    return run.weights()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_bad_domains_are_last_in_every_seed_and_the_order_of_the_others_is_not_reported(rule):
    final = {f"seed-{seed}": weights(seed, **rule) for seed in SEEDS}
    for found in final.values():
        assert max(found["flipped"], found["random"]) < min(found[name] for name in CLEAN)
        # A flipped domain hurts and dice only waste steps.
        assert found["flipped"] <= found["random"]
    weighings = verdict.weigh(final, {})
    places = {name: (one.best_rank, one.worst_rank) for name, one in weighings.items()}
    assert all(worst <= 3 for name, (_, worst) in places.items() if name in CLEAN)
    intervals = [weighings[name].interval for name in CLEAN]
    assert max(one.low for one in intervals) < min(one.high for one in intervals)
    assert verdict.agreement(final) > 0.5


@pytest.mark.parametrize("unroll", [1, 5, 20])
def test_the_order_does_not_depend_on_how_often_the_upper_level_moves(unroll):
    """As many updates in each, so that only the lower steps between them differ."""
    _, run = build(config(steps=20 + 60 * unroll, upper={"unroll": unroll, "meta_ema": 0.5}), 1)
    finish(run)
    order = metrics.pair_order(run.weights(), ["flipped", "random"], list(CLEAN))
    assert order.right == order.total == 6


def noise_band(settings: AdamUpper, updates: list) -> tuple[float, float]:
    """Lowest and highest weight of 200 runs whose domains do not differ: at each update of this run it is dealt anew
    which domain has which hypergradient. A further such run has all weights inside in 99 of 100 cases.
    """
    generator, ends = torch.Generator().manual_seed(0), []
    dots = torch.tensor([list(update.dots.values()) for update in updates], dtype=torch.float64)
    for _ in range(200):
        upper = upper_rule(settings, len(DOMAINS))
        for row in dots:
            upper.update(-row[torch.randperm(len(DOMAINS), generator=generator)])
        ends.append((float(upper.weights.min()), float(upper.weights.max())))
    low, high = torch.tensor(ends, dtype=torch.float64).T
    return float(low.min()), float(high.max())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_domains_that_do_not_differ_stay_where_noise_would_leave_them(rule):
    """Five domains of one kind in each of ten seeds, with so many rows that none comes twice."""
    inside, settings = 0, config(steps=200, upper={"unroll": 10} | rule)
    for seed in range(10):
        toy = Toy(seed, size=800, kinds={})
        meta = Singles(toy.groups["meta"], settings.upper.meta_rows, seed)
        groups = {domain: toy.groups[domain] for domain in DOMAINS}
        run = Bilevel(settings, toy, list(toy.net.parameters()), Stream("train", groups, 4, seed), meta)
        low, high = noise_band(settings.upper, finish(run))
        inside += all(low <= weight <= high for weight in run.weights().values())
    assert inside >= 9
