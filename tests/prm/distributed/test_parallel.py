"""Runs side by side: the same runs as one after the other, whoever stops or dies."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from train_testbed import settings, updates

from curate.errors import Interrupted, UserError
from curate.tables.store import Store
from prm.config import TrainConfig
from prm.distributed.process_group import ProcessGroup
from prm.training import parallel, train


def test_they_end_as_one_after_the_other_and_a_ctrl_c_keeps_what_they_did(tiny_model, make_workspace):
    config, alone, together = settings(tiny_model, seeds=2), make_workspace("alone"), make_workspace("together")
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    try:
        train.run(config, alone, 5)
    finally:
        torch.set_num_threads(threads)
    reached: dict[str, int] = {}

    def press(run: str, step: int, total: int, info: dict) -> None:
        if not reached:
            signal.raise_signal(signal.SIGINT)
        reached[run] = step

    side_by_side = config.model_copy(update={"parallel": 2})
    with pytest.raises(Interrupted):
        train.run(side_by_side, together, 5, press)
    assert reached and min(reached.values()) < 6
    steps: dict[str, list[int]] = {}
    result = train.run(side_by_side, together, 5, lambda run, step, *_: steps.setdefault(run, []).append(step))
    assert [one.run for one in result.runs] == ["seed-0", "seed-1", "null-0"]
    assert {run: each[-1] for run, each in steps.items()} == dict.fromkeys(["seed-0", "seed-1", "null-0"], 6)
    # The step that was under way when the key was pressed was finished and saved.
    assert all(steps[run][0] > 1 for run in reached)
    assert updates(together) == updates(alone)
    assert result.ledger.skipped == 0
    again = train.run(side_by_side, together, 5)
    assert all(one.there for one in again.runs)
    assert again.ledger.skipped == again.ledger.out


def trains(config: TrainConfig, root: Path, out: Path, err: Path) -> None:
    """A process that hands out runs; says on standard output which step of which run was done."""
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    # Workers are held off Ctrl+C, and this process was started as one.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    workspace = Store.open(root)
    with workspace.writing():
        train.run(config, workspace, 0, lambda run, step, *_: print(run, step, flush=True))


def forked(pid: int) -> list[int]:
    """The process that workers are forked from, and the workers."""
    (server,) = [child for child in children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [server, *children(server)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", ["owner", "worker", "impatient"])
def test_no_process_is_left_when_one_is_killed_or_the_key_is_pressed_twice(
    tiny_model, make_workspace, tmp_path, victim
):
    config = settings(tiny_model, seeds=2, null_runs=0, steps=2000, parallel=2)
    out, err = tmp_path / "out", tmp_path / "err"
    # Importing the trainer takes seconds; where this process starts workers, it has a process of its own for that.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prm.training.train"])
    process = context.Process(target=trains, args=(config, make_workspace().root, out, err))
    process.start()
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text().startswith("seed-")):
        assert process.is_alive() and time.monotonic() < deadline, err.read_text()
        time.sleep(0.02)
    server, *workers = forked(process.pid)
    assert len(workers) == 2
    if victim == "impatient":
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
    else:
        os.kill(process.pid if victim == "owner" else workers[0], signal.SIGKILL)
    process.join(60)
    process.kill()
    said = err.read_text()
    deadline = time.monotonic() + 10
    while any(map(alive, [server, *workers])) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, [server, *workers]))
    assert {
        "owner": "Traceback" not in said,
        "worker": "lower train.parallel" in said,
        "impatient": "Interrupt" in said,
    }[victim]


def test_the_lock_is_free_when_the_owner_is_killed_while_others_begin(tiny_model, make_workspace, tmp_path):
    """The process that workers are forked from imports the trainer then, which takes longer than anybody waits."""
    config, workspace = settings(tiny_model, seeds=2, null_runs=0, steps=2000, parallel=2), make_workspace()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prm.training.train"])
    process = context.Process(target=trains, args=(config, workspace.root, tmp_path / "out", tmp_path / "err"))
    process.start()
    deadline = time.monotonic() + 60
    while not any(b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children(process.pid)):
        assert process.is_alive() and time.monotonic() < deadline, (tmp_path / "err").read_text()
        time.sleep(0.02)
    # By now the workers were asked for.
    time.sleep(0.3)
    process.kill()
    process.join()
    with workspace.writing():
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="fails where there is no GPU")
def test_a_failure_in_a_run_comes_out_as_it_is(tiny_model, make_workspace):
    with pytest.raises(UserError, match="no usable GPU"):
        train.run(settings(tiny_model, seeds=2, null_runs=0, device="cuda", parallel=2), make_workspace(), 0)


def test_how_many_are_side_by_side(tiny_model, make_workspace):
    assert parallel.processes(settings(tiny_model, device="cpu"), 5) == 1
    assert parallel.processes(settings(tiny_model, device="cpu", parallel=3), 5) == 3
    assert parallel.processes(settings(tiny_model, device="cpu", parallel=3), 2) == 2

    class Two(ProcessGroup):
        size = 2

    with pytest.raises(UserError, match="does nothing under torchrun"):
        train.run(settings(tiny_model, parallel=2), make_workspace(), 0, process_group=Two())
