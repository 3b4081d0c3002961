"""Inner products per row: against the gradient of each row, forward mode, and the real step's derivative."""

import itertools

import pytest
import torch
from oracle import adam_direction, batch_first, exact_direction, forward_mode
from step_bench import Bench, distance
from torch.utils.checkpoint import checkpoint
from train_testbed import Fixed

from curate.errors import UserError
from prm.bilevel.ghost import Ghost, RowLayout
from prm.bilevel.hypergradient import dot, gradients
from prm.bilevel.rollout_level import RolloutLevel


class PlainRMSNorm(torch.nn.Module):
    """As in transformers, in the input's precision."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(size)), 1e-6

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class Net(torch.nn.Module):
    """Every kind of layer that has a rule; optionally checkpointed, or with a parameter used behind a module's back."""

    def __init__(self, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.table = torch.nn.Embedding(11, 6, padding_idx=0)
        self.patch = torch.nn.Conv1d(6, 6, 2, stride=1, padding=1)
        self.norm, self.scale = torch.nn.LayerNorm(6), PlainRMSNorm(6)
        self.inner, self.out = torch.nn.Linear(6, 6), torch.nn.Linear(6, 1, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape))

    def _middle(self, x):
        x = self.norm(x) + self.patch(x.transpose(1, 2)).transpose(1, 2)[:, 1:]
        # The same layer twice: both uses count.
        return self.inner(torch.tanh(self.inner(self.scale(x))))

    def forward(self, ids):
        x = self.table(ids)
        if self.how in ("reentrant", "recomputed"):
            x = checkpoint(self._middle, x, use_reentrant=self.how == "reentrant")
        else:
            x = self._middle(x)
        if self.how == "past":
            return (x @ self.out.weight.T).squeeze(-1).sum(1)
        if self.how == "half past":
            return self.out(x).squeeze(-1).sum(1) + (x @ self.inner.weight).sum((1, 2))
        return self.out(x).squeeze(-1).sum(1)


def net(how: str = "plain") -> tuple[Net, torch.Tensor, dict]:
    """A net, ids [5, 4] with padding among them, and a direction."""
    torch.manual_seed(1)
    made = Net(how).double()
    ids = torch.randint(0, 11, (5, 4))
    assert (ids == 0).any()
    return made, ids, {p: torch.randn_like(p) for p in made.parameters()}


def one_by_one(made: Net, ids: torch.Tensor, towards: dict) -> torch.Tensor:
    """<D, grad of each row's loss> by a backward of each."""
    found = []
    for row in ids:
        grads = torch.autograd.grad((made(row[None]) ** 2).sum(), list(towards), allow_unused=True)
        found.append(sum(float((d * g).sum()) for d, g in zip(towards.values(), grads, strict=True) if g is not None))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("how", ["plain", "recomputed", "reentrant"])
def test_products_of_every_kind_of_layer_equal_the_rows_own_gradients(how):
    plain, ids, directions = net()
    expected = one_by_one(plain, ids, directions)
    (plain(ids) ** 2).sum().backward()
    made, _, towards = net(how)
    with Ghost(made, towards, batch_first) as ghost:
        (made(ids) ** 2).sum().backward()
        found = ghost.take()
        ghost.check(sum(found), sum(map(abs, found)))
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(made.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_each_parameter_alone_counts_once():
    """Biases, norms, tables: a direction that moves one parameter only gives that parameter's share."""
    made, ids, towards = net()
    for parameter in made.parameters():
        alone = {p: d if p is parameter else torch.zeros_like(d) for p, d in towards.items()}
        with Ghost(made, alone, batch_first) as ghost:
            found = ghost.of((made(ids) ** 2).sum())
        assert found == pytest.approx(one_by_one(made, ids, alone).tolist(), rel=1e-9, abs=1e-9)
    assert all(p.grad is None for p in made.parameters())


def test_frozen_parameters_are_left_alone():
    made, ids, towards = net()
    made.patch.requires_grad_(False)
    made.inner.bias.requires_grad_(False)
    kept = {p: d for p, d in towards.items() if p.requires_grad}
    with Ghost(made, kept, batch_first) as ghost:
        (made(ids) ** 2).sum().backward()
        assert ghost.take() == pytest.approx(one_by_one(made, ids, kept).tolist(), rel=1e-9)


def test_outside_of_the_context_nothing_is_changed():
    made, ids, towards = net()
    before = made(ids)
    with Ghost(made, towards, batch_first):
        torch.testing.assert_close(made(ids), before, rtol=0, atol=0)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in made.modules())


def test_a_parameter_without_a_rule_is_refused_by_name():
    made, _, _ = net()
    made.bilinear = torch.nn.Bilinear(2, 2, 2)
    with pytest.raises(UserError, match=r"bilinear\.weight belongs to a Bilinear"):
        Ghost(made, {p: p for p in made.parameters()}, batch_first)
    made, _, towards = net()
    made.shift = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="shift belongs to a Net"):
        Ghost(made, {p: p for p in made.parameters()}, batch_first)
    with pytest.raises(ValueError, match="not the module's"):
        Ghost(made, towards | {torch.ones(3): torch.ones(3)}, batch_first)


@pytest.mark.parametrize(("how", "message"), [("past", r"out\.weight is used past"), ("half past", "add up to")])
def test_a_use_past_a_module_is_noticed(how, message):
    made, ids, towards = net(how)
    with Ghost(made, towards, batch_first) as ghost:
        (made(ids) ** 2).sum().backward()
        found = ghost.take()
        with pytest.raises(UserError, match=message):
            ghost.check(sum(found), sum(map(abs, found)))


def test_packed_inputs_need_an_index():
    layer = torch.nn.Linear(3, 2)
    towards = {p: torch.randn_like(p) for p in layer.parameters()}
    packed, rows = torch.randn(5, 3), torch.tensor([0, 0, 2, 2, 2])

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)

    with Ghost(Packed(), towards, lambda x: RowLayout(3, {"layer": [torch.zeros(9), rows]})) as ghost:
        (ghost.module(packed) ** 2).sum().backward()
        found = ghost.take()
    expected = []
    for row in range(3):
        grads = torch.autograd.grad((layer(packed[rows == row]) ** 2).sum(), list(towards))
        expected.append(dot(list(towards.values()), grads))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    with (
        Ghost(Packed(), towards, lambda x: RowLayout(3)) as ghost,
        pytest.raises(UserError, match=r"module layer gave .* 3 rollouts"),
    ):
        ghost.module(packed)


def test_half_precision_keeps_the_products():
    made, ids, towards = net()
    made.float()
    towards = {p: d.float() for p, d in zip(made.parameters(), towards.values(), strict=True)}
    found = []
    for enabled in (False, True):
        with Ghost(made, towards, batch_first) as ghost:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = (made(ids).float() ** 2).sum()
            loss.backward()
            products = ghost.take()
            ghost.check(sum(products), sum(map(abs, products)))
            made.zero_grad()
        found.append(torch.tensor(products, dtype=torch.float64))
    assert distance(found[1], found[0]) < 0.05


BENCHES = list(itertools.product((True, False), (0.05, None)))


@pytest.fixture(scope="module", params=BENCHES, ids=["image-clip", "image", "text-clip", "text"])
def bench(request, tiny_model) -> Bench:
    return Bench(tiny_model, *request.param)


def test_ghost_and_forward_mode_are_the_derivative_through_the_real_step(bench):
    """Weight by weight of every row, against central differences through clipping and AdamW, in float64."""
    truth = bench.rows_truth()
    step, after = bench.exact()
    towards = exact_direction(step, after)
    bench.restore()
    level = RolloutLevel(bench.run.objective, bench.run.parameters, Fixed(bench.names, bench.row_weights()))
    seen = level.backward(bench.names, towards)
    ghost = -torch.tensor([one.dot for one in seen], dtype=torch.float64)
    assert [one.name for one in seen] == bench.names
    # The gradient is that of the step itself: the probes add nothing to it.
    total = gradients(bench.run.parameters)
    gap = [a - b for a, b in zip(total, step.gradient, strict=True)]
    assert dot(gap, gap) < 1e-24 * dot(total, total)
    bench.restore()
    names = [name for name, _ in bench.prm.trained_names()]
    dual = -forward_mode(bench.prm, dict(zip(names, towards, strict=True)), bench.row_losses)
    errors = distance(ghost, truth), distance(dual, truth)
    print("relative error against central differences: ghost {:.1e}, forward mode {:.1e}".format(*errors))
    assert distance(ghost, truth) < 1e-7
    assert distance(dual, truth) < 1e-7
    assert all(abs(a - b) < 1e-7 * abs(b) + 1e-10 * truth.norm() for a, b in zip(ghost, dual, strict=True))


@pytest.mark.parametrize("vision", [False, True], ids=["frozen", "vision"])
def test_products_of_a_prm_equal_the_rollouts_own_gradients(tiny_model, vision):
    """With the vision tower, too: patches and merged patches are packed, of images of several rollouts."""
    made = Bench(tiny_model, True, None, vision=vision, warm=1)
    parameters = made.run.parameters
    assert any("visual" in name for name, _ in made.prm.trained_names()) == vision
    torch.manual_seed(5)
    towards = [torch.randn_like(p) for p in parameters]
    grads = (torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in made.row_losses())
    expected = [sum(float((d * g).sum()) for d, g in zip(towards, row, strict=True) if g is not None) for row in grads]
    for checkpointed in (False, True):
        if checkpointed:
            made.prm.base.gradient_checkpointing_enable({"use_reentrant": False})
            made.prm.train()
        level = RolloutLevel(made.run.objective, parameters, Fixed(made.names, made.row_weights()))
        made.run.optimiser.zero_grad()
        found = [one.dot for one in level.backward(made.names, towards)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_clipping_is_settled_by_a_second_look(tiny_model):
    """<D, C g_i> with C the derivative of clipping the whole gradient, against the direction C^T D."""
    made = Bench(tiny_model, False, 0.05, warm=3)
    step, after = made.exact()
    found = {}
    for how, towards in (("correct", adam_direction(step, after)), ("ignore", exact_direction(step, after))):
        made.restore()
        level = RolloutLevel(made.run.objective, made.run.parameters, Fixed(made.names, made.row_weights()))
        seen = level.backward(made.names, towards)
        before = [g.clone() for g in gradients(made.run.parameters)]
        found[how] = level.settled(seen, towards, made.run.config.clip, how)
        assert level.settled(seen, towards, made.run.config.clip, "skip") is None
        assert all(torch.equal(a, b) for a, b in zip(before, gradients(made.run.parameters), strict=True))
    assert [name for name, _ in found["correct"]] == made.names
    ours, theirs = ([q for _, q in found[how]] for how in ("correct", "ignore"))
    assert ours == pytest.approx(theirs, rel=1e-7)
