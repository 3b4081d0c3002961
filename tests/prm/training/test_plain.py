"""The trainer against plain ones, on a PRM: bit for bit where the operations are the same, else to rounding."""

import os
import random

import pytest
import torch
from prm_testbed import example_rows, fill
from step_bench import WEIGHTS, Bench
from train_testbed import settings

from curate.tables.store import Store
from prm.bilevel.hypergradient import gradients
from prm.config import AdamUpper
from prm.data.batches import EvenBatches
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.training import train


@pytest.fixture
def two_domains(tmp_path):
    def make(name: str) -> Store:
        workspace = Store.open(tmp_path / name)
        fill(workspace, "train", *example_rows(8, "train", ("a", "b")))
        fill(workspace, "meta", *example_rows(6, "meta", ("m",)))
        return workspace

    return make


def trained(workspace: Store) -> dict[str, torch.Tensor]:
    return Prm.load(str(model_folder(workspace, "seed-0"))).state_dict()


@pytest.mark.skipif("ATEN_CPU_CAPABILITY" not in os.environ, reason="no instructions were asked for")
def test_the_instructions_that_were_asked_for_are_used():
    assert torch.backends.cpu.get_cpu_capability().lower() == os.environ["ATEN_CPU_CAPABILITY"]


def step_losses(logits: torch.Tensor, rows: list, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Squared errors of these rows' steps, in one vector."""
    return (torch.sigmoid(logits) - torch.tensor([v for row in rows for v in row.example.values], dtype=dtype)) ** 2


@pytest.mark.parametrize("rows_per_domain", [2, 4], ids=["20-steps", "40-steps"])
def test_uniform_mode_is_a_plain_trainer_bit_for_bit(tiny_model, two_domains, rows_per_domain):
    """The plain trainer takes the sigmoid of a forward's steps in one call, as ours does: vector instructions round
    whole stretches of entries (16 with AVX2, 32 with AVX-512) otherwise than the rest, by a unit in the last place. 40
    steps have such a stretch on either kind of processor. The order of the sum does not matter, its gradient is 1 each.
    """
    workspace, shape = two_domains("w"), {"mode": "uniform", "head": "scalar", "rows_per_domain": rows_per_domain}
    config = settings(tiny_model, **shape, lr_schedule="constant", lr_warmup=1, clip=0.1)
    train.run(config, workspace, 0)
    data, _ = train.prepare(config, workspace)
    prm = Prm.load(tiny_model)
    prm.start_head("scalar", 0, 0, 0)
    matrices, rest = ([p for p in prm.trained() if (p.ndim > 1) == two] for two in (True, False))
    optimiser = torch.optim.AdamW([{"params": matrices}, {"params": rest, "weight_decay": 0.0}], lr=config.lr)
    walked = EvenBatches("train", data.strata(rows_per_domain), rows_per_domain, 0)
    for step in range(config.steps):
        rows = [data.rows[n] for part in walked.rows(step).values() for n in part]
        logits = torch.cat(prm(rows, data.encoder.prompt))
        assert len(logits) == 10 * rows_per_domain
        (step_losses(logits, rows).sum() / len(rows)).backward()
        assert float(torch.nn.utils.clip_grad_norm_(prm.trained(), config.clip)) > config.clip
        optimiser.step()
        optimiser.zero_grad()
    ours, start = trained(workspace), Prm.load(tiny_model).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in prm.state_dict().items())
    assert not torch.equal(ours["score.weight"], start["score.weight"])


def test_domain_mode_that_learns_nothing_is_uniform_mode_bit_for_bit(tiny_model, two_domains):
    """An upper step goes backward domain by domain, others by forwards; with a rollout of two domains each in a forward
    of its own these are the same two gradients, whose sum does not depend on their order. More are equal to rounding.
    """
    ends = {}
    for mode, upper in (("domain", {"upper": AdamUpper(unroll=2, warmup=1, lr=0.0, meta_rows=4)}), ("uniform", {})):
        nulls = {"null_runs": 0} if upper else {}
        config = settings(tiny_model, mode=mode, rows_per_domain=1, micro_rows=1, **upper, **nulls)
        workspace = two_domains(mode)
        train.run(config, workspace, 0)
        ends[mode] = trained(workspace)
    assert all(torch.equal(value, ends["uniform"][name]) for name, value in ends["domain"].items())


@pytest.fixture(scope="module")
def bench(tiny_model) -> Bench:
    return Bench(tiny_model, True, 0.05, warm=3)


def step_of(bench: Bench, names: list[str], micro_rows: int, apart: bool = False) -> tuple[list, list]:
    """Gradient and parameters of the next step, with its rows in this order; `apart`, as an upper step takes them."""
    bench.restore()
    bench.run.given, bench.run.objective.micro_rows = WEIGHTS, micro_rows
    domain_of = {name: domain for domain, part in bench.rows.items() for name in part}
    parts = [[name for name in names if domain_of[name] == domain] for domain in WEIGHTS] if apart else [names]
    for part in parts:
        bench.run._backward(part, bench.rows)
    found = [g.clone() for g in gradients(bench.run.parameters)]
    assert float(torch.nn.utils.clip_grad_norm_(bench.run.parameters, 0.05)) > 0.05
    bench.run.optimiser.step()
    return found, [p.detach().clone() for p in bench.run.parameters]


@pytest.mark.parametrize("micro_rows", [1, 2, 4, 6])
@pytest.mark.parametrize("apart", [False, True], ids=["joint", "by-domain"])
def test_how_a_batch_is_cut_and_ordered_changes_a_step_by_rounding_only(bench, micro_rows, apart):
    """In float64: gradients to 1e-12 of their norm, parameters to 1e-12."""
    gradient, parameters = step_of(bench, bench.names, 16)
    norm = float(torch.cat([g.flatten() for g in gradient]).norm())
    for seed in range(2):
        names = list(bench.names)
        random.Random(seed).shuffle(names)
        other, moved = step_of(bench, names, micro_rows, apart)
        assert max(float((a - b).abs().max()) for a, b in zip(gradient, other, strict=True)) < 1e-12 * norm
        assert max(float((a - b).abs().max()) for a, b in zip(parameters, moved, strict=True)) < 1e-12


def test_a_gradient_is_that_of_a_plain_trainer_which_takes_row_by_row(bench):
    """In float64, to 1e-12 of its norm."""
    gradient, _ = step_of(bench, bench.names, 16)
    bench.restore()
    objective, weight_of = bench.run.objective, {name: WEIGHTS[d] for d, part in bench.rows.items() for name in part}
    for name in bench.names:
        row = objective.rows[name]
        (logits,) = bench.prm([row], objective.encoder.prompt)
        (weight_of[name] * step_losses(logits, [row], torch.float64).sum() / len(bench.names)).backward()
    plain = gradients(bench.run.parameters)
    norm = float(torch.cat([g.flatten() for g in plain]).norm())
    assert norm > 0.05
    assert max(float((a - b).abs().max()) for a, b in zip(gradient, plain, strict=True)) < 1e-12 * norm


def test_features_are_those_of_their_own_forward_whenever_they_are_asked_for(bench):
    bench.restore()
    objective, names = bench.run.objective, bench.names
    objective.micro_rows = 2
    late = [(part, make) for part, _, make in objective.featured_losses(names)]
    at_once = {}
    for part, _, make in objective.featured_losses(names):
        at_once |= dict(zip(part, make(), strict=True))
    assert len(late) > 1 and at_once.keys() == set(names)
    for part, make in reversed(late):
        assert torch.equal(make(), torch.stack([at_once[name] for name in part]))
    # Mean loss of a labelled step, and a score.
    for part, losses in objective.train_losses(names):
        for name, found in zip(part, losses.tolist(), strict=True):
            loss, score = at_once[name].tolist()
            assert loss == pytest.approx(found / 5) and 0 < score < 1
