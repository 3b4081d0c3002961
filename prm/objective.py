"""What the bi-level loop minimises, for a PRM on encoded examples: losses per rollout, in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prm.aggregate import Aggregation
from prm.encode import Encoded, Encoder
from prm.losses import outcome_loss, rollout_loss
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
    """Loss of each rollout by its name. `outcomes` are those of the meta set, shuffled or not."""

    prm: Prm
    encoder: Encoder
    rows: Mapping[str, Encoded]
    outcomes: Mapping[str, bool]
    loss: str
    aggregation: Aggregation
    micro_rows: int
    usage: Usage = field(default_factory=Usage)

    def _chunks(self, names: Sequence[str]) -> Iterator[tuple[list[str], list[Tensor]]]:
        """Names and step logits, at most `micro_rows` a forward, of like lengths where there are several."""
        if len(names) > self.micro_rows:
            names = sorted(names, key=lambda name: len(self.rows[name].ids))
        for start in range(0, len(names), self.micro_rows):
            part = list(names[start : start + self.micro_rows])
            batch = [self.rows[name] for name in part]
            self.usage.forwards += 1
            self.usage.tokens += sum(len(row.ids) for row in batch)
            self.usage.padded += len(batch) * max(len(row.ids) for row in batch)
            yield part, self.prm(batch, self.encoder.prompt)

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Names and losses [n] of the lower level, one pair a forward; each pair's graph is its own."""
        for part, logits in self._chunks(names):
            losses = []
            for name, values in zip(part, logits, strict=True):
                row = self.rows[name]
                losses.append(rollout_loss(self.loss, values, row.reads, row.example.values, row.example.weights))
                self.usage.steps += sum(value is not None for value in row.example.values)
            yield part, torch.stack(losses)

    def meta_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Names and losses [n] of the upper level, one pair a forward."""
        for part, logits in self._chunks(names):
            yield (
                part,
                torch.stack(
                    [
                        outcome_loss(self.aggregation(values), self.outcomes[name])
                        for name, values in zip(part, logits, strict=True)
                    ]
                ),
            )
