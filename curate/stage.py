"""The loop that every generating stage shares: which work is owed, do it, journal it, commit it, count it.

A unit is one piece of work that yields rows of one table (a problem's rollouts, the completions of one step). Units run
concurrently, at most `in_flight` at once. A finished unit goes to its shard's journal at once and is durable within
half a second; when all units of a shard are finished, its journal becomes a committed file. After a kill, `resume`
commits the journal first, and only what is still missing is owed: nothing finished is done again, nothing appears
twice, nothing is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from curate.errors import Interrupted, RowError
from curate.schema import Row
from curate.store import Journal, Partition

SYNC_SECONDS = 0.5


class Reporter(Protocol):
    """Who is told how a stage is doing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins with `total` units of work."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are finished."""

    def note(self, text: str) -> None:
        """One sentence for the user."""

    def finish(self) -> None:
        """The stage's bar is over."""

    def show(self, result: object) -> None:
        """A result for people: a text or a rich renderable; goes to standard output."""


class Silent:
    """Tells nobody."""

    def start(self, stage: str, total: int, unit: str) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...
    def show(self, result: object) -> None: ...


@dataclass(frozen=True)
class Unit:
    """One piece of work that is owed: its shard and what the worker needs."""

    shard: int
    payload: Any


@dataclass
class Outcome:
    """What a run did: finished units, and failed ones with the error that each ended in."""

    done: int = 0
    failed: list[tuple[Unit, RowError]] = field(default_factory=list)


Work = Callable[[Unit], Awaitable[list[Row]]]


@dataclass
class _Shard:
    """A shard under work: how many of its units are still out, and its journal."""

    number: int
    left: int
    journal: Journal


class _Stop:
    """First Ctrl+C: no new work, drain and commit. Second: stop now."""

    def __init__(self, reporter: Reporter) -> None:
        self.asked = False
        self._reporter = reporter
        self._task = asyncio.current_task()

    def __call__(self) -> None:
        if self.asked and self._task is not None:
            self._task.cancel()
        self.asked = True
        self._reporter.note("Stopping: what is under way is finished and kept (Ctrl+C again stops at once).")


@contextlib.contextmanager
def _signals(stop: _Stop) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
    except (RuntimeError, NotImplementedError, ValueError):
        # Not in the main thread: whoever runs us there handles signals.
        yield
        return
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def settle(partition: Partition, shard: int) -> None:
    """Turn a shard's journal into a committed file; a crash in between repeats it without doubling a row."""
    journal = partition.journal(shard)
    committed, key = partition.keys(shard), partition.table.key
    partition.commit(shard, [row for row in journal.rows() if tuple(row[c] for c in key) not in committed])
    journal.remove()


def resume(partition: Partition) -> set[tuple[Any, ...]]:
    """Commit what an earlier run left in journals; the keys of all committed rows, to decide what is owed."""
    for shard in partition.journals():
        settle(partition, shard)
    return partition.keys()


async def run_units(
    partition: Partition, units: Sequence[Unit], work: Work, in_flight: int, reporter: Reporter
) -> Outcome:
    """Do every unit; raises Interrupted after a drained Ctrl+C. A RowError of a unit fails that unit alone."""
    outcome = Outcome()
    counts = Counter(unit.shard for unit in units)
    shards = {number: _Shard(number, counts[number], partition.journal(number)) for number in sorted(counts)}
    stop = _Stop(reporter)
    queue = iter(sorted(units, key=lambda unit: unit.shard))
    with _signals(stop):
        try:
            await _drive(partition, queue, work, in_flight, shards, outcome, reporter, stop)
        except BaseException:
            reporter.finish()
            raise
        finally:
            for shard in shards.values():
                if shard.left:
                    shard.journal.close()
    if stop.asked:
        raise Interrupted
    return outcome


async def _drive(
    partition: Partition,
    queue: Iterator[Unit],
    work: Work,
    in_flight: int,
    shards: dict[int, _Shard],
    outcome: Outcome,
    reporter: Reporter,
    stop: _Stop,
) -> None:
    running: dict[asyncio.Task[list[Row]], Unit] = {}
    synced = time.monotonic()
    try:
        while True:
            while len(running) < in_flight and not stop.asked:
                unit = next(queue, None)
                if unit is None:
                    break
                running[asyncio.ensure_future(work(unit))] = unit
            if not running:
                break
            finished, _ = await asyncio.wait(running, timeout=SYNC_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                _take(partition, running.pop(task), task, shards, outcome)
            reporter.advance(len(finished))
            if time.monotonic() - synced > SYNC_SECONDS:
                synced = time.monotonic()
                for shard in shards.values():
                    shard.journal.sync()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _take(
    partition: Partition, unit: Unit, task: asyncio.Task[list[Row]], shards: dict[int, _Shard], outcome: Outcome
) -> None:
    shard = shards[unit.shard]
    try:
        rows = task.result()
    except RowError as error:
        outcome.failed.append((unit, error))
    else:
        shard.journal.append(rows)
        outcome.done += 1
    shard.left -= 1
    if shard.left == 0:
        shard.journal.close()
        settle(partition, shard.number)
