"""The running dot against central differences of the meta loss through the real, clipped AdamW step, in float64."""

import types

import pytest
import torch
from prm_testbed import example_rows, to_examples

from prm.aggregate import aggregation
from prm.batches import Stream
from prm.bilevel import Bilevel
from prm.config import TrainConfig, UpperConfig
from prm.encode import Encoder, load_processor
from prm.examples import Example
from prm.hypergradient import RunningDots, direction, dot, gradients
from prm.meta import Pairs, Singles
from prm.model import Prm
from prm.objective import PrmObjective
from prm.oracle import AdamStep, adam_direction, exact_direction, finite_difference

WEIGHTS = {"a": 1.3, "b": 0.9, "c": 0.8}


class Weighted(Bilevel):
    """Weights as the test sets them, mean 1 or not."""

    given = WEIGHTS

    def weights(self) -> dict[str, float]:
        return dict(self.given)


def exact_norm(module, hidden):
    """RMSNorm without the cast to float32."""
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return module.weight * hidden * torch.rsqrt(variance + module.variance_epsilon)


class Bench:
    """A warm run whose next lower step can be taken again and again from the same state."""

    def __init__(self, model: str, with_image: bool, clip: float | None, pairs: bool = False) -> None:
        train, images = example_rows(9, "train", tuple(WEIGHTS))
        meta, more = example_rows(8, "meta", ("m",))
        rows = to_examples(train + meta)
        if not with_image:
            rows = [Example(**{**vars(row), "image_hashes": ()}) for row in rows]
        store = {row["image_hash"]: row["bytes"] for row in images + more}
        encoder = Encoder(load_processor(model, None), store, "Check each step.", 600)
        encoded = {row.rollout_id: encoder.encode(row) for row in rows}
        prm = Prm.load(model)
        prm.start_head("scalar", 0, 0, 2)
        prm.double()
        for module in prm.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = types.MethodType(exact_norm, module)
        outcomes = {row.rollout_id: bool(row.outcome) for row in rows if row.role == "meta"}
        groups = {d: [r["rollout_id"] for r in train if r["domain"] == d] for d in WEIGHTS}
        config = TrainConfig(
            model=model, mode="uniform", lr=1e-3, lr_schedule="constant", lr_warmup=1, clip=clip,
            upper=UpperConfig(floor=0),
        )  # fmt: skip
        objective = PrmObjective(prm, encoder, encoded, outcomes, "mse", aggregation("mean-log-odds"), 16)
        names = list(outcomes)
        meta_set = Pairs({"m": names[:4], "n": names[4:]}, outcomes, 4, 0) if pairs else Singles(names, 8, 0)
        self.run = Weighted(config, objective, prm.trained(), Stream("train", groups, 2, 0), meta_set)
        self.prm = prm
        for _ in range(20):
            self.run.step()
        self.rows = self.run.train.rows(self.run.done)
        self.phi = [p.detach().clone() for p in self.run.parameters]
        states = [self.run.optimiser.state[p] for p in self.run.parameters]
        self.m = [s["exp_avg"].clone() for s in states]
        self.s = [s["exp_avg_sq"].clone() for s in states]
        self.number = int(states[0]["step"]) + 1

    def restore(self) -> None:
        with torch.no_grad():
            for p, start, m, s in zip(self.run.parameters, self.phi, self.m, self.s, strict=True):
                p.copy_(start)
                state = self.run.optimiser.state[p]
                state["exp_avg"].copy_(m)
                state["exp_avg_sq"].copy_(s)
                state["step"].fill_(self.number - 1)
        self.run.optimiser.zero_grad(set_to_none=True)

    def lower_step(self, weights: dict[str, float]) -> list[torch.Tensor]:
        """The real step from the warm state; returns the unclipped gradient."""
        self.restore()
        self.run.given = weights
        self.run._backward([n for part in self.rows.values() for n in part], self.rows)
        total = [g.clone() for g in gradients(self.run.parameters)]
        if self.run.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.run.parameters, self.run.config.clip)
        self.run.optimiser.step()
        self.run.optimiser.zero_grad(set_to_none=True)
        return total

    def truth(self, size: float = 1e-4) -> torch.Tensor:
        """Central differences of the meta loss after the step, in each weight."""
        found = []
        for domain in WEIGHTS:
            ends = []
            for sign in (1, -1):
                self.lower_step({**WEIGHTS, domain: WEIGHTS[domain] + sign * size})
                ends.append(self.run.meta_gradient(0)[1])
            found.append((ends[0] - ends[1]) / (2 * size))
        return torch.tensor(found, dtype=torch.float64)

    def exact(self) -> tuple[AdamStep, list[torch.Tensor]]:
        """The step that was taken, and the meta gradient after it."""
        total = self.lower_step(WEIGHTS)
        after, _ = self.run.meta_gradient(0)
        config = self.run.config
        return (
            AdamStep(config.lr, config.betas, config.epsilon, self.number, self.m, self.s, total, config.clip),
            after,
        )

    def dots(self, towards: list[torch.Tensor], settle: bool) -> torch.Tensor:
        """-<D, g_k> at the warm state, domain by domain."""
        self.restore()
        self.run.given = WEIGHTS
        running = RunningDots(self.run.parameters, towards, torch.float64 if settle else None)
        for domain in WEIGHTS:
            self.run._backward(self.rows[domain], self.rows)
            running.read(WEIGHTS[domain])
        return -torch.tensor(running.settle(self.run.config.clip) if settle else running.plain(), dtype=torch.float64)

    def lagged(self) -> torch.Tensor:
        """What the product does: meta gradient before the step, cheap scale, clipping undone exactly."""
        self.restore()
        meta, _ = self.run.meta_gradient(0)
        return self.dots(direction(self.run.parameters, meta, self.run.optimiser, 0), settle=True)


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def cosine(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(torch.dot(found, truth) / (found.norm() * truth.norm()))


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
    assert whole < 1e-6
    assert settled < 1e-6
    if clipped:
        # The clip's own derivative is no small part: without it every domain gets the same spurious push.
        assert distance(bench.dots(adam_direction(step, after), settle=False), truth) > 1e-2


def test_lag_and_cheap_scale_keep_the_direction(bench):
    found = cosine(bench.lagged(), bench.truth())
    assert found > 0.99


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
