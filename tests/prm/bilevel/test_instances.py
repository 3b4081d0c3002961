"""Weights of single rollouts: their arithmetic, and the loop on rollouts of which some are known to be bad."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import batch_first
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from train_testbed import train_config

from prm.bilevel.ghost import Ghost
from prm.bilevel.instances import RolloutNet, RolloutTable, rollout_weights
from prm.bilevel.loop import Bilevel
from prm.config import TrainConfig
from prm.data.batches import Stream
from prm.data.meta import Singles, shuffled_outcomes
from prm.training import checkpoint

MODES = ("instance-table", "instance-net")
GROUPS = {"a": ["a1", "a2", "a3"], "b": ["b1"]}
SHARE = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2], dtype=torch.float64)
FEATURES = {"a1": (0.2, 0.7), "a2": (0.9, 0.1), "a3": (0.4, 0.4), "b1": (0.1, 0.9)}


def features(names):
    return torch.tensor([FEATURES[name] for name in names]).double()


def learning(mode: str, **upper) -> TrainConfig:
    return train_config(model="toy", mode=mode, upper=upper)


def moved(mode: str, **config) -> RolloutTable | RolloutNet:
    """Weights after a few updates of all rollouts."""
    weights = rollout_weights(learning(mode, lr=0.1, **config), GROUPS, 3)
    for step in range(5):
        weights.settle(weights.names, features(weights.names))
        weights.update(weights.names, [0.3, -0.1 * step, 0.2, -0.4])
    return weights


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_positive_of_mean_one_and_start_at_one(mode):
    fresh = rollout_weights(learning(mode), GROUPS, 3)
    fresh.settle(fresh.names, features(fresh.names))
    assert fresh.all_weights().tolist() == pytest.approx([1] * 4)
    weights = moved(mode)
    found = weights.all_weights()
    assert (found > 0).all()
    assert float((found * SHARE).sum()) == pytest.approx(1)
    means = weights.domain_means()
    assert means == pytest.approx({"a": float(found[:3].mean()), "b": float(found[3])})
    assert sum(means.values()) / 2 == pytest.approx(1)
    assert found.std() > 0.01


def test_other_modes_have_no_weights_of_rollouts():
    assert rollout_weights(learning("domain"), GROUPS, 0) is None


def test_the_factor_of_a_batch_brings_the_net_to_mean_one():
    weights = moved("instance-net")
    part = [weights.factors(names, features(names)) for names in (["a1", "a2"], ["b1"])]
    factors = torch.cat(part) * weights.settle(["a1", "a2", "b1"], features(["a1", "a2", "b1"]))
    assert float(factors.mean()) == pytest.approx(1)
    # Of a batch, not of all rollouts; in the order that it came in.
    assert factors.tolist() == pytest.approx(
        (weights.all_weights()[[0, 1, 3]] / weights.all_weights()[[0, 1, 3]].mean()).tolist()
    )


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(0, 3))
def test_only_rollouts_of_the_batch_move_in_a_table(dots, place):
    weights = moved("instance-table")
    names = [weights.names[place], weights.names[place - 1], weights.names[place]]
    before = weights.state["raw"].clone()
    weights.update(names, dots)
    still = [i for i, name in enumerate(weights.names) if name not in names]
    assert torch.equal(before[still], weights.state["raw"][still])


@pytest.mark.parametrize("mode", MODES)
def test_what_all_rollouts_have_in_common_moves_none(mode):
    weights = moved(mode) if mode == "instance-net" else rollout_weights(learning(mode, lr=0.1), GROUPS, 0)
    weights.state |= {name: torch.zeros_like(weights.state[name]) for name in ("m", "s")}
    weights.settle(weights.names, features(weights.names))
    weights.update(weights.names, [0.7] * 4)
    assert weights.state["m"].abs().max() < 1e-15


@pytest.mark.parametrize("mode", MODES)
def test_what_is_learned_from_is_the_derivative_of_the_weights(mode):
    """sum_i h_i w_i(raw) by central differences, on a batch that holds each share as often as it should."""
    weights, h = moved(mode), torch.tensor([0.4, -0.2, 0.1, 0.3, 0.3, 0.3], dtype=torch.float64)
    names = ["a1", "a2", "a3", "b1", "b1", "b1"]
    raw = weights.state["raw"].clone()

    def total() -> float:
        found = weights.all_weights()[weights.places(names)]
        return float((h * found / found.mean()).sum())

    slopes = []
    for place in range(len(raw)):
        ends = []
        for sign in (1, -1):
            weights.state["raw"] = raw.clone()
            weights.state["raw"][place] += sign * 1e-6
            ends.append(total())
        slopes.append((ends[0] - ends[1]) / 2e-6)
    weights.state["raw"] = raw
    weights.state["m"] = torch.zeros_like(raw)
    weights.update(names, (-h).tolist())
    # Adam's first moment after one step from 0 is a tenth of the gradient.
    assert (weights.state["m"] / 0.1).tolist() == pytest.approx(slopes, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_the_account_of_dots(mode):
    weights = rollout_weights(learning(mode), GROUPS, 0)
    for dots in ([1.0, 5.0], [3.0, 5.0]):
        weights.settle(["a1", "b1"], features(["a1", "b1"]))
        weights.update(["a1", "b1"], dots)
    rows = {row.rollout_id: row for row in weights.account()}
    assert rows["a1"] == rows["a1"]._replace(reads=2, dot=2.0, dot_deviation=pytest.approx(math.sqrt(2)))
    assert (rows["b1"].dot, rows["b1"].dot_deviation) == (5.0, 0.0)
    assert rows["a2"]._replace(rollout_id="a2", reads=0, dot=None, dot_deviation=None) == rows["a2"]
    assert (rows["a2"].weight is None) == (mode == "instance-net")


SIZE = 60


class Toy:
    """A two-layer network learns a linear rule; in both domains three labels of ten are flipped."""

    def __init__(self, seed: int, shuffled: bool = False, micro: int = 1000) -> None:
        generator = torch.Generator().manual_seed(seed)
        rule = torch.randn(4, generator=generator)
        self.groups = {d: [f"{d}/{i:03d}" for i in range(SIZE)] for d in ("one", "two", "meta")}
        self.inputs, self.labels, self.micro = {}, {}, micro
        for name in (name for group in self.groups.values() for name in group):
            self.inputs[name] = torch.randn(4, generator=generator)
            right = bool(self.inputs[name] @ rule > 0)
            self.labels[name] = right != self.flipped(name)
        if shuffled:
            meta = {name: self.labels[name] for name in self.groups["meta"]}
            self.labels |= shuffled_outcomes([self.groups["meta"]], meta, seed)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    @staticmethod
    def flipped(name: str) -> bool:
        return not name.startswith("meta") and int(name[-1]) < 3

    def train_losses(self, names):
        for part, losses, _ in self.featured_losses(names):
            yield part, losses

    def featured_losses(self, names):
        for start in range(0, len(names), self.micro):
            part = list(names[start : start + self.micro])
            logits = self.net(torch.stack([self.inputs[name] for name in part]))[:, 0]
            losses = bce(logits, torch.tensor([float(self.labels[name]) for name in part]), reduction="none")
            pairs = torch.stack([losses, torch.sigmoid(logits)], 1).detach()
            yield part, losses, lambda pairs=pairs: pairs

    def ghost(self, parameters, towards):
        return Ghost(self.net, dict(zip(parameters, towards, strict=True)), batch_first)

    def meta_losses(self, items):
        for _, losses in self.train_losses([name for (name,) in items]):
            yield losses


def build(mode: str, seed: int = 0, shuffled: bool = False, micro: int = 1000, **changes) -> tuple[Toy, Bilevel]:
    upper = {"unroll": 2, "warmup": 20, "lr": 0.1, "meta_rows": 24} | changes.pop("upper", {})
    basic = {"model": "toy", "lr": 1e-2, "steps": 400, "lr_warmup": 1, "lr_schedule": "constant", "clip": None}
    config = train_config(**(basic | changes), mode=mode, upper=upper)
    toy = Toy(seed, shuffled, micro)
    train = Stream("train", {domain: toy.groups[domain] for domain in ("one", "two")}, 8, seed)
    meta = Singles(toy.groups["meta"], config.upper.meta_rows, seed)
    return toy, Bilevel(config, toy, list(toy.net.parameters()), train, meta)


def finish(run: Bilevel) -> list:
    return [update for _ in range(run.config.steps - run.done) if (update := run.step()) is not None]


def gap(run: Bilevel) -> float:
    """Mean weight of clean rollouts less that of flipped ones."""
    sides = {True: [], False: []}
    for row in run.rollouts.account():
        sides[Toy.flipped(row.rollout_id)].append(row.weight)
    return sum(sides[False]) / len(sides[False]) - sum(sides[True]) / len(sides[True])


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("mode", MODES)
def test_flipped_rollouts_lose_weight_and_not_without_signal(mode, clip):
    """Shuffled meta outcomes: flipped rollouts may even gain, by teaching no confidence (see the tests of the loop)."""
    upper = {"warmup": 60, "lr": 0.1 if mode == "instance-table" else 0.02}
    for seed in range(3):
        for shuffled in (False, True):
            _, run = build(mode, seed, shuffled, clip=clip, upper=upper)
            finish(run)
            assert gap(run) < 0.2 if shuffled else gap(run) > 0.6


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_give_the_same_run_to_rounding(mode):
    runs = []
    for micro in (1000, 3):
        _, run = build(mode, micro=micro, steps=60, clip=0.2)
        runs.append((finish(run), run.rollouts.all_weights()))
    torch.testing.assert_close(runs[0][1], runs[1][1], atol=1e-3, rtol=1e-2)
    assert runs[0][0][-1].dots == pytest.approx(runs[1][0][-1].dots, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("at", [7, 33])
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_is_bit_equal(tmp_path, mode, at):
    changes = {"steps": 50, "clip": 0.2, "upper": {"ema": 0.5, "meta_ema": 0.8}}
    names = [str(i) for i in range(4)]
    toy, whole = build(mode, **changes)
    expected = finish(whole)
    _, stopped = build(mode, **changes)
    early = [update for _ in range(at) if (update := stopped.step()) is not None]
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, stopped, names, [], "stamp")
    again, resumed = build(mode, **changes)
    assert checkpoint.load(path, resumed, names, "stamp") == []
    late = finish(resumed)
    assert [vars(u) for u in early + late] == [vars(u) for u in expected]
    assert resumed.rollouts.account() == whole.rollouts.account()
    for ours, theirs in zip(again.net.parameters(), toy.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_updates_tell_what_they_saw(mode):
    _, run = build(mode, steps=30)
    updates = finish(run)
    assert [u.number for u in updates] == [1, 2, 3, 4, 5]
    assert updates[1].tally.rows == {"one": 16, "two": 16}
    assert updates[0].raw == {"one": None, "two": None}
    assert updates[0].cosine is None
    assert all(-1 <= u.cosine <= 1 for u in updates[1:])
    assert sum(updates[-1].weights.values()) == pytest.approx(2)
    read = sum(row.reads for row in run.rollouts.account())
    assert read == 5 * 16


def test_clipped_updates_can_be_left_out():
    _, run = build("instance-table", steps=40, clip=1e-3, upper={"clipped": "skip"})
    assert finish(run) == []
    assert run.skipped == 10
    assert set(run.rollouts.state["raw"].tolist()) == {0.0}


def test_dots_of_a_domain_are_those_of_its_rollouts_together():
    """The first update of both modes sees the same: weights are 1, and a domain's dot is its rollouts' sum."""
    found = []
    for mode in ("domain", *MODES):
        _, run = build(mode, steps=22, clip=0.2)
        found.append(finish(run)[0].dots)
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] == pytest.approx(found[0], rel=1e-3)
