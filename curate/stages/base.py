"""The loop that every generating stage shares: which work is pending, do it, journal it, commit it, count it.

A unit is one piece of work that yields rows of one table (a problem's rollouts, the completions of one step). Units run
concurrently, at most `in_flight` at once. A finished unit goes to its shard's journal at once and is durable within
half a second; when all units of a shard are finished, or its journal is long, the journal becomes a committed file.
After a kill, `resume` commits the journal first, and only what is still missing is pending: nothing finished is done
again, nothing appears twice, nothing is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from curate.errors import BudgetError, Interrupted, RowError, asked
from curate.runtime.reporter import Reporter
from curate.tables.journal import Journal
from curate.tables.row_check import check
from curate.tables.rows import Row
from curate.tables.store import Partition, Writer

SYNC_SECONDS = 0.5
# A journal with so many rows is committed, though its shard goes on.
JOURNAL_ROWS = 4000


P = TypeVar("P")


@dataclass(frozen=True)
class Unit(Generic[P]):
    """One piece of work that is pending: its shard and what the worker needs."""

    shard: int
    payload: P


@dataclass
class Outcome(Generic[P]):
    """What a run did: finished units, and failed ones with the error that each ended in."""

    done: int = 0
    failed: list[tuple[Unit[P], RowError]] = field(default_factory=list)

    def check(self, wanted: int, budget: float, what: str) -> None:
        """BudgetError when more than this share of all units that are wanted, done before or not, failed.

        `what` they are, in the plural.
        """
        if len(self.failed) > budget * wanted:
            raise BudgetError(
                f"{len(self.failed)} of {wanted} {what} failed, above the error budget of {budget:.0%} "
                f"(first: {self.failed[0][1]}); run again to retry them."
            )


Work = Callable[[Unit[P]], Awaitable[list[Row]]]


@dataclass
class _ShardProgress:
    """A shard under work: how many of its units are out, the rows in its journal, and whether all its units came."""

    number: int
    journal: Journal
    # Its own, so that what it remembers of the shard goes with it.
    writer: Writer
    out: int = 0
    rows: int = 0
    whole: bool = False


class _StageStop:
    """First Ctrl+C: no new work, drain and commit. Second: stop now."""

    def __init__(self, reporter: Reporter) -> None:
        self.asked = self.at_once = False
        self._reporter = reporter
        self._task = asyncio.current_task()

    def __call__(self, number: int) -> None:
        asked(number)
        if self.asked and self._task is not None:
            self.at_once = True
            self._task.cancel()
        self.asked = True
        self._reporter.note("Stopping: work in progress is finished and kept (Ctrl+C again stops at once).")


@contextlib.contextmanager
def _signals(stop: _StageStop) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            loop.add_signal_handler(number, stop, number)
    except (RuntimeError, NotImplementedError, ValueError):
        # Not in the main thread: whoever runs us there handles signals.
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # asyncio leaves the system's own, which would end the process without a word.
            signal.signal(number, handler)


def settle(writer: Writer, shard: int) -> None:
    """Turn a shard's journal into a committed file; a crash in between repeats it without doubling a row.

    Of rows that are in the journal twice the first counts.
    """
    journal = writer.partition.journal(shard)
    rows: dict[tuple[Any, ...], Row] = {}
    for row in journal.rows():
        rows.setdefault(writer.partition.table.key_of(row), row)
    writer.commit(shard, writer.new(shard, list(rows.values())))
    journal.remove()


def resume(partition: Partition) -> None:
    """Commit what an earlier run left in journals, before it is decided what is pending."""
    for shard in partition.journals():
        settle(Writer(partition), shard)


async def run_units(
    partition: Partition, units: Iterable[Unit[P]], work: Work[P], in_flight: int, reporter: Reporter
) -> Outcome[P]:
    """Do every unit; raises Interrupted after a drained Ctrl+C. A RowError of a unit fails that unit alone.

    Units come shard by shard, and are taken as they are needed: what is held does not grow with their number.
    """
    stop = _StageStop(reporter)
    run = _Run(partition, iter(units), work, in_flight)
    with _signals(stop):
        try:
            await run.drive(reporter, stop)
        except BaseException as error:
            reporter.finish()
            if stop.at_once and isinstance(error, asyncio.CancelledError):
                # Nobody else knows why it was cancelled.
                raise Interrupted from None
            raise
        finally:
            for shard in run.shards.values():
                shard.journal.close()
    if stop.asked:
        raise Interrupted
    return run.outcome


class _Run(Generic[P]):
    """One call of `run_units`."""

    def __init__(self, partition: Partition, units: Iterator[Unit[P]], work: Work[P], in_flight: int) -> None:
        self.outcome = Outcome[P]()
        self.shards: dict[int, _ShardProgress] = {}
        self._partition, self._units, self._work, self._in_flight = partition, units, work, in_flight
        self._current: _ShardProgress | None = None
        self._running: dict[asyncio.Future[list[Row]], Unit[P]] = {}
        # `asyncio.wait` would look at every task under way for each one that ends.
        self._ended: list[asyncio.Future[list[Row]]] = []
        self._woken = asyncio.Event()

    async def drive(self, reporter: Reporter, stop: _StageStop) -> None:
        synced = time.monotonic()
        try:
            while True:
                while len(self._running) < self._in_flight and not stop.asked and self._next():
                    # It goes to the engine at once, instead of after the preparation of all that may be in flight.
                    await asyncio.sleep(0)
                if not self._running:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), SYNC_SECONDS)
                self._woken.clear()
                finished, self._ended = self._ended, []
                for task in finished:
                    self._take(self._running.pop(task), task)
                reporter.advance(len(finished))
                if time.monotonic() - synced > SYNC_SECONDS:
                    synced = time.monotonic()
                    for shard in self.shards.values():
                        shard.journal.sync()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _next(self) -> bool:
        """Start the next unit; false when there is none."""
        unit = next(self._units, None)
        number = None if unit is None else unit.shard
        if self._current is not None and self._current.number != number:
            before, self._current = self._current, None
            before.whole = True
            self._settle_if_done(before)
        if unit is None:
            return False
        if self._current is None:
            if unit.shard in self.shards:
                raise AssertionError("units must come shard by shard")
            journal = self._partition.journal(unit.shard)
            self._current = self.shards[unit.shard] = _ShardProgress(unit.shard, journal, Writer(self._partition))
        self._current.out += 1
        task = asyncio.ensure_future(self._work(unit))
        self._running[task] = unit
        task.add_done_callback(self._end)
        return True

    def _end(self, task: asyncio.Future[list[Row]]) -> None:
        self._ended.append(task)
        self._woken.set()

    def _take(self, unit: Unit[P], task: asyncio.Future[list[Row]]) -> None:
        shard = self.shards[unit.shard]
        try:
            rows = task.result()
            check(self._partition.table, rows)
        except RowError as error:
            self.outcome.failed.append((unit, error))
        else:
            shard.journal.append(rows)
            shard.rows += len(rows)
            self.outcome.done += 1
        shard.out -= 1
        self._settle_if_done(shard)

    def _settle_if_done(self, shard: _ShardProgress) -> None:
        """Commit a shard that is done, or whose journal is long: it is read whole to be committed."""
        done = shard.whole and shard.out == 0
        if done or shard.rows >= JOURNAL_ROWS:
            shard.journal.close()
            settle(shard.writer, shard.number)
            shard.rows = 0
        if done:
            self.shards.pop(shard.number, None)
