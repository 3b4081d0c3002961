"""Images looked at in other processes while rows are read and committed.

Decoding is most of an ingest's work, and what Python does around it would hold up everything else in one process. The
first images are looked at by threads: a small source is done before processes have started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from curate.errors import RowError
from curate.images import ImageFacts, inspect
from curate.runtime.signals import held_off
from curate.seeds import content_hash

# (content hash, facts), or what is wrong with the image.
Found = tuple[str, ImageFacts] | RowError
# Starting processes takes about as long as looking at so many images.
_BY_THREADS = 1000


def look(data: bytes, max_pixels: int, max_bytes: int) -> Found:
    """One image, inspected."""
    try:
        return content_hash(data), inspect(data, max_pixels, max_bytes)
    except RowError as error:
        return error


def _look_all(batch: Sequence[bytes], max_pixels: int, max_bytes: int) -> list[Found]:
    return [look(data, max_pixels, max_bytes) for data in batch]


def _deaf() -> None:
    # Ctrl+C is for the parent, which ends its processes when it is done with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Inspectors:
    """One worker for each core. Use as a context; `submit` takes batches, `Batch.found` waits for one."""

    def __init__(self, max_pixels: int, max_bytes: int) -> None:
        self._limits = (max_pixels, max_bytes)
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._processes: ProcessPoolExecutor | None = None
        self._taken = 0
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)

    def submit(self, batch: Sequence[bytes]) -> Batch:
        """Begin to look at these images."""
        self._taken += len(batch)
        with held_off():
            return Batch(self, batch, self._pool().submit(_look_all, batch, *self._limits))

    def _pool(self) -> Executor:
        if self._broken or self._taken <= _BY_THREADS:
            return self._threads
        if self._processes is None:
            # A fresh interpreter: a fork would copy threads that hold locks.
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(os.cpu_count(), context, initializer=_deaf)
        return self._processes

    def again(self, batch: Sequence[bytes]) -> list[Found]:
        """Here and now: a process died over the batch, or was killed."""
        self._broken = True
        return _look_all(batch, *self._limits)


class Batch:
    """Images under inspection."""

    def __init__(self, inspectors: Inspectors, images: Sequence[bytes], future: Future[list[Found]]) -> None:
        self._inspectors, self._images, self._future = inspectors, images, future

    def found(self) -> list[Found]:
        """One for each image, in order; waits."""
        try:
            return self._future.result()
        except BrokenExecutor:
            return self._inspectors.again(self._images)
