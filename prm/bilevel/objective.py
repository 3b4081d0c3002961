"""What the bi-level loop minimises, for a PRM on encoded examples: losses per rollout, in micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prm.bilevel.ghost import Ghost, RowLayout
from prm.bilevel.rollout_level import Features
from prm.data.encode import Encoded, Encoder, Prompt
from prm.data.meta import OUTCOME, Item, UpperLoss
from prm.losses import Targets, rollout_losses
from prm.model.aggregate import Aggregation
from prm.model.reward_model import Prm


@dataclass
class Usage:
    """What was computed so far: tokens, without padding, and labelled steps."""

    tokens: int = 0
    steps: int = 0


def _features(names: Sequence[str], batch: Sequence[Encoded], logits: Sequence[Tensor], losses: Tensor) -> Tensor:
    """Features [n, 2] of rows: mean loss of a labelled step, mean step score; without a graph."""
    found: dict[str, Tensor] = {}
    for name, row, of_steps, loss in zip(names, batch, logits, losses.detach(), strict=True):
        labelled = sum(v is not None and at is not None for v, at in zip(row.example.values, row.reads, strict=True))
        found[name] = torch.stack([loss / max(1, labelled), torch.sigmoid(of_steps.detach()).mean()])
    # A rollout that is in a batch twice has one weight, though its places round otherwise.
    return torch.stack([found[name] for name in names])


@dataclass
class PrmObjective:
    """Losses of rollouts by their names. `outcomes` are those of the meta set, shuffled or not, `upper` its loss."""

    prm: Prm
    encoder: Encoder
    rows: Mapping[str, Encoded]
    outcomes: Mapping[str, bool]
    loss: str
    aggregation: Aggregation
    micro_rows: int
    upper: UpperLoss = OUTCOME
    usage: Usage = field(default_factory=Usage)

    def tokens(self, name: str) -> int:
        """Length of a row."""
        return len(self.rows[name].ids)

    def _chunks(self, items: Sequence[Item]) -> Iterator[tuple[list[Item], list[Encoded]]]:
        """Items and the rows of their rollouts one after the other, at most `micro_rows` rollouts a forward.

        An item is never split. Where there are several forwards, items of like lengths go together.
        """
        size = max(1, self.micro_rows // max(len(item) for item in items))
        if len(items) > size:
            items = sorted(items, key=lambda item: max(len(self.rows[name].ids) for name in item))
        for start in range(0, len(items), size):
            part = list(items[start : start + size])
            batch = [self.rows[name] for item in part for name in item]
            self.usage.tokens += sum(len(row.ids) for row in batch)
            yield part, batch

    def train_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Names and losses [n] of the lower level, one pair a forward; each pair's graph is its own."""
        for part, losses, _ in self.featured_losses(names):
            yield part, losses

    def featured_losses(self, names: Sequence[str]) -> Iterator[tuple[list[str], Tensor, Features]]:
        """Names and losses [n], and what makes the features of these rows; one triple a forward, with its own graph."""
        for items, batch in self._chunks([(name,) for name in names]):
            self.usage.steps += sum(value is not None for row in batch for value in row.example.values)
            # Through the module's call, where sharded parameters are gathered.
            found = self.prm(batch, self.encoder.prompt)
            logits = torch.cat(found)
            targets = Targets.of([(row.reads, row.example.values, row.example.weights) for row in batch])
            losses = rollout_losses(self.loss, logits, targets.to(logits))
            part = [name for (name,) in items]
            yield part, losses, partial(_features, part, batch, found, losses)

    def ghost(self, parameters: Sequence[Tensor], towards: Sequence[Tensor]) -> Ghost:
        """What reads <towards, g_i> off forwards of the PRM."""
        return Ghost(self.prm, dict(zip(parameters, towards, strict=True)), self._layout)

    def _layout(self, batch: Sequence[Encoded], prompt_of: Callable[[Any], Prompt]) -> RowLayout:
        """The head sees read positions, an unfrozen vision tower patches and then merged patches; all else rows."""
        reads = [place for place, row in enumerate(batch) for read in row.reads if read is not None]
        packed: dict[str, list[Tensor]] = {"score": [torch.tensor(reads)]}
        if not self.prm.vision_frozen:
            grids = [prompt_of(row.example).shapes.get("image_grid_thw") for row in batch]
            patches = torch.tensor([0 if grid is None else int(grid.prod(-1).sum()) for grid in grids])
            merge = getattr(getattr(self.prm.base.config, "vision_config", None), "spatial_merge_size", 1)
            rows = torch.arange(len(batch))
            index = [rows.repeat_interleave(patches), rows.repeat_interleave(patches // merge**2)]
            packed |= {f"base.{name}": index for name, _ in self.prm.backbone.seeing()}
        return RowLayout(len(batch), packed)

    def meta_losses(self, items: Sequence[Item]) -> Iterator[Tensor]:
        """Losses [n] of the upper level's items, one tensor a forward; each has its own graph."""
        for part, batch in self._chunks(items):
            logits = iter(self.prm(batch, self.encoder.prompt))
            yield torch.stack([self._meta_loss(item, [next(logits) for _ in item]) for item in part])

    def _meta_loss(self, item: Item, logits: Sequence[Tensor]) -> Tensor:
        return self.upper.loss([self.aggregation(of_steps) for of_steps in logits], [self.outcomes[n] for n in item])
