"""Several processes, one run: each goes through its part of every batch, and all hold the same domain weights.

The joined batch is what one process would see, and every sum over it is a sum over processes of parts that were already
divided by the size of the whole batch; so the run is the one-process run up to the order of additions.

- `Replicated`: every process holds all parameters. Gradients are added up once per backward pass over a batch. On an
  upper step a process may hold other domains than its neighbour: it reads <D, its part of g_k> off its own gradient
  before that is added up, and the K readings are added up instead (linear in the gradient).
- `Sharded`: parameters, gradients and moments are split by FSDP2 (`torch.distributed.fsdp.fully_shard`), which adds up
  and splits the gradient in each backward; inner products are sums over shards. All processes go through the same
  domain, in equally many forwards, at the same time.

The first process (rank 0) writes and talks. See docs/decisions/0007-many-devices.md.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from curate.errors import ExitCode, Interrupted, StalledError, UserError
from prm.distributed.process_group import Item, Module, ProcessGroup, Share, local

# How long a process waits for the others before it gives up. One that died is noticed at once; this is for one that
# hangs, and must be longer than writing a checkpoint takes.
PATIENCE = timedelta(minutes=30)
# Gradients are added up in pieces of about so many numbers: enough to fill a link, little enough to hold twice.
_BUCKET = 2**24


class Diverged(RuntimeError):
    """Processes that should hold the same numbers do not: a defect of hardware, or of this program."""


def deal(costs: Sequence[int], hands: int) -> tuple[list[list[int]], list[int]]:
    """Places of `costs` for each hand, equally many, the sums as equal as greedy dealing gets them; and the left over.

    The most costly first, each to the hand with the least so far that has room. The left over are fewer than `hands`,
    the least costly; the hands 0, 1, ... take one each.
    """
    order = sorted(range(len(costs)), key=lambda place: -costs[place])
    room, dealt, sums = len(costs) // hands, [list[int]() for _ in range(hands)], [0] * hands
    for place in order[: room * hands]:
        hand = min((h for h in range(hands) if len(dealt[h]) < room), key=lambda h: sums[h])
        dealt[hand].append(place)
        sums[hand] += costs[place]
    # So that the first hands, which take one more, are those that have least.
    dealt = [dealt[hand] for hand in sorted(range(hands), key=lambda h: sums[h])]
    return [sorted(places) for places in dealt], order[room * hands :]


def cut(costs: Sequence[int], hands: int) -> list[list[int]]:
    """Places of `costs` in order, cut into one run for each hand where the sums are nearest to equal."""
    total, before, runs = sum(costs), 0, [list[int]() for _ in range(hands)]
    for place, cost in enumerate(costs):
        # By the middle of the item: 2 * (before + cost / 2) in whole numbers.
        runs[min(hands - 1, hands * (2 * before + cost) // max(1, 2 * total))].append(place)
        before += cost
    return runs


class Replicated(ProcessGroup):
    """One of several processes that all hold the whole model; the process group is the default one."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def arranged(self, sharding: str) -> ProcessGroup:
        return Sharded() if sharding == "full" else self

    def share(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Share[Item]:
        dealt, left = deal([cost(item) for item in items], self.size)
        places = dealt[self.rank] + left[self.rank : self.rank + 1]
        return [([items[place] for place in places], True)] if places else []

    def shares(self, groups: Mapping[str, Sequence[Item]], cost: Callable[[Item], int]) -> dict[str, Share[Item]]:
        """Runs of the batch in the order of its groups, so that a process meets few groups and each in larger pieces:
        each group is a backward of its own.
        """
        flat = [(name, item) for name, items in groups.items() for item in items]
        mine = [flat[place] for place in cut([cost(item) for _, item in flat], self.size)[self.rank]]
        shares: dict[str, Share[Item]] = {name: [] for name in groups}
        for name in dict.fromkeys(name for name, _ in mine):
            shares[name] = [([item for group, item in mine if group == name], True)]
        return shares

    def total(self, values: Sequence[float]) -> list[float]:
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        # A parameter without gradient anywhere keeps none, so that the optimiser passes over it as it would alone.
        touched = self.total([float(p.grad is not None) for p in parameters])
        bucket, held = list[Tensor](), 0
        for parameter, count in zip(parameters, touched, strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if held and held + parameter.numel() > _BUCKET:
                _add_up(bucket)
                bucket, held = [], 0
            bucket.append(parameter.grad)
            held += parameter.numel()
        if bucket:
            _add_up(bucket)

    def device(self, name: str) -> str:
        if name != "cuda":
            return name
        index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if index >= count:
            raise UserError(f"{index + 1} or more processes on a machine with {count} GPU(s); start one for each.")
        torch.cuda.set_device(index)
        return f"cuda:{index}"

    def any(self, flag: bool) -> bool:
        return bool(self.total([float(flag)])[0])

    @contextlib.contextmanager
    def gate(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        told: list[tuple[bool, str] | None] = [None] * self.size
        dist.all_gather_object(told, failure and (isinstance(failure, UserError), str(failure)))
        failed = [(rank, one) for rank, one in enumerate(told) if one is not None]
        if not failed:
            return
        rank, (users, text) = failed[0]
        if failure is not None and (self.leads or (rank and not users)):
            raise failure
        if not self.leads:
            raise SystemExit(ExitCode.USAGE if users else ExitCode.FAILED)
        raise UserError(f"On process {rank}: {text}") if users else StalledError(f"process {rank} failed ({text}).")

    def agree(self, step: int, values: Mapping[str, float], parameters: Sequence[Tensor]) -> None:
        checked = dict(values) | self._fingerprint(parameters)
        mine = torch.tensor([step, *checked.values()], dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        for rank, theirs in enumerate(everyone):
            for name, here, there in zip(["step", *checked], everyone[0], theirs, strict=True):
                # Bits, as not-a-number would differ from itself.
                if here.view(torch.int64) != there.view(torch.int64):
                    raise Diverged(
                        f"after step {step} the processes differ in {name}: {here.item()!r} on process 0, "
                        f"{there.item()!r} on process {rank} (difference {(there - here).item():.3g})"
                    )

    def _fingerprint(self, parameters: Sequence[Tensor]) -> dict[str, float]:
        with torch.no_grad():
            return {"the sum of all parameters": float(sum(p.sum(dtype=torch.float64) for p in parameters))}


def _add_up(tensors: Sequence[Tensor]) -> None:
    """Sum these over processes, in place, in one operation."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        dist.all_reduce(tensors[0])
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(pieces, tensors, strict=True)])


class Sharded(Replicated):
    """One of several processes that hold a part of every trained parameter each; what is frozen is whole on each."""

    def share(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Share[Item]:
        dealt, left = deal([cost(item) for item in items], self.size)
        share: Share[Item] = [([items[place] for place in dealt[self.rank]], True)] if dealt[self.rank] else []
        if left:
            counts = self.rank < len(left)
            share.append(([items[left[self.rank if counts else -1]]], counts))
        return share

    def shares(self, groups: Mapping[str, Sequence[Item]], cost: Callable[[Item], int]) -> dict[str, Share[Item]]:
        return {name: self.share(items, cost) for name, items in groups.items()}

    def across(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """FSDP2 did it in the backward."""

    def clip(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        parts = [local(p.grad) for p in parameters if p.grad is not None]
        squares = torch.stack([part.square().sum(dtype=torch.float64) for part in parts]).sum()
        norm = self.across(squares).sqrt()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for part in parts:
            part.mul_(scale.to(part.dtype))
        return norm

    def place(self, module: Module, device: str, layers: Sequence[Module]) -> None:
        frozen = {p for p in module.parameters() if not p.requires_grad}
        for parameter in frozen:
            parameter.data = parameter.data.to(device)
        # It warns of operations in place on what a forward returns; step logits see none.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        mesh = init_device_mesh(torch.device(device).type, (self.size,))
        # Layer by layer from where the model was loaded: it need never fit on the device as a whole.
        for part in [*layers, module]:
            fully_shard(part, mesh=mesh, ignored_params=frozen)
            # Sums, not means: losses were divided by the size of the whole batch.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            # A batch without images here and one with images there must still be one operation.
            part.set_reduce_scatter_unused_params(True, recurse=False)

    def full(self, tensor: Tensor, like: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            tensor = DTensor.from_local(
                tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )
        whole = tensor.detach().full_tensor()
        return whole.cpu() if self.leads else whole.new_empty(0)

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    def fold(self, module: Module) -> None:
        # The outermost part stays gathered for the backward, which does not come.
        module.reshard()

    def whole(self, module: Module, fresh: Callable[[], Module]) -> Module:
        found = {name: self.full(p, p) for name, p in module.named_parameters() if p.requires_grad}
        if not self.leads:
            return module
        made = fresh()
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if name in found:
                    parameter.copy_(found[name])
        return made

    def _fingerprint(self, parameters: Sequence[Tensor]) -> dict[str, float]:
        # Each holds other ones.
        return {}


def _lost(error: RuntimeError) -> bool:
    """Whether an operation failed for want of the other processes."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection closed" in str(error)


@contextlib.contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[ProcessGroup]:
    """The group of all processes that were started with this one.

    UserError when they cannot be reached. When another one dies or hangs for `patience`, the first process ends in a
    StalledError and the others in silence, as they do whenever the first one has the word.
    """
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The processes cannot reach one another ({reason}); start them with torchrun.") from None
    process_group = Replicated()
    try:
        yield process_group
    except RuntimeError as error:
        if not _lost(error):
            raise
        if not process_group.leads:
            raise SystemExit(ExitCode.FAILED) from None
        # Without the place in C++ and the advice that follow.
        reason = str(error).splitlines()[0].rpartition("] ")[2].split(". ")[0][:200]
        raise StalledError(
            f"another process ended or hung ({reason}); what was last saved is kept, and the same command goes on from "
            "there."
        ) from None
    except (Interrupted, KeyboardInterrupt):
        if process_group.leads:
            raise
        raise SystemExit(ExitCode.INTERRUPTED) from None
    dist.destroy_process_group()
