"""Lines over lower steps, and sentences about runs, when runs are long or many."""

from __future__ import annotations

import pytest
from report_testbed import DOMAINS, add_run, make

from curate.tables.store import Store
from prm import metrics
from prm.render import figures
from prm.reporting import build, stats


@pytest.mark.parametrize("updates", [3, 1000])
def test_weights_stay_where_they_start_until_the_first_update(tmp_path, updates):
    """A straight line to it would show a weight that moves all through the warm-up."""
    workspace = Store.open(tmp_path / "w")
    for name, null in (("seed-0", False), ("seed-1", False), ("null-0", True)):
        add_run(workspace, name, 0, null, {"a": 1.6, "b": 0.4}, updates)
    trained = stats.training(workspace)
    for curve in (*trained.weights, trained.null_curve):
        assert curve.steps[:3] == (0, 21, 22)
        assert (curve.values[:2], curve.low[:2], curve.high[:2]) == ((1, 1), (1, 1), (1, 1))
        assert curve.low[2] < curve.high[2]
        assert (len(curve.steps), curve.steps[-1]) == (min(updates + 2, stats.POINTS + 2), 20 + 2 * updates)


@pytest.mark.parametrize("seeds", [3, 12])
def test_many_runs_are_told_by_the_lowest_and_the_highest(tmp_path, seeds):
    workspace = make(tmp_path / "w", seeds=1, train=2, test=2, nasty=False)
    for seed in range(1, seeds):
        # One whose weights are upside down.
        final = {name: 2 - weight if seed == 1 else weight for name, (weight, *_) in DOMAINS.items()}
        add_run(workspace, f"seed-{seed}", seed, False, final)
    built = build.build(workspace)
    said = figures.order_sentence(built)
    orders = list(built.planted.values())
    worst = min(orders, key=lambda order: order.right)
    assert worst.right < orders[0].right == orders[0].total
    assert figures.order(metrics.total_order(orders)) in said
    told = f"({worst.right}/{worst.total} to {worst.total}/{worst.total} in single runs)"
    assert (told in said) == (seeds == 12)
    assert (f"seed-1 {worst.right}/{worst.total}" in said) == (seeds == 3)
