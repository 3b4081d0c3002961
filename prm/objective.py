"""What the bi-level loop minimises, for a PRM on encoded examples: losses per rollout, in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prm.aggregate import Aggregation
from prm.encode import Encoded, Encoder
from prm.losses import Targets, outcome_loss, pair_loss, rollout_losses
from prm.meta import Item
from prm.model import Prm

Tensor = Any


@dataclass
class Usage:
    """What was computed so far: forwards, real and padded tokens, labelled steps."""

    forwards: int = 0
    tokens: int = 0
    padded: int = 0
    steps: int = 0


@dataclass
class PrmObjective:
    """Losses of rollouts by their names. `outcomes` are those of the meta set, shuffled or not."""

    prm: Prm
    encoder: Encoder
    rows: Mapping[str, Encoded]
    outcomes: Mapping[str, bool]
    loss: str
    aggregation: Aggregation
    micro_rows: int
    usage: Usage = field(default_factory=Usage)

    def tokens(self, name: str) -> int:
        """Length of a row."""
        return len(self.rows[name].ids)

    def _chunks(self, items: Sequence[Item]) -> Iterator[tuple[list[Item], list[str]]]:
        """Items and their rollouts, at most `micro_rows` rollouts a forward; an item is never split.

        Where there are several forwards, items of like lengths go together.
        """
        size = max(1, self.micro_rows // max(len(item) for item in items))
        if len(items) > size:
            items = sorted(items, key=lambda item: max(len(self.rows[name].ids) for name in item))
        for start in range(0, len(items), size):
            part = list(items[start : start + size])
            yield part, [name for item in part for name in item]

    def _count(self, batch: Sequence[Encoded]) -> None:
        self.usage.forwards += 1
        self.usage.tokens += sum(len(row.ids) for row in batch)
        self.usage.padded += len(batch) * max(len(row.ids) for row in batch)

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Names and losses [n] of the lower level, one pair a forward; each pair's graph is its own."""
        for _, part in self._chunks([(name,) for name in names]):
            batch = [self.rows[name] for name in part]
            self._count(batch)
            self.usage.steps += sum(value is not None for row in batch for value in row.example.values)
            # Through the module's call, where sharded parameters are gathered.
            logits = torch.cat(self.prm(batch, self.encoder.prompt))
            targets = Targets.of([(row.reads, row.example.values, row.example.weights) for row in batch])
            yield part, rollout_losses(self.loss, logits, targets.to(logits))

    def meta_losses(self, items: Sequence[Item]) -> Iterator[Tensor]:
        """Losses [n] of the upper level's items, one tensor a forward; each has its own graph."""
        for part, names in self._chunks(items):
            batch = [self.rows[name] for name in names]
            self._count(batch)
            logits = dict(zip(names, self.prm(batch, self.encoder.prompt), strict=True))
            yield torch.stack([self._meta_loss(item, logits) for item in part])

    def _meta_loss(self, item: Item, logits: Mapping[str, Tensor]) -> Tensor:
        scores = [self.aggregation(logits[name]) for name in item]
        if len(item) == 1:
            return outcome_loss(scores[0], self.outcomes[item[0]])
        return pair_loss(*scores)
