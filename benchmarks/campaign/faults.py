"""Faults of the machine under commands that write: full disks, failing files, little memory, Ctrl+C, stops.

After each the command must have ended as a command does: with its work done, or with one sentence. A stopped one is met
by a second command that writes (which must be refused) and by one that reads (which must not wait).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fork
import kills
import writes
from bed import WORKSPACE, Case

# Name -> whether the fault stays from its write on, and its error.
_ERRORS = {
    "disk full": (True, errno.ENOSPC),
    "one failing write": (False, errno.EIO),
    "failing disk": (True, errno.EIO),
    "no rights": (True, errno.EACCES),
}
WAYS = (*_ERRORS, "small disk", "memory", "Ctrl+C", "Ctrl+C twice", "SIGTERM", "stopped")
_MEGABYTE = 2**20
# More memory than it takes to import everything, at random.
_MEMORY = (20, 400)
# A command that is refused, or reads, is quick.
_QUICK = 60.0
# How the C library ends a process that has no memory for a thread.
_ABORTED = 127
_INTERRUPTED = (130, 143)
# How a library that is written in Rust does.
_PANIC = "pyo3_runtime.PanicException"


def run(
    cases: Sequence[Case], folder: Path, count: int, seconds: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """So many faults at most, in so much time; what was done, and what was not as it should be."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    ways = [way for way in WAYS if way != "small disk" or _mounts(folder)]
    done: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(count):
        if time.monotonic() > end:
            break
        case, way = rng.choice(cases), ways[number % len(ways)]
        ended, wrong = trial(case, way, folder, rng)
        done[way] += 1
        done[f"ended: {ended}"] += 1
        if wrong:
            faults.append(f"{case.name}, {way}: {wrong}")
            say(f"FAULT {faults[-1]}")
        if number % 20 == 19:
            say(f"faults: {number + 1} done, {len(faults)} faults")
    left_out = [way for way in WAYS if way not in ways]
    return {"part": "faults", **dict(sorted(done.items())), "left out": left_out, "faults": faults}


def trial(case: Case, way: str, folder: Path, rng: random.Random) -> tuple[str, str]:
    """How the command ended under the fault, in a word; and what was wrong with that, or after it was run again."""
    with contextlib.ExitStack() as held:
        live = kills.fresh(case, folder)
        if way == "small disk":
            live = held.enter_context(_small_disk(live, rng))
        running = fork.start(case.words, live, folder / "first", _hook(way, case, live, rng))
        wrong = _from_outside(running, way, case, live, folder, rng)
        if running.wait() is None:
            running.end()
            return "hung", "it hangs"
        ended, how = judged(running.code, running.said(), way)
        if way == "small disk":
            subprocess.run(["mount", "-o", "remount,size=512m", str(live)], check=True)
        return ended, wrong or how or kills.again(case, live, folder)


def judged(code: int | None, said: str, way: str) -> tuple[str, str]:
    """(how a command ended in a word, what is wrong with that)."""
    lines = [line for line in said.splitlines() if line.strip()]
    if code == 0:
        return "done", ""
    if way == "memory" and code is not None and (code < 0 or code == _ABORTED or _PANIC in said):
        # What asks for memory below Python may not be able to say a word.
        return "killed for want of memory", ""
    if way == "SIGTERM" and code == -signal.SIGTERM:
        # Before it said that it would rather end otherwise.
        return "terminated", ""
    if "Traceback" in said:
        return "traceback", f"it ended with {code} and a traceback: {said[-900:]}"
    if code in _INTERRUPTED:
        return "interrupted", "" if any(line.startswith("Interrupted") for line in lines) else f"no word: {said[-300:]}"
    sentences = [line for line in lines if line.startswith(("Error: ", "Failed: "))]
    if code in (1, 2) and len(sentences) == 1:
        return "a sentence", ""
    return f"code {code}", f"it ended with {code} and {len(sentences)} sentences: {said[-600:]}"


def _hook(way: str, case: Case, live: Path, rng: random.Random) -> Callable[[], None] | None:
    if way in _ERRORS:
        stays, number = _ERRORS[way]
        return partial(_fail_at, live, rng.randint(1, case.writes), stays, number)
    if way == "memory":
        return partial(_limit, rng.randint(*_MEMORY) * _MEGABYTE)
    return None


def _fail_at(root: Path, at: int, stays: bool, number: int) -> None:
    def act(count: int, what: str) -> None:
        if count == at or (stays and count > at):
            # What deletes works on a full disk, too.
            if number == errno.ENOSPC and what.startswith(("os.remove", "os.rmdir", "os.truncate")):
                return
            raise OSError(number, os.strerror(number), what.partition(" ")[2] or None)

    writes.watch(root, act)


def _limit(more: int) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))


def _from_outside(running: fork.Running, way: str, case: Case, live: Path, folder: Path, rng: random.Random) -> str:
    """What happens to a command that runs; what was wrong with others meanwhile."""
    if way not in ("Ctrl+C", "Ctrl+C twice", "SIGTERM", "stopped"):
        return ""
    running.wait(rng.uniform(0, case.seconds))
    if way == "stopped":
        return _stopped(running, live, folder)
    running.send(signal.SIGTERM if way == "SIGTERM" else signal.SIGINT)
    if way == "Ctrl+C twice":
        running.wait(rng.uniform(0, 0.3))
        running.send(signal.SIGINT)
    return ""


def _stopped(running: fork.Running, live: Path, folder: Path) -> str:
    running.send(signal.SIGSTOP)
    if running.poll() is not None:
        return ""
    holds = _held_by(live) == running.pid
    reading = fork.start(["curate", "status", "-w", WORKSPACE], live, folder / "reading")
    second = fork.start(["curate", "shard", "recipe.yaml", "-w", WORKSPACE], live, folder / "second") if holds else None
    found = []
    if reading.wait(_QUICK) is None:
        found.append("a reader waits")
    if second is not None and (second.wait(_QUICK) != 2 or "is being written by" not in second.said()):
        found.append(f"a second writer ended with {second.code}: {second.said()[-300:]}")
    for each in (reading, second):
        if each is not None:
            each.end()
    running.send(signal.SIGCONT)
    return "; ".join(found)


def _held_by(live: Path) -> int | None:
    """Which process holds the lock of the workspace; null for none, or one that has not signed."""
    import fcntl
    import json

    try:
        with (live / WORKSPACE / "writer.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid: int = json.loads(file.read())["pid"]
                return pid
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return None


def _mounts(folder: Path) -> bool:
    """Whether small disks can be made here: it takes root."""
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if made.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return made.returncode == 0


@contextlib.contextmanager
def _small_disk(live: Path, rng: random.Random) -> Iterator[Path]:
    """Put the workspace on a disk with little space left."""
    import shutil

    place = live.with_name("disk")
    place.mkdir(exist_ok=True)
    # A disk of pages of 4 KB, on which every file takes whole ones.
    files = [path for path in live.rglob("*") if path.is_file()]
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in files) + 4096 * (8 + len(files) // 2)
    room = rng.randint(4, 600) * 1024
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + room}", "tmpfs", str(place)], check=True)
    try:
        shutil.copytree(live, place, dirs_exist_ok=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
