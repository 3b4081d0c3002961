"""Side branches: a suffix scored after every step that no later step sees. Pure.

A row is its trunk (prompt and steps) and after it one branch for every step: [trunk][branch 0][branch 1]... A branch
holds the suffix's tokens. It goes on from its own step's end: it sees the trunk up to there and itself, and its
positions count on from there. The trunk sees no branch. So the state at a branch's end is that of a text which ends
after this step and suffix, and all steps of a rollout still take one forward. What it needs is an attention mask of
its own for every row; layers that are no plain attention over positions cannot have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prm.losses import to_device


@dataclass(frozen=True)
class Branches:
    """How a row is laid out: `trunk` tokens, then `width` tokens for each of `ends`.

    A branch goes on from the first `ends[i]` tokens of the trunk.
    """

    trunk: int
    ends: tuple[int, ...]
    width: int

    @property
    def reads(self) -> tuple[int, ...]:
        """Place in the row of each branch's last token."""
        return tuple(self.trunk + (i + 1) * self.width - 1 for i in range(len(self.ends)))

    def order(self) -> Tensor:
        """Place of each token in the text that it belongs to, counted from 0, [tokens] int64."""
        after = torch.arange(self.width)
        return torch.cat([torch.arange(self.trunk), *(end + after for end in self.ends)])

    def owners(self) -> Tensor:
        """Owner of each token: 0 for the trunk, else 1 + its branch's number, [tokens] int64."""
        each = torch.arange(1, 1 + len(self.ends)).repeat_interleave(self.width)
        return torch.cat([torch.zeros(self.trunk, dtype=torch.int64), each])

    def limits(self) -> Tensor:
        """How much of the trunk each token of a branch sees; 0 in the trunk itself, which is causal. [tokens] int64."""
        each = torch.tensor(self.ends).repeat_interleave(self.width)
        return torch.cat([torch.zeros(self.trunk, dtype=torch.int64), each])


def sight(rows: Sequence[Branches], width: int, device: Any) -> Tensor:
    """Which token sees which, [rows, 1, width, width] bool (seeing, seen), of rows padded on the right to `width`.

    Padding is seen by padding only; every token sees itself, so that no row of the softmax is empty.
    """
    owners = to_device(torch.stack([_padded(row.owners(), width, -1) for row in rows]), device)
    limits = to_device(torch.stack([_padded(row.limits(), width, 0) for row in rows]), device)
    place = torch.arange(width, device=device)
    own = (owners[:, :, None] == owners[:, None, :]) & (place[None, None, :] <= place[None, :, None])
    trunk = (owners[:, None, :] == 0) & (place[None, None, :] < limits[:, :, None])
    return (own | trunk)[:, None]


def _padded(values: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - len(values)), value=value)
