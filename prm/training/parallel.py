"""Runs side by side: so many processes, each with a GPU or a share of the cores, each doing one run after another.

Every run has partitions of its own, so processes that do different runs never write to the same place. What all runs
need (encoded examples, features of a frozen vision tower) is made once in each process. Each has a pipe of its own to
the process that hands out the runs, and nothing is shared, so that none can be left waiting for a lock of one that was
killed. They are forked from a process that has imported the trainer and done nothing else: importing it takes seconds
and half a gigabyte, which all of them share.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from curate.errors import Interrupted, UserError
from curate.runtime.signals import held_off
from curate.tables.store import Store
from prm.config import TrainConfig
from prm.training.inputs import prepare
from prm.training.run import OnStep, RunPlan, RunResult, do
from prm.training.stop import TrainingStop

if TYPE_CHECKING:
    from curate.tables.lock import Share

_LOOK_SECONDS = 0.2
# What a worker says: a step was done, a run ended in its result, stopped with its state saved, or failed.
_STEP, _DONE, _STOPPED, _FAILED = "step", "done", "stopped", "failed"


def processes(config: TrainConfig, runs: int) -> int:
    """How many processes share the runs: `train.parallel`, else one a GPU; never more than there are runs."""
    wanted = config.parallel
    if wanted is None:
        wanted = torch.cuda.device_count() if config.device != "cpu" else 1
    return max(1, min(wanted, runs))


@dataclass(frozen=True)
class _WorkerTask:
    """What a worker is told at its start."""

    config: TrainConfig
    root: Path
    run_seed: int
    place: int
    threads: int


class _PipeStop(TrainingStop):
    """Stops when anything comes through the pipe while a run is under way."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    @property
    def asked(self) -> bool:  # type: ignore[override]
        """Whether it came."""
        return self._pipe.poll()


def _work(task: _WorkerTask, pipe: Connection) -> None:
    """A worker: prepare, then do the runs that come through the pipe until it is closed."""
    # A Ctrl+C at a terminal reaches all processes; the one that handed out the work says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    _take_lock(pipe)
    torch.set_num_threads(task.threads)
    if task.config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(task.place % torch.cuda.device_count())
    workspace, stop = Store.open(task.root, create=False), _PipeStop(pipe)
    data, ledger = prepare(task.config, workspace, task.run_seed, rejects=False)

    def tell(run: str, step: int, total: int, info: dict[str, float]) -> None:
        _say(pipe, _STEP, (run, step, total, info))

    while (plan := _next(pipe)) is not None:
        try:
            _say(pipe, _DONE, do(plan, task.config, workspace, data, ledger, tell, stop))
        except Interrupted:
            _say(pipe, _STOPPED, None)
            return
        except Exception as error:
            # Whatever it is, it is raised again where the runs are handed out.
            _say(pipe, _FAILED, _sendable(error))
            return


def _take_lock(pipe: Connection) -> None:
    """Ask the owner for the lock, whose offer is the first that comes through the pipe.

    A lock that came with the process itself would be held from the start on, also by the process that forks it, which
    for seconds only imports and sees nothing of its owner's end.
    """
    try:
        offer: Share = pipe.recv()
        offer.take()
    except (EOFError, ConnectionError, FileNotFoundError):
        # Its owner is gone, and with it the socket where the lock is asked for.
        os._exit(1)


def _say(pipe: Connection, kind: str, what: Any) -> None:
    try:
        pipe.send((kind, what))
    except ConnectionError:
        # Its owner is gone.
        os._exit(1)


def _next(pipe: Connection) -> RunPlan | None:
    try:
        plan: RunPlan | None = pipe.recv()
    except EOFError:
        return None
    return plan


def _sendable(error: Exception) -> Exception:
    """What a command explains, as it is; a bug as a RuntimeError that says where it came from."""
    if isinstance(error, UserError | OSError):
        return error
    return RuntimeError("In a process that trained:\n" + traceback.format_exc())


def _end_with_owner() -> None:
    """End this process when its owner is gone: the last checkpoint counts, as after a kill."""
    owner = multiprocessing.parent_process()
    assert owner is not None  # noqa: S101 - this is never the first process
    wait([owner.sentinel])
    os._exit(1)


def run_all(
    plans: Sequence[RunPlan],
    config: TrainConfig,
    workspace: Store,
    run_seed: int,
    on_step: OnStep,
    stop: TrainingStop,
    count: int,
) -> dict[RunPlan, RunResult]:
    """Do these runs in `count` processes.

    The first failure of a run ends all: its error is raised when the others have saved their states. A process that
    dies ends all at once (UserError). Interrupted after a Ctrl+C, with all states saved; a second one ends all at once.
    """
    # Not forked from this process: threads of torch and a device in use do not survive that.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prm.training.run"])
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    workers: dict[Connection, Any] = {}
    try:
        for place in range(count):
            ours, theirs = context.Pipe()
            task = _WorkerTask(config, workspace.root, run_seed, place, threads)
            workers[ours] = context.Process(target=_work, args=(task, theirs))
            with held_off():
                workers[ours].start()
            theirs.close()
        return _Hand(plans, workers, on_step, stop).all(workspace)
    finally:
        for process in workers.values():
            process.kill()
            process.join()


class _Hand:
    """Hands out runs and listens until all are done."""

    def __init__(
        self, plans: Sequence[RunPlan], workers: dict[Connection, Any], on_step: OnStep, stop: TrainingStop
    ) -> None:
        self.pending, self.on_step, self.stop = list(plans), on_step, stop
        self.workers, self.open = workers, set(workers)
        self.doing: dict[Connection, RunPlan] = {}
        self.found: dict[RunPlan, RunResult] = {}
        self.error: Exception | None = None
        self.stopping = False

    def all(self, workspace: Store) -> dict[RunPlan, RunResult]:
        """Results of all runs."""
        for pipe in self.workers:
            self._send(pipe, workspace.share())
            self._give(pipe)
        while self.open:
            heard = wait(list(self.open), _LOOK_SECONDS)
            for pipe in [pipe for pipe in self.open if pipe in heard]:
                self._hear(pipe)
            if (self.stop.asked or self.error is not None) and not self.stopping:
                self.stopping = True
                for pipe in self.doing:
                    self._send(pipe, None)
        if self.error is not None:
            raise self.error
        if self.stop.asked:
            raise Interrupted
        return self.found

    def _give(self, pipe: Connection) -> None:
        """The next run; where there is none the pipe is closed, and the worker ends."""
        self.doing.pop(pipe, None)
        if self.pending and not self.stopping:
            self.doing[pipe] = self.pending.pop(0)
            self._send(pipe, self.doing[pipe])
        else:
            pipe.close()
            self.open.discard(pipe)

    def _send(self, pipe: Connection, what: Share | RunPlan | None) -> None:
        try:
            pipe.send(what)
        except ConnectionError:
            self._lost()

    def _hear(self, pipe: Connection) -> None:
        try:
            kind, said = pipe.recv()
        except (EOFError, ConnectionError):
            self._lost()
        if kind == _STEP:
            self.on_step(*said)
            return
        if kind == _DONE:
            self.found[self.doing[pipe]] = said
        elif kind == _FAILED:
            self.error = self.error or said
        if kind != _DONE:
            self.pending.clear()
        self._give(pipe)

    def _lost(self) -> NoReturn:
        raise UserError(
            "A training process was killed (most often because memory ran out); lower train.parallel and run again: "
            "finished runs are kept, the others continue from their last checkpoints."
        )
