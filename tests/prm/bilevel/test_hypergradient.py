"""The running dot against central differences of the meta loss through the real, clipped AdamW step, in float64."""

import pytest
import torch
from oracle import adam_direction, exact_direction, finite_difference, sama_direction
from step_bench import WEIGHTS, Bench, cosine, distance

from prm.bilevel.hypergradient import DirectionTurn, RunningDots, direction, dot, gradients
from prm.bilevel.weights import pull_back


@pytest.fixture(
    scope="module",
    params=[(True, 0.05), (True, None), (False, 0.05), (True, 0.05, True)],
    ids=["clip", "plain", "text", "pairs"],
)
def bench(request, tiny_model) -> Bench:
    return Bench(tiny_model, *request.param)


def test_running_dot_is_the_derivative_through_the_real_step(bench):
    truth = bench.truth()
    step, after = bench.exact()
    clipped = step.clip is not None
    assert clipped == (step.clip is not None and dot(step.gradient, step.gradient) ** 0.5 > step.clip)
    whole = distance(bench.dots(exact_direction(step, after), settle=False), truth)
    settled = distance(bench.dots(adam_direction(step, after), settle=True), truth)
    assert whole < 1e-7
    assert settled < 1e-7
    if clipped:
        # The clip's own derivative is no small part: without it every domain gets the same spurious push.
        assert distance(bench.dots(adam_direction(step, after), settle=False), truth) > 1e-2


def test_lag_and_cheap_scale_keep_the_direction(bench, record_property):
    """What each shortcut costs, as the cosine with the truth over the domains; what we do must stay near 1."""
    truth, (step, after) = bench.truth(), bench.exact()
    bench.restore()
    before, _ = bench.run.meta_gradient(0)
    cheap = direction(bench.run.parameters, after, bench.run.optimiser, 0)
    found = {
        "as we do it: lagged, cheap scale": bench.lagged(),
        "lagged": bench.dots(adam_direction(step, before), settle=True),
        "cheap scale": bench.dots(cheap, settle=True),
        "clip left out": bench.dots(adam_direction(step, after), settle=False),
        "SAMA": bench.dots(sama_direction(step, after), settle=False),
        "identity": bench.dots(after, settle=False),
    }
    cosines = {name: cosine(dots, truth) for name, dots in found.items()}
    for name, value in cosines.items():
        record_property(name, value)
        print(f"{name}: {value:.4f}")
    assert min(cosines[name] for name in list(found)[:3]) > 0.99
    if step.clip is None:
        # Nothing but bias corrections tells these from the exact metric when nothing is clipped.
        assert min(cosines["clip left out"], cosines["SAMA"]) > 0.99


def test_identity_metric_is_the_rule_of_the_original_code(bench):
    """Running dot with D = v against finite differences of the lower losses along v, as Betty's darts does it."""
    bench.restore()
    meta, _ = bench.run.meta_gradient(0)

    def losses() -> list[float]:
        size = sum(len(part) for part in bench.rows.values())
        return [
            sum(float(losses.sum()) for _, losses in bench.run.objective.train_losses(part)) / size
            for part in bench.rows.values()
        ]

    oracle = torch.tensor(finite_difference(bench.run.parameters, meta, losses, 1e-5), dtype=torch.float64)
    assert distance(bench.dots(meta, settle=False), oracle) < 1e-5


def test_darts_puts_the_parameters_back(bench):
    bench.restore()
    meta, _ = bench.run.meta_gradient(0)
    finite_difference(bench.run.parameters, meta, lambda: [0.0])
    assert all(torch.equal(p, start) for p, start in zip(bench.run.parameters, bench.phi, strict=True))


def test_never_touched_entries_get_no_say(bench):
    """Rows of the embedding that no batch showed have second moment 0; their scale would be 1 / epsilon."""
    towards = direction(bench.run.parameters, [torch.ones_like(p) for p in bench.phi], bench.run.optimiser, 0.01)
    for part, second in zip(towards, bench.s, strict=True):
        assert torch.all(part[second == 0] == 0)
        seen = part[part != 0].abs()
        if len(seen):
            assert seen.max() <= 100 * (bench.run.config.lr / second[second > 0].mean().sqrt()) * 1.5


def test_by_domain_backward_adds_up_to_the_joint_one(bench):
    bench.restore()
    bench.run.given = WEIGHTS
    for domain in WEIGHTS:
        bench.run._backward(bench.rows[domain], bench.rows)
    parts = [g.clone() for g in gradients(bench.run.parameters)]
    bench.restore()
    bench.run._backward([n for part in bench.rows.values() for n in part], bench.rows)
    joint = gradients(bench.run.parameters)
    gap = [a - b for a, b in zip(parts, joint, strict=True)]
    assert dot(gap, gap) ** 0.5 < 1e-10 * dot(joint, joint) ** 0.5


def test_a_clipped_step_without_kept_gradients_is_skipped(bench):
    bench.restore()
    bench.run._backward(bench.rows["a"], bench.rows)
    running = RunningDots(bench.run.parameters, bench.phi, None)
    running.read(1.0)
    assert running.settle(1e-9) is None
    assert running.settle(1e9) == running.plain()


def test_the_rule_of_the_original_code_in_its_precision(tiny_model):
    """Parity with Betty's darts: float32, its own epsilon, the same batch; sign and cosine, per raw weight."""
    bench = Bench(tiny_model, True, None, double=False)
    bench.restore()
    meta, _ = bench.run.meta_gradient(0)

    def losses() -> list[float]:
        return [
            sum(float(losses.sum()) for _, losses in bench.run.objective.train_losses(part)) / len(bench.names)
            for part in bench.rows.values()
        ]

    oracle = torch.tensor(finite_difference(bench.run.parameters, meta, losses), dtype=torch.float64)
    ours = bench.dots(meta, settle=False)
    raw = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64)
    print(f"cosine with darts: {cosine(ours, oracle):.6f}")
    assert torch.equal(ours.sign(), oracle.sign())
    assert cosine(ours, oracle) > 0.999
    assert cosine(pull_back(raw, ours), pull_back(raw, oracle)) > 0.999


def test_the_turn_of_a_direction_is_its_cosine_with_the_one_before():
    torch.manual_seed(0)
    one, other = ([torch.randn(30, 7), torch.randn(7)] for _ in range(2))
    turn = DirectionTurn()
    assert turn.cosine(one) is None
    expected = dot(one, other) / (dot(one, one) * dot(other, other)) ** 0.5
    assert turn.cosine(other) == pytest.approx(expected, rel=1e-6)
    assert turn.cosine([3 * part for part in other]) == pytest.approx(1, rel=1e-6)
    assert turn.cosine([torch.zeros_like(part) for part in one]) is None
    turn = DirectionTurn()
    turn.SAMPLE = 50
    turn.cosine(one)
    assert len(turn.last) <= 50 + len(one)
    assert turn.cosine([-part for part in one]) == pytest.approx(-1, rel=1e-6)
