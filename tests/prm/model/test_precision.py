"""What the precision of weights, of the metric and of the inner products is good for."""

import pytest
import torch
from step_bench import WEIGHTS, Bench, cosine, distance

from prm.bilevel.exact import step_direction
from prm.bilevel.hypergradient import direction
from prm.bilevel.loop import build_optimiser


def test_small_steps_move_float32_weights_and_not_bfloat16_ones(tiny_model):
    """At a learning rate of 5e-7, of the weights that any gradient reaches; theirs are four times as large as usual
    (sd 0.08), which makes it harder. The same step of the same optimiser on bfloat16 weights is rounded away.
    """
    bench = Bench(tiny_model, True, 1.0, double=False, lr=5e-7)
    bench.restore()
    bench.run._backward(bench.names, bench.rows)
    parameters = bench.run.parameters
    halves = [torch.nn.Parameter(p.detach().bfloat16()) for p in parameters]
    optimiser = build_optimiser(bench.run.config, halves)
    for half, p in zip(halves, parameters, strict=True):
        half.grad = p.grad.bfloat16()
        optimiser.state[half] = {
            name: value.clone() if name == "step" else value.bfloat16()
            for name, value in bench.run.optimiser.state[p].items()
        }
    starts = [[p.detach().clone() for p in group] for group in (parameters, halves)]
    bench.run.optimiser.step()
    optimiser.step()
    reached = [bench.run.optimiser.state[p]["exp_avg_sq"] > 0 for p in parameters]
    count = sum(int(mask.sum()) for mask in reached)
    assert count > 90_000
    moved, half_moved = (
        sum(int(((p != start) & mask).sum()) for p, start, mask in zip(group, begun, reached, strict=True)) / count
        for group, begun in zip((parameters, halves), starts, strict=True)
    )
    print(f"moved by a step of 5e-7: {moved:.1%} of float32 weights, {half_moved:.2%} of bfloat16 weights")
    assert moved > 0.95
    assert half_moved < 0.02


def test_the_floor_keeps_a_rare_row_from_owning_the_inner_products(tiny_model):
    """A token that no batch has shown for 20,000 steps has a second moment of next to nothing when it comes up again.

    The lagged metric, which does not know the step's own gradient yet, then blows its row up. Without the floor that
    row owns the direction, and the products are many times the truth and point elsewhere. The exact direction is right
    with and without a floor.
    """
    bench = Bench(tiny_model, True, None)
    table = bench.prm.base.get_input_embeddings().weight
    (place,) = [at for at, p in enumerate(bench.run.parameters) if p is table]
    bench.restore()
    meta, _ = bench.run.meta_gradient(0)
    bench.run._backward(bench.names, bench.rows)
    # Of the rows that this batch, the batches before and the meta batch show, the one of middling meta gradient.
    reached = [meta[place], table.grad, bench.s[place]]
    shown = torch.stack([part.abs().sum(-1) > 0 for part in reached]).all(0).nonzero()[:, 0]
    row = shown[meta[place][shown].norm(dim=-1).argsort()[len(shown) // 2]]
    bench.s[place][row] *= bench.run.config.betas[1] ** 20_000
    bench.m[place][row] = 0
    truth = bench.truth(1e-6)
    cosines, sizes, largest, share = {}, {}, {}, {}
    for floor in (0.0, 0.01):
        bench.restore()
        towards = direction(bench.run.parameters, meta, bench.run.optimiser, floor)
        entries = torch.cat([part[part != 0].abs() for part in towards])
        largest[floor] = float(entries.max() / entries.median())
        share[floor] = float(towards[place][row].square().sum() / entries.square().sum())
        lagged = bench.dots(towards, settle=False)
        cosines[floor], sizes[floor] = cosine(lagged, truth), float(lagged.norm() / truth.norm())
        step, after = bench.exact()
        moved = step_direction(bench.run.parameters, after, step.gradient, bench.run.optimiser, floor)
        assert distance(bench.dots(moved, settle=False), truth) < (1e-3 if floor else 1e-7)
    print(f"by floor: cosine {cosines}, size {sizes}, largest entry over median {largest}, the row's share {share}")
    assert largest[0.0] > 1e5
    assert share[0.0] > 0.999
    assert sizes[0.0] > 10
    assert cosines[0.0] < 0.95
    assert largest[0.01] < 1e4
    assert share[0.01] < 0.5
    assert 0.5 < sizes[0.01] < 2
    assert cosines[0.01] > 0.99


@pytest.mark.parametrize("clip", [None, 0.05], ids=["plain", "clip"])
def test_inner_products_of_bfloat16_backwards_are_those_of_float32(tiny_model, clip):
    """One batch, all of it in either precision: meta gradient, direction, running dots, kept gradients."""
    bench = Bench(tiny_model, True, clip, double=False, floor=0.01)
    whole = bench.lagged()
    towards = direction(bench.run.parameters, bench.run.meta_gradient(0)[0], bench.run.optimiser, 0.01)
    same = bench.dots(towards, settle=False)
    bench.prm.use_precision("bfloat16")
    half, half_same = bench.lagged(), bench.dots(towards, settle=False)
    print(f"cosine of the domains' products: {cosine(half, whole):.6f}; one direction {cosine(half_same, same):.6f}")
    assert cosine(half, whole) > 0.999
    assert cosine(half_same, same) > 0.999
    assert (half - whole).abs().max() < 0.1 * whole.abs().max()
    assert set(WEIGHTS) == set(bench.rows)
