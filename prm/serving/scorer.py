"""Rows to scores, as `prm score` makes them, and batches of the rows that many requests bring at the same time.

One thread runs the model. What arrives meanwhile waits in a bounded queue and makes the next batch: nothing waits for a
batch to fill, and a full queue refuses at once.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import RowError
from curate.tables import lineage
from prm.data.encode import Kept
from prm.data.examples import Example
from prm.model.aggregate import aggregation, rollout_logit
from prm.model.inference import step_logits, step_scores
from prm.model.saved import read_card
from prm.scoring.best_of_n import probability
from prm.scoring.score import load_prm
from prm.serving.rows import ServedRollout

# Of what images become, for the time of one batch.
_MEGABYTES = 256


@dataclass(frozen=True)
class RolloutScores:
    """A score for every step (null: it has no text), and the rollout's (null where a step has none).

    With an `error` there are no scores; `failed` says that it is not the row's fault.
    """

    steps: tuple[float | None, ...] | None
    score: float | None
    error: str | None = None
    failed: bool = False


class Scorer:
    """A trained PRM, saved or exported, on a GPU where there is one; UserError when the folder holds none."""

    def __init__(self, folder: Path, batch_rows: int = 16) -> None:
        self.name, self.card, self._batch_rows = folder.resolve().name, read_card(folder), batch_rows
        self._aggregate = aggregation(self.card.aggregation)
        self._prm, self._encoder = load_prm(folder, {})

    def info(self) -> dict[str, Any]:
        """What it is and how it reads."""
        return {
            "model": self.name,
            "run": self.card.run,
            "aggregation": self.card.aggregation,
            "instruction": self.card.instruction,
            "read": "step-end" if self.card.suffix is None else "branch",
            "max_length": self.card.max_length,
            "images": self._encoder.sees,
            "precision": self.card.precision,
            "device": self._prm.score.weight.device.type,
            "versions": lineage.versions(),
        }

    def __call__(self, rows: Sequence[ServedRollout]) -> list[RolloutScores]:
        """Scores of these rows, in order; a row that cannot be read has its error and harms no other."""
        images = {key: data for row in rows for key, data in row.images} if self._encoder.sees else {}
        encoder = self._encoder.of(images, _MEGABYTES)
        # Kept no longer than the batch: the next ones show other images.
        self._prm.share_features(Kept(_MEGABYTES))
        found, encoded = list[RolloutScores | None]([None] * len(rows)), []
        for place, row in enumerate(rows):
            try:
                if row.images and not encoder.sees:
                    raise RowError("image", "this model reads text only; leave images out")
                encoded.append(encoder.encode(_example(place, row)))
            except RowError as error:
                found[place] = RolloutScores(None, None, str(error))
        for one, logits in step_logits(self._prm, encoder, encoded, self._batch_rows):
            place, steps = one.example.sample_index, step_scores(one, logits, self.card.of_outcomes)
            if any(score is not None and math.isnan(score) for score in steps):
                found[place] = RolloutScores(None, None, "the model gives no number for this row", failed=True)
                continue
            logit = rollout_logit(steps[-1:] if self.card.of_outcomes else steps, self._aggregate)
            found[place] = RolloutScores(tuple(steps), None if logit is None else probability(logit))
        return [scored for scored in found if scored is not None]


def _example(place: int, row: ServedRollout) -> Example:
    count = len(row.steps)
    hashes = tuple(key for key, _ in row.images)
    return Example(
        str(place),
        "",
        "",
        "",
        place,
        row.question,
        row.choices,
        hashes,
        row.steps,
        (None,) * count,
        (0.0,) * count,
        None,
    )


class Busy(Exception):
    """The queue is full."""


class Batcher:
    """Rows of many requests in, batches of at most `batch_rows` to `score`, which runs in a thread of its own.

    At most `queue_rows` wait. A batch has at most `batch_pixels` (null: any number), or one row.
    """

    def __init__(
        self,
        score: Callable[[Sequence[ServedRollout]], list[RolloutScores]],
        batch_rows: int,
        queue_rows: int,
        batch_pixels: int | None = None,
    ) -> None:
        self._score, self._batch_rows, self._queue_rows = score, batch_rows, queue_rows
        self._batch_pixels = math.inf if batch_pixels is None else batch_pixels
        self._queue: deque[tuple[ServedRollout, asyncio.Future[RolloutScores]]] = deque()
        self._more, self._thread = asyncio.Event(), ThreadPoolExecutor(1, "prm-serve")
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether rows are being worked on."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; within a running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, future in self._queue:
            future.cancel()
        self._queue.clear()
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, rows: Sequence[ServedRollout]) -> list[RolloutScores]:
        """Scores of these rows, in order; Busy when they find no room, and then none of them is taken."""
        if not rows:
            return []
        if not self.alive:
            raise RuntimeError("nobody works on the queue")
        if len(self._queue) + len(rows) > self._queue_rows:
            raise Busy
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in rows]
        self._queue.extend(zip(rows, futures, strict=True))
        self._more.set()
        return list(await asyncio.gather(*futures))

    def _next(self) -> list[tuple[ServedRollout, asyncio.Future[RolloutScores]]]:
        """The rows of the next batch."""
        part, pixels = list[tuple[ServedRollout, asyncio.Future[RolloutScores]]](), 0
        while self._queue and len(part) < self._batch_rows:
            pixels += self._queue[0][0].pixels
            if part and pixels > self._batch_pixels:
                break
            part.append(self._queue.popleft())
        return part

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            part = self._next()
            if not self._queue:
                self._more.clear()
            # A request that was given up need not be scored.
            part = [(row, future) for row, future in part if not future.done()]
            if not part:
                continue
            try:
                scored = await loop.run_in_executor(self._thread, self._safely, [row for row, _ in part])
                for (_, future), one in zip(part, scored, strict=True):
                    if not future.done():
                        future.set_result(one)
            finally:
                for _, future in part:
                    future.cancel()

    def _safely(self, rows: Sequence[ServedRollout]) -> list[RolloutScores]:
        """Scores; where a batch fails (memory, a bug), its rows one by one, so that one harms no other."""
        try:
            return self._score(rows)
        except Exception:
            if len(rows) > 1:
                return [one for row in rows for one in self._safely([row])]
            traceback.print_exc()
            return [RolloutScores(None, None, "the model failed on this row; the server's log says why", failed=True)]
