"""Runs side by side: so many processes, each with a GPU or a share of the cores, each doing one run after another.

Every run has partitions of its own, so processes that do different runs never write to the same place. What all runs
need (encoded examples, features of a frozen vision tower) is made once in each process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import torch

from curate.errors import Interrupted, UserError
from curate.store import Workspace
from prm.config import TrainConfig
from prm.data import prepare
from prm.stop import Stop

if TYPE_CHECKING:
    from prm.train import OnStep, Plan, RunResult

_LOOK_SECONDS = 0.2


def processes(config: TrainConfig, runs: int) -> int:
    """How many processes share the runs: `train.parallel`, else one a GPU; never more than there are runs."""
    wanted = config.parallel
    if wanted is None:
        wanted = torch.cuda.device_count() if config.device != "cpu" else 1
    return max(1, min(wanted, runs))


class _Asked(Stop):
    """Stops when the process that handed out the work asks for it."""

    def __init__(self, event: Any) -> None:
        self._event = event

    @property
    def asked(self) -> bool:  # type: ignore[override]
        """Whether it asked."""
        return bool(self._event.is_set())


class _Worker:
    """What a process keeps between its runs; made once in each, before the first."""

    current: _Worker | None = None

    def __init__(self, config: TrainConfig, root: Path, run_seed: int, told: Any, event: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config, self.workspace = config, Workspace.open(root, create=False)
        self.told, self.stop = told, _Asked(event)
        self.data, self.ledger = prepare(config, self.workspace, run_seed, rejects=False)

    def on_step(self, run: str, step: int, total: int, info: dict[str, float]) -> None:
        """Tell the process that handed out the work."""
        self.told.put((run, step, total, info))


def _begin(
    config: TrainConfig, root: Path, run_seed: int, told: Any, event: Any, places: Any, threads: int, owner: int
) -> None:
    # A Ctrl+C at a terminal reaches all processes; the one that handed out the work says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    place = places.get()
    if config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    _Worker.current = _Worker(config, root, run_seed, told, event, threads)


def _end_with(owner: int) -> None:
    """End this process when its owner is gone: the last checkpoint counts, as after a kill."""
    while os.getppid() == owner:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _do(plan: Plan) -> RunResult:
    from prm import train

    worker = _Worker.current
    assert worker is not None  # noqa: S101
    return train.do(plan, worker.config, worker.workspace, worker.data, worker.ledger, worker.on_step, worker.stop)


def run_all(
    plans: Sequence[Plan],
    config: TrainConfig,
    workspace: Workspace,
    run_seed: int,
    on_step: OnStep,
    stop: Stop,
    count: int,
) -> dict[Plan, RunResult]:
    """Do these runs in `count` processes.

    The first failure of a run ends all, with their states as of their last checkpoints; so does a process that dies
    (UserError). Interrupted after a Ctrl+C, with all states saved.
    """
    # Not forked: threads of torch and a device in use do not survive that.
    context = multiprocessing.get_context("spawn")
    told, event, places = context.Queue(), context.Event(), context.SimpleQueue()
    for place in range(count):
        places.put(place)
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    given = (config, workspace.root, run_seed, told, event, places, threads, os.getpid())
    pool = ProcessPoolExecutor(count, context, _begin, given)
    try:
        futures = [pool.submit(_do, plan) for plan in plans]
        _follow(futures, told, on_step, stop, event)
        return {plan: future.result() for plan, future in zip(plans, futures, strict=True)}
    except CancelledError:
        raise Interrupted from None
    except BrokenProcessPool:
        raise UserError(
            "A process that trained was ended from outside (most often for want of memory); set train.parallel lower "
            "and run again: finished runs are kept, the others go on from their last checkpoints."
        ) from None
    finally:
        event.set()
        pool.shutdown(cancel_futures=True)


def _follow(futures: Sequence[Future[RunResult]], told: Any, on_step: OnStep, stop: Stop, event: Any) -> None:
    """Pass on what is told until all runs are done, one of them failed, or a Ctrl+C had them stop."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, _LOOK_SECONDS)
        _pass_on(told, on_step)
        if stop.asked and not event.is_set():
            event.set()
            for future in pending:
                future.cancel()
        if any(not future.cancelled() and future.exception() for future in done) and not event.is_set():
            return
    _pass_on(told, on_step)


def _pass_on(told: Any, on_step: Callable[..., None]) -> None:
    while True:
        try:
            on_step(*told.get_nowait())
        except Empty:
            return
