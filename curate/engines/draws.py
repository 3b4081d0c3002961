"""Sampling for a batch whose rows are strangers: each has its own random stream, limits and budget.

It sits in `transformers`' generation loop at its two public seams. `choose` is a logits processor that draws a token
for each row by inverting the cumulative distribution at one number of the row's stream, and leaves only that token
possible; `finished` is the stopping criterion.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence

import torch

from curate.engines.base import Sampling


class Draws:
    """The draws of one batch.

    `sampling`, `seeds` and `budgets` (new tokens, at least 1) have one entry a row; `prompt` and `mask` are [rows, T],
    the padded prompt ids and which of them are real, for the repetition penalty.
    """

    def __init__(
        self,
        sampling: Sequence[Sampling],
        seeds: Sequence[int],
        budgets: Sequence[int],
        end_ids: Collection[int],
        prompt: torch.Tensor,
        mask: torch.Tensor,
    ) -> None:
        self._sampling, self._budgets, self._end_ids = sampling, budgets, end_ids
        self._streams = [random.Random(seed) for seed in seeds]
        self._drawn: list[list[int]] = [[] for _ in seeds]
        self._logprobs = [0.0] * len(seeds)
        self._done = [False] * len(seeds)
        self._seen = [set(ids[real.bool()].tolist()) for ids, real in zip(prompt, mask, strict=True)]

    def results(self) -> list[tuple[list[int], float | None]]:
        """For each row the drawn ids, an end-of-turn id last where one was drawn, and their mean log-probability."""
        return [
            (ids, total / len(ids) if ids else None) for ids, total in zip(self._drawn, self._logprobs, strict=True)
        ]

    def finished(self, input_ids: torch.Tensor, _scores: object, **_rest: object) -> torch.Tensor:
        """[rows] bool: the row has drawn its end or spent its budget."""
        return torch.tensor(self._done, device=input_ids.device)

    def choose(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] in which each row's drawn token alone is possible."""
        del input_ids  # the row's own tokens are kept here, without padding
        logits = logits.float()
        tokens = self._draw(self._penalised(logits))
        picked = torch.tensor(tokens, device=logits.device)[:, None]
        logprobs = logits.log_softmax(-1).gather(1, picked)[:, 0].tolist()
        for row, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if self._done[row]:
                continue
            self._drawn[row].append(token)
            self._logprobs[row] += logprob
            self._seen[row].add(token)
            self._done[row] = token in self._end_ids or len(self._drawn[row]) >= self._budgets[row]
        return torch.full_like(logits, -math.inf).scatter(1, picked, 0.0)

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """The repetition penalty of Keskar et al. (arXiv 1909.05858), over the prompt and the drawn tokens."""
        if all(given.repetition_penalty == 1.0 for given in self._sampling):
            return logits
        logits = logits.clone()
        for row, (given, seen) in enumerate(zip(self._sampling, self._seen, strict=True)):
            ids = torch.tensor(sorted(seen), device=logits.device)
            values = logits[row, ids]
            factor = given.repetition_penalty
            logits[row, ids] = torch.where(values > 0, values / factor, values * factor)
        return logits

    def _draw(self, logits: torch.Tensor) -> list[int]:
        heat = torch.tensor([given.temperature for given in self._sampling], device=logits.device)[:, None]
        best = logits.argmax(-1)
        warm = self._limited(logits / heat.clamp_min(1e-6))
        # In double precision, so that the last of many small probabilities can still be reached.
        reached = warm.double().softmax(-1).cumsum(-1)
        points = torch.tensor([stream.random() for stream in self._streams], dtype=torch.double, device=logits.device)
        # Strictly less than the total, and the first token whose cumulative probability exceeds the point.
        points = (points[:, None] * reached[:, -1:]).clamp_max(math.nextafter(1.0, 0.0))
        drawn = torch.searchsorted(reached, points, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
        tokens: list[int] = torch.where(heat[:, 0] > 0, drawn, best).tolist()
        return tokens

    def _limited(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits with what top-k and top-p leave out at minus infinity; the most probable token always stays."""
        if all(given.top_k == 0 and given.top_p == 1.0 for given in self._sampling):
            return logits
        size = logits.shape[-1]
        kept = torch.tensor([given.top_k or size for given in self._sampling], device=logits.device)[:, None]
        mass = torch.tensor([given.top_p for given in self._sampling], device=logits.device)[:, None]
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(torch.arange(size, device=logits.device)[None] >= kept, -math.inf)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        # A row without top-p keeps all: rounding must not cut its tail.
        out = (before >= mass) & (mass < 1.0)
        out[:, 0] = False
        return torch.full_like(logits, -math.inf).scatter(1, order, ordered.masked_fill(out, -math.inf))
