"""One of several processes for `test_distributed.py`, and what the one-process side of the comparison is made with."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from train_testbed import train_config

from curate.errors import UserError
from curate.tables.rows import UpdateRow
from prm.bilevel.loop import Bilevel, Update
from prm.config import TrainConfig
from prm.data.batches import Stream
from prm.data.meta import Singles
from prm.distributed import launch
from prm.distributed.process_group import ProcessGroup
from prm.distributed.torch_group import joined
from prm.training import checkpoint
from prm.training.records import update_rows

DOMAINS = ("a", "b", "c")
# Three rows a domain and five meta rows do not go into two.
ROWS, META_ROWS = 3, 5
CASES: dict[str, dict] = {
    "unclipped": {"clip": None},
    "clipped": {"clip": 0.05},
    "clip ignored": {"clip": 0.05, "upper": {"clipped": "ignore"}},
    "clip skipped": {"clip": 0.6, "upper": {"clipped": "skip"}},
    "averaged": {"clip": 0.05, "upper": {"ema": 0.5, "meta_ema": 0.8}},
    "exact": {"clip": 0.05, "upper": {"direction": "exact", "meta_ema": 0.8}},
    "exact skipped": {"clip": 0.6, "upper": {"direction": "exact", "clipped": "skip"}},
    "uniform": {"mode": "uniform"},
}


class Toy:
    """Rows of several lengths, scored by a small float64 network; one layer is frozen, one parameter has one row."""

    def __init__(self, micro: int = 2) -> None:
        generator = torch.Generator().manual_seed(0)
        self.micro, self.length, self.label, self.input = micro, {}, {}, {}
        self.groups = {domain: [f"{domain}/{i:02d}" for i in range(20)] for domain in (*DOMAINS, "meta")}
        rule = torch.randn(6, generator=generator)
        for domain, names in self.groups.items():
            for name in names:
                self.input[name] = torch.randn(6, generator=generator).double()
                right = bool(self.input[name] @ rule.double() > 0)
                self.label[name] = float(right != (domain == "c"))
                self.length[name] = int(torch.randint(5, 50, (), generator=generator))
        layer = torch.nn.Linear
        self.net = torch.nn.Sequential(layer(6, 6), layer(6, 9), torch.nn.Tanh(), layer(9, 1)).double()
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        self.net[0].requires_grad_(False)

    def tokens(self, name):
        return self.length[name]

    def train_losses(self, names):
        for start in range(0, len(names), self.micro):
            part = list(names[start : start + self.micro])
            logits = self.net(torch.stack([self.input[name] for name in part]))[:, 0]
            yield part, bce(logits, torch.tensor([self.label[name] for name in part]).double(), reduction="none")

    def meta_losses(self, items):
        for _, losses in self.train_losses([name for (name,) in items]):
            yield losses


def settings(**changes) -> TrainConfig:
    upper = {"unroll": 2, "warmup": 5, "lr": 0.05, "meta_rows": META_ROWS} | changes.pop("upper", {})
    basic = {"model": "toy", "lr": 1e-2, "steps": 16, "lr_warmup": 1, "lr_schedule": "constant"}
    learns = changes.get("mode") != "uniform"
    return train_config(**(basic | changes | ({"upper": upper} if learns else {})))


def build(config: TrainConfig, process_group: ProcessGroup) -> tuple[Toy, Bilevel]:
    toy = Toy()
    process_group.place(toy.net, "cpu", [toy.net[1]])
    parameters = [p for p in toy.net.parameters() if p.requires_grad]
    train = Stream("train", {domain: toy.groups[domain] for domain in DOMAINS}, ROWS, 0)
    return toy, Bilevel(config, toy, parameters, train, Singles(toy.groups["meta"], META_ROWS, 0), process_group)


def advance(run: Bilevel, steps: int) -> list[Update]:
    return [update for _ in range(steps) if (update := run.step()) is not None]


def plain(updates: list[Update]) -> list[dict]:
    return [vars(update) | {"tally": vars(update.tally)} for update in updates]


def whole_updates(rows: list[UpdateRow]) -> list[dict]:
    """Updates by their rows, as `plain` has them."""
    found: dict[int, dict] = {}
    for row in rows:
        one = {"number": row.update, "step": row.step, "meta_loss": row.meta_loss}
        empty = {"weights": {}, "raw": {}, "dots": {}, "tally": {"rows": {}, "losses": {}}}
        one = found.setdefault(row.update, one | empty)
        for name, value in (("weights", row.weight), ("raw", row.raw), ("dots", row.dot)):
            one[name][row.domain] = value
        if row.rows:
            one["tally"]["rows"][row.domain] = row.rows
            one["tally"]["losses"][row.domain] = row.train_loss * row.rows
    return list(found.values())


def names(run: Bilevel) -> list[str]:
    return [str(place) for place in range(len(run.parameters))]


def whole(run: Bilevel) -> list[torch.Tensor]:
    return [run.process_group.full(p.detach(), p).clone() for p in run.parameters]


def outcome(config: TrainConfig, process_group: ProcessGroup) -> dict:
    """A run from its beginning to its end."""
    _, run = build(config, process_group)
    updates = plain(advance(run, config.steps))
    run.agree()
    return {"updates": updates, "clipped": run.clipped, "skipped": run.skipped, "parameters": whole(run)}


def resumed(config: TrainConfig, process_group: ProcessGroup, path: Path) -> dict:
    """The second half of a run, from a checkpoint."""
    _, run = build(config, process_group)
    early = checkpoint.load(path, run, names(run), "stamp")
    updates = plain(advance(run, config.steps - run.done))
    return {"updates": [*whole_updates(early), *updates], "parameters": whole(run)}


def saved(config: TrainConfig, process_group: ProcessGroup, path: Path, steps: int) -> None:
    """The first half of a run, into a checkpoint."""
    _, run = build(config, process_group)
    rows = [row for update in advance(run, steps) for row in update_rows("seed-0", 0, False, update, "adam")]
    checkpoint.save(path, run, names(run), rows, "stamp")


def equal_runs(process_group: ProcessGroup, folder: Path) -> None:
    """Every case, replicated and sharded; checkpoints of two processes, and of one going on in two."""
    found = {}
    for sharding in ("none", "full"):
        arranged = process_group.arranged(sharding)
        for case, changes in CASES.items():
            found[sharding, case] = outcome(settings(**changes), arranged)
        saved(settings(**CASES["averaged"]), arranged, folder / f"two-{sharding}.safetensors", 8)
        found[sharding, "resumed"] = resumed(settings(**CASES["averaged"]), arranged, folder / "one.safetensors")
    torch.save(found, folder / f"found-{process_group.rank}.pt")


def differing(process_group: ProcessGroup, folder: Path) -> None:
    """A process whose weights went another way."""
    toy, run = build(settings(), process_group)
    run.agree()
    if process_group.rank == 1:
        run.upper.state["raw"][1] += 1e-9
    try:
        run.agree()
    except RuntimeError as error:
        (folder / f"weights-{process_group.rank}").write_text(str(error))
    run.upper.state["raw"].zero_()
    if process_group.rank == 1:
        toy.net[1].weight.data[0, 0] += 1e-9
    try:
        run.agree()
    except RuntimeError as error:
        (folder / f"parameters-{process_group.rank}").write_text(str(error))


def broken(how: str, process_group: ProcessGroup) -> None:
    """Train for ever, but for process 1, which does something else after three steps."""
    _, run = build(settings(steps=10**6), process_group.arranged("full" if how.startswith("sharded") else "none"))
    advance(run, 3)
    if process_group.rank == 1:
        if how.endswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if how.endswith("hung"):
            time.sleep(600)
        if how.endswith("failed"):
            raise ValueError("no room")
    with process_group.gate():
        if how.endswith("refused") and process_group.rank == 1:
            raise UserError("The folder is not there; make it.")
        if how.endswith("puzzled"):
            raise UserError("Nobody can do that; try something else.")
    advance(run, 10**6)


def begin(what: str, folder: Path, environ: dict[str, str], said: Path) -> None:
    """Be one process of the group that the environment names; what it says on standard error goes to a file."""
    os.environ |= environ
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    torch.set_num_threads(1)
    launch.guarded(lambda: work(what, folder))


def work(what: str, folder: Path) -> None:
    with joined(timedelta(seconds=3 if what.endswith("hung") else 100)) as process_group:
        {"equal": equal_runs, "differing": differing}.get(what, lambda process_group, _: broken(what, process_group))(
            process_group, folder
        )
