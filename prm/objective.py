"""What the bi-level loop minimises, for a PRM on encoded examples: losses per rollout, in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prm.aggregate import Aggregation
from prm.encode import Encoded, Encoder
from prm.losses import outcome_loss, pair_loss, rollout_loss
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

    def _chunks(self, items: Sequence[Item]) -> Iterator[tuple[list[Item], dict[str, Tensor]]]:
        """Items and the step logits of their rollouts, at most `micro_rows` rollouts a forward; an item is never split.

        Where there are several forwards, items of like lengths go together.
        """
        size = max(1, self.micro_rows // max(len(item) for item in items))
        if len(items) > size:
            items = sorted(items, key=lambda item: max(len(self.rows[name].ids) for name in item))
        for start in range(0, len(items), size):
            part = list(items[start : start + size])
            names = [name for item in part for name in item]
            batch = [self.rows[name] for name in names]
            self.usage.forwards += 1
            self.usage.tokens += sum(len(row.ids) for row in batch)
            self.usage.padded += len(batch) * max(len(row.ids) for row in batch)
            yield part, dict(zip(names, self.prm(batch, self.encoder.prompt), strict=True))

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Names and losses [n] of the lower level, one pair a forward; each pair's graph is its own."""
        for part, logits in self._chunks([(name,) for name in names]):
            losses = []
            for (name,) in part:
                row = self.rows[name]
                losses.append(rollout_loss(self.loss, logits[name], row.reads, row.example.values, row.example.weights))
                self.usage.steps += sum(value is not None for value in row.example.values)
            yield [name for (name,) in part], torch.stack(losses)

    def meta_losses(self, items: Sequence[Item]) -> Iterator[Tensor]:
        """Losses [n] of the upper level's items, one tensor a forward; each has its own graph."""
        for part, logits in self._chunks(items):
            yield torch.stack([self._meta_loss(item, logits) for item in part])

    def _meta_loss(self, item: Item, logits: Mapping[str, Tensor]) -> Tensor:
        scores = [self.aggregation(logits[name]) for name in item]
        if len(item) == 1:
            return outcome_loss(scores[0], self.outcomes[item[0]])
        return pair_loss(*scores)
