"""Step logits and scores of many encoded rows, outside of training: batches of like lengths, no graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prm.data.encode import Encoded, Encoder
from prm.model.reward_model import Prm


def step_logits(
    prm: Prm, encoder: Encoder, rows: Sequence[Encoded], batch_rows: int
) -> Iterator[tuple[Encoded, Tensor]]:
    """Each row with the logits [read steps] of its steps, from the shortest to the longest.

    How many forwards that takes depends on the number of rows only. Under `no_grad`, not `inference_mode`: what the PRM
    keeps of images may be trained on afterwards.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), batch_rows):
        part = ordered[start : start + batch_rows]
        with torch.no_grad():
            logits = prm(part, encoder.prompt)
        yield from zip(part, logits, strict=True)


def step_scores(row: Encoded, logits: Tensor, of_outcomes: bool = False) -> list[float | None]:
    """A score for every step of a row from the logits of those that are read; null for a step without text.

    What an outcome reward model says before the last step was never trained, and is no score: null.
    """
    scores = iter(safe_scores(logits).tolist())
    found: list[float | None] = [None if read is None else next(scores) for read in row.reads]
    return [*(None for _ in found[:-1]), *found[-1:]] if of_outcomes else found


def safe_scores(logits: Tensor) -> Tensor:
    """Sigmoid in float64, strictly inside (0, 1), so that its log-odds can be taken back."""
    tiny = torch.finfo(torch.float64).eps
    return torch.sigmoid(logits.double()).clamp(tiny, 1 - tiny)
