"""The loop itself, on a small network with known good and bad domains: order, controls, parity, resume."""

import copy
import json

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from train_testbed import train_config

from curate.errors import UserError
from prm.bilevel.loop import Bilevel, learning_rate
from prm.config import LEARNED, LearnedTraining, TrainConfig
from prm.data.batches import Stream
from prm.data.meta import Pairs, Singles, shuffled_outcomes
from prm.losses import pair_loss
from prm.training import checkpoint
from prm.training.records import update_rows

CLEAN = ("clean-1", "clean-2", "clean-3")
DOMAINS = (*CLEAN, "flipped", "random")
SIZE = 120
KINDS = {"flipped": "flipped", "random": "random"}


class Toy:
    """A two-layer network learns a linear rule; some domains' labels are flipped or dice."""

    def __init__(
        self,
        seed: int,
        shuffled: bool = False,
        micro: int = 1000,
        size: int = SIZE,
        kinds: dict[str, str] | None = None,
    ) -> None:
        kinds = {"flipped": "flipped", "random": "random"} if kinds is None else kinds
        generator = torch.Generator().manual_seed(seed)
        rule = torch.randn(6, generator=generator)
        self.inputs, self.labels, self.groups, self.micro = {}, {}, {}, micro
        for domain in (*DOMAINS, "meta"):
            names = [f"{domain}/{i}" for i in range(size)]
            self.groups[domain] = names
            for name in names:
                self.inputs[name] = torch.randn(6, generator=generator)
                right = bool(self.inputs[name] @ rule > 0)
                dice = bool(torch.rand((), generator=generator) < 0.5)
                self.labels[name] = {"flipped": not right, "random": dice}.get(kinds.get(domain), right)
        if shuffled:
            meta = {name: self.labels[name] for name in self.groups["meta"]}
            self.labels |= shuffled_outcomes([self.groups["meta"]], meta, seed)
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def train_losses(self, names):
        for start in range(0, len(names), self.micro):
            part = list(names[start : start + self.micro])
            logits = self.net(torch.stack([self.inputs[name] for name in part]))[:, 0]
            yield part, bce(logits, torch.tensor([float(self.labels[name]) for name in part]), reduction="none")

    def meta_losses(self, items):
        for _, losses in self.train_losses([name for (name,) in items]):
            yield losses


class ToyPairs(Toy):
    """Two meta rows make a problem, and of a pair the right one's logit should be above."""

    def problems(self) -> dict[str, list[str]]:
        names = self.groups["meta"]
        return {str(i): names[i : i + 2] for i in range(0, len(names), 2)}

    def meta_losses(self, items):
        for right, wrong in items:
            logits = self.net(torch.stack([self.inputs[right], self.inputs[wrong]]))[:, 0]
            yield pair_loss(*logits)[None]


def config(**changes) -> TrainConfig:
    upper = {"unroll": 3, "warmup": 20, "lr": 0.05, "meta_rows": 24} | changes.pop("upper", {})
    upper = upper if changes.get("mode", "domain") in LEARNED else {}
    return train_config(
        **({"model": "toy", "lr": 1e-2, "steps": 400, "lr_warmup": 1, "lr_schedule": "constant"} | changes),
        upper=upper,
    )


def build(settings: TrainConfig, seed: int = 0, shuffled: bool = False, micro: int = 1000) -> tuple[Toy, Bilevel]:
    toy = Toy(seed, shuffled, micro)
    train = Stream("train", {domain: toy.groups[domain] for domain in DOMAINS}, 4, seed)
    rows = settings.upper.meta_rows if isinstance(settings, LearnedTraining) else 1
    meta = Singles(toy.groups["meta"], rows, seed)
    return toy, Bilevel(settings, toy, list(toy.net.parameters()), train, meta)


def finish(run: Bilevel) -> list:
    return [update for _ in range(run.config.steps - run.done) if (update := run.step()) is not None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip", [None, 0.2])
def test_bad_domains_end_below_every_clean_one(seed, clip):
    _, run = build(config(clip=clip), seed)
    finish(run)
    weights = run.weights()
    assert max(weights["flipped"], weights["random"]) < 0.5 * min(weights[name] for name in CLEAN)


def test_without_signal_clean_domains_gain_nothing():
    """Shuffled meta outcomes. The band is not centred on 1: when outcomes are dice, the best score is their rate, so
    domains that teach no confidence (here the bad ones) gain a little, by the right rule for the wrong labels.
    """
    gaps = {True: [], False: []}
    for shuffled, gap in gaps.items():
        for seed in range(4):
            _, run = build(config(), seed, shuffled)
            finish(run)
            weights = run.weights()
            gap.append(sum(weights[name] for name in CLEAN) / 3 - (weights["flipped"] + weights["random"]) / 2)
    assert min(gaps[False]) > 1
    assert max(gaps[True]) < 0.5


def gap_by_pairs(seed: int, shuffled: bool) -> float:
    """Mean clean weight less mean bad weight at the end of a run on pairs."""
    toy, settings = ToyPairs(seed), config(clip=0.2)
    if shuffled:
        meta = {name: toy.labels[name] for name in toy.groups["meta"]}
        toy.labels |= shuffled_outcomes(list(toy.problems().values()), meta, seed)
    train = Stream("train", {domain: toy.groups[domain] for domain in DOMAINS}, 4, seed)
    run = Bilevel(settings, toy, list(toy.net.parameters()), train, Pairs(toy.problems(), toy.labels, 12, seed))
    finish(run)
    weights = run.weights()
    return sum(weights[name] for name in CLEAN) / 3 - (weights["flipped"] + weights["random"]) / 2


def test_pairs_find_the_bad_domains_and_without_signal_go_either_way():
    """A control's outcomes are dealt once, so they point somewhere, but nowhere in particular."""
    assert min(gap_by_pairs(seed, False) for seed in range(4)) > 1
    null = [gap_by_pairs(seed, True) for seed in range(8)]
    assert sum(gap > 0 for gap in null) >= 2
    assert sum(gap < 0 for gap in null) >= 2


def test_upper_rate_zero_is_the_plain_trainer_bit_for_bit():
    """Against a trainer written out here: torch's AdamW on the mean loss; on upper steps domain by domain."""
    settings = config(upper={"lr": 0.0}, steps=60)
    toy, run = build(settings)
    plain = Toy(0)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in plain.net.parameters() if p.ndim > 1]},
            {"params": [p for p in plain.net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    stream = Stream("train", {domain: plain.groups[domain] for domain in DOMAINS}, 4, 0)
    for step in range(settings.steps):
        rows = stream.rows(step)
        upper = step + 1 > 20 and (step + 1 - 20) % 3 == 0
        for names in rows.values() if upper else [[name for part in rows.values() for name in part]]:
            for _, losses in plain.train_losses(names):
                (losses.sum() / 20).backward()
        torch.nn.utils.clip_grad_norm_(plain.net.parameters(), settings.clip)
        optimiser.step()
        optimiser.zero_grad()
    assert len(finish(run)) == 13
    assert run.weights() == dict.fromkeys(DOMAINS, 1.0)
    for ours, theirs in zip(toy.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_micro_batches_give_the_same_run_to_rounding():
    runs = []
    for micro in (1000, 3):
        toy, run = build(config(steps=60), micro=micro)
        updates = finish(run)
        runs.append((toy, updates))
    for ours, theirs in zip(*(toy.net.parameters() for toy, _ in runs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    first, last = runs[0][1][-1], runs[1][1][-1]
    assert first.weights == pytest.approx(last.weights, rel=1e-2)


@pytest.mark.parametrize("at", [7, 37, 38])
def test_a_resumed_run_is_bit_equal(tmp_path, at):
    settings = config(steps=60, upper={"ema": 0.5, "meta_ema": 0.8})
    names = [str(i) for i in range(4)]
    toy, whole = build(settings)
    expected = finish(whole)
    _, stopped = build(settings)
    early = [update for _ in range(at) if (update := stopped.step()) is not None]
    path = tmp_path / "checkpoint.safetensors"
    rows = [row for update in early for row in update_rows("seed-0", 0, False, update, "adam")]
    checkpoint.save(path, stopped, names, rows, "stamp")
    again, resumed = build(settings)
    assert checkpoint.load(path, resumed, names, "another") is None
    assert resumed.done == 0
    assert checkpoint.load(path, resumed, names, "stamp") == rows
    late = finish(resumed)
    assert [vars(u) for u in early + late] == [vars(u) for u in expected]
    for ours, theirs in zip(again.net.parameters(), toy.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", [{"rows": [{"run": "seed-0", "update": 1}]}, {"steps": None, "more": 1}])
def test_a_checkpoint_of_another_version_is_a_sentence(tmp_path, change):
    path, (_, run) = tmp_path / "checkpoint.safetensors", build(config())
    names = [str(i) for i in range(4)]
    checkpoint.save(path, run, names, update_rows("seed-0", 0, False, run.first(), "adam"), "stamp")
    found, tensors = checkpoint._read(path)
    checkpoint._write(path, tensors, json.dumps(found | change))
    with pytest.raises(UserError, match="is of another version of this program; delete it"):
        checkpoint.load(path, run, names, "stamp")


def test_frozen_weights_are_scaled_to_mean_one_and_kept():
    given = {domain: float(i + 1) for i, domain in enumerate(DOMAINS)}
    _, run = build(config(mode="frozen", weights=given, steps=30))
    updates = finish(run)
    assert updates[-1].weights == {domain: weight / 3 for domain, weight in given.items()}
    assert all(value is None for value in updates[-1].dots.values())
    assert updates[-1].meta_loss is None


def test_uniform_mode_never_looks_at_the_meta_set():
    toy, run = build(config(mode="uniform", steps=40))
    toy.meta_losses = None
    # Without a warm-up to wait for, there is a record every fifth step from the start.
    assert [update.step for update in finish(run)] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_clipped_updates_can_be_left_out_and_are_counted():
    _, run = build(config(steps=40, clip=1e-3, upper={"clipped": "skip"}))
    assert finish(run) == []
    assert (run.skipped, run.clipped) == (6, 40)
    assert run.tally.rows == dict.fromkeys(DOMAINS, 160)


def test_updates_tell_what_they_saw():
    _, run = build(config(steps=40))
    updates = finish(run)
    assert [u.number for u in updates] == [1, 2, 3, 4, 5, 6]
    assert [u.step for u in updates] == [23, 26, 29, 32, 35, 38]
    assert updates[1].tally.rows == dict.fromkeys(DOMAINS, 12)
    assert all(0 < updates[1].tally.mean(domain) < 5 for domain in DOMAINS)
    assert 0 < updates[0].meta_loss < 5


def test_batch_order_within_a_run_does_not_depend_on_its_past():
    _, run = build(config(steps=40))
    twin = copy.deepcopy(run.train)
    finish(run)
    assert run.train.rows(17) == twin.rows(17)


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    settings = config(lr=1.0, lr_schedule="cosine", lr_warmup=10, steps=100)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) <= 1
    assert rates[-1] == pytest.approx(0.1, rel=0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    # Of steps 0, 1, 4, 50, 99 of 100, with four steps of warm-up; by hand.
    [
        ("constant", (0.25, 0.5, 1, 1, 1)),
        ("linear", (0.25, 0.5 * 0.991, 0.964, 0.55, 0.109)),
        ("cosine", (0.25, 0.5 * 0.9997780, 0.9964518, 0.55, 0.1002220)),
    ],
)
def test_learning_rates_of_every_schedule_are_known(schedule, expected):
    settings = config(lr=2.0, lr_schedule=schedule, lr_warmup=4, steps=100)
    rates = [learning_rate(settings, step) for step in (0, 1, 4, 50, 99)]
    assert rates == pytest.approx([2 * share for share in expected], rel=1e-6)
