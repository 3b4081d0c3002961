"""kill -9 of commands that write, and of what they start: at random times and at every write, one after the other."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import bed
import fork
import writes
from bed import Case

# How a trial ends: the command at its n-th write, or at a random time, or a process that it started.
WAYS = ("at a write", "at a time", "a child")
# A command that takes longer is killed in every so manieth turn only.
_SLOW = 12.0
_SELDOM = 6


def run(
    cases: Sequence[Case], folder: Path, maximum: int, seconds: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """So many kills at most, in so much time; what was done, and what was not as it should be."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    done: Counter[str] = Counter()
    faults: list[str] = []
    for number, (case, way, at) in enumerate(_trials(cases, rng)):
        if done["killed"] + done["had ended"] >= maximum or time.monotonic() > end:
            break
        what = f"{case.name}, {way} {at:.3g}"
        killed, wrong = trial(case, way, at, folder)
        done["killed" if killed else "had ended"] += 1
        done[f"{case.name}"] += killed
        done[way] += killed
        if wrong:
            faults.append(f"{what}: {wrong}")
            say(f"FAULT {faults[-1]}")
        if number % 20 == 19:
            say(f"kills: {done['killed']} killed, {done['had ended']} had ended, {len(faults)} faults")
    return {"part": "kills", **dict(sorted(done.items())), "faults": faults}


def _trials(cases: Sequence[Case], rng: random.Random) -> Iterator[tuple[Case, str, float]]:
    """Writes of each command in an order that spreads them, every one once, between times at random."""
    waiting = {case.name: rng.sample(range(1, case.writes + 1), case.writes) for case in cases}
    for turn in count():
        for case in cases:
            if case.seconds > _SLOW and turn % _SELDOM:
                continue
            if not waiting[case.name]:
                waiting[case.name] = rng.sample(range(1, case.writes + 1), case.writes)
            yield case, WAYS[0], waiting[case.name].pop()
            yield case, WAYS[rng.choice([1, 1, 2])], rng.uniform(0, 1.05 * case.seconds)


def trial(case: Case, way: str, at: float, folder: Path) -> tuple[bool, str]:
    """Whether the command was killed, and what was wrong after it was run again."""
    live = fresh(case, folder)
    hook = partial(_die_at, live, round(at)) if way == WAYS[0] else None
    running = fork.start(case.words, live, folder / "first", hook)
    if way != WAYS[0]:
        running.wait(at)
        _kill(running, way)
    if running.wait() is None:
        running.end()
        return False, "it hangs"
    killed = running.code == -signal.SIGKILL or way == WAYS[2]
    return killed, again(case, live, folder)


def _kill(running: fork.Running, way: str) -> None:
    if way == WAYS[2]:
        for child in fork.below(running.pid)[:1]:
            os.kill(child, signal.SIGKILL)
            # It goes on without it, or says that it cannot.
            running.wait()
            return
    running.send(signal.SIGKILL)


def _die_at(root: Path, at: int) -> None:
    writes.watch(root, lambda number, what: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)


def fresh(case: Case, folder: Path) -> Path:
    """The folder of the bed as it was before the command."""
    live = folder / "trial"
    shutil.rmtree(live, ignore_errors=True)
    shutil.copytree(case.before, live)
    return live


def again(case: Case, live: Path, folder: Path) -> str:
    """What is wrong after the same command again; nothing where all is as if undisturbed."""
    second = fork.start(case.words, live, folder / "second")
    code = second.wait()
    # What a killed command had removed before is not there to be removed again.
    removed = case.name == "remove-import" and code == 2 and "has no import" in second.said()
    if code != 0 and not removed:
        second.end()
        return f"the same command again ended with {code}: {second.said()[-600:]}"
    try:
        different = bed.differences(fork.call(bed.state, live), case.after)
    except fork.Failed as error:
        return f"the tables cannot be read: {error.kind}: {error.sentence}"
    return f"other than undisturbed: {different}" if different else ""
