"""What a run does otherwise when several processes share it. `ProcessGroup` is one process by itself: it does nothing.

The loop asks its group wherever it matters that there may be others: which rows are mine, make these gradients those of
the whole batch, add up these numbers. `prm.distributed.torch_group` answers for several processes; only that imports
torch.distributed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from curate.errors import UserError

Module = Any
Item = TypeVar("Item")


# One process's part of a batch, as pieces to go through one after the other: (items, whether they count). What does not
# count belongs to another process and is gone through with weight 0, where all must do equally many forwards.
Share = list[tuple[list[Item], bool]]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded (a DTensor)."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def usable_device(name: str) -> str:
    """What `train.device` says: `cuda` or `cpu`; UserError when it is `cuda` and there is no usable one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("`train.device` is cuda and there is no usable GPU; set it to auto or cpu.")
    return name if name != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


class ProcessGroup:
    """One process by itself. Sums over processes are sums over one, the batch is all mine, the state is all here."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes to the workspace and talks; exactly one does."""
        return self.rank == 0

    def arranged(self, sharding: str) -> ProcessGroup:
        """The group for `train.sharding`; one process has nothing to share out."""
        return self

    # What is whose.

    def share(self, items: Sequence[Item], cost: Callable[[Item], int]) -> Share[Item]:
        """What this process takes of a batch whose items cost so many tokens each."""
        return [(list(items), True)]

    def shares(self, groups: Mapping[str, Sequence[Item]], cost: Callable[[Item], int]) -> dict[str, Share[Item]]:
        """Shares of a batch that is gone through group by group."""
        return {name: [(list(items), True)] for name, items in groups.items()}

    # Numbers and gradients.

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over processes of what each has a part of, in float64."""
        return list(values)

    def across(self, values: Tensor) -> Tensor:
        """Sums over the shards of a gradient or parameter, for values that were computed from `local` parts."""
        return values

    def reduce(self, parameters: Sequence[Tensor]) -> None:
        """Turn gradients of this process's part of the batch into those of the whole batch."""

    def clip(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """Scale the whole gradient to at most this norm (torch's rule); returns the norm that it had."""
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    # Parameters and their kin.

    def place(self, module: Module, device: str, layers: Sequence[Module]) -> None:
        """Put a model on the device; `layers` are the parts of it that may be gathered one at a time."""
        module.to(device)

    def device(self, name: str) -> str:
        """The device of this kind that is for this process."""
        return name

    def full(self, tensor: Tensor, like: Tensor) -> Tensor:
        """The whole of a tensor that is laid out as the parameter `like`, for the process that leads."""
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """A whole tensor laid out as the parameter `like`; the inverse of `full`."""
        return tensor.to(like.device)

    def fold(self, module: Module) -> None:
        """After forwards without a backward: let go of what they gathered."""

    def whole(self, module: Module, fresh: Callable[[], Module]) -> Module:
        """A model whose parameters are whole, for the process that leads; `fresh` makes one with the first values."""
        return module

    # Walking in step.

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return flag

    def gate(self) -> AbstractContextManager[None]:
        """Around what may fail on one process alone: all come out together, with its failure. No sums inside."""
        return contextlib.nullcontext()

    def agree(self, step: int, values: Mapping[str, float], parameters: Sequence[Tensor]) -> None:
        """`prm.distributed.torch_group.Diverged` unless values and parameters are the same everywhere, bit for bit."""


ALONE = ProcessGroup()
