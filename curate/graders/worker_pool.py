"""A worker process for math-verify: a parse that hangs is killed with its worker and never stops a run.

math-verify's own time limit works with a signal, so only in a main thread and not inside long C calls. A process that
can be killed has neither limit, and works the same from threads and from asyncio. It is a fresh interpreter that runs
one small file: it inherits no engine, no threads and no main module.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import select
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import IO, cast

from curate.graders.base import Grade

SECONDS = 10.0
# Importing sympy takes a few seconds on a busy machine.
START_SECONDS = 120.0
# Sympy caches without bound.
TASKS_PER_WORKER = 500
# Chains of one problem repeat their answers; the same question is asked once.
REMEMBERED = 20_000
# Longer texts are no expressions; a parser would need minutes for them.
LONGEST = 2000

_VERDICTS = {
    "right": Grade(True, "expression-equivalent"),
    "wrong": Grade(False, "expression-equivalent"),
    "unparsed": Grade(False, "expression-unparsed"),
    "gold-unparsed": Grade(None, "expression-gold-unparsed"),
}


class _Dead(Exception):
    """The worker ended, or could not be started."""


class _Late(Exception):
    """The worker did not answer in time."""


class Pool:
    """One worker, started when first asked, replaced when it hangs, dies or has done `TASKS_PER_WORKER`.

    One is enough: an expression takes milliseconds, and each distinct question is asked once.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._done = 0
        self._known: dict[tuple[str, str | None], Grade] = {}
        self._values: dict[str, Fraction | None] = {}

    def verify(self, response: str, gold: str) -> Grade:
        """Are the two expressions equivalent? Undecided when the worker hangs, dies twice or cannot judge."""
        if len(response) > LONGEST:
            return Grade(False, "expression-too-long")
        with self._lock:
            known = self._known.get((response, gold))
            if known is not None:
                return known
            verdict = self._verdict(response, gold)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            if verdict.rule != "expression-worker-died":
                self._known[response, gold] = verdict
            return verdict

    def value(self, tex: str) -> Fraction | None:
        """The number that a formula without variables is, irrational ones to 30 digits; None when it is none."""
        if len(tex) > LONGEST:
            return None
        with self._lock:
            if tex not in self._values:
                if len(self._values) >= REMEMBERED:
                    self._values.clear()
                answer = self._answer(tex, None)
                if answer == "died":
                    return None
                self._values[tex] = _fraction(answer)
            return self._values[tex]

    def close(self) -> None:
        """Kill the worker; the next question starts another."""
        with self._lock:
            self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        # Also closes the pipes, and reads what is left, so that the worker leaves nothing behind.
        process.communicate()

    def _verdict(self, response: str, gold: str) -> Grade:
        answer = self._answer(response, gold)
        if answer in ("late", "died"):
            return Grade(None, "expression-timeout" if answer == "late" else "expression-worker-died")
        return _VERDICTS.get(answer) or Grade(None, f"expression-error-{answer}")

    def _answer(self, response: str, gold: str | None) -> str:
        """What the worker says, "late" when it hangs, "died" when it dies twice."""
        # A worker may have been killed while it had nothing to do; the question is not to blame the first time.
        for _ in range(2):
            try:
                answer = self._ask(response, gold)
            except _Late:
                self._kill()
                return "late"
            except (_Dead, OSError):
                self._kill()
                continue
            self._done += 1
            if self._done >= TASKS_PER_WORKER:
                self._kill()
            return answer
        return "died"

    def _ask(self, response: str, gold: str | None) -> str:
        process = self._process or self._start()
        question = json.dumps([response, gold, 2 * math.ceil(self._seconds)]) + "\n"
        stdin = cast(IO[bytes], process.stdin)
        stdin.write(question.encode())
        stdin.flush()
        return self._read(process, self._seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        worker = Path(__file__).with_name("worker.py")
        # -P keeps this folder out of the worker's import path: its files are named like other packages' modules.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._done = 0
        try:
            self._read(self._process, START_SECONDS)
        except _Late:
            raise _Dead from None
        return self._process

    @staticmethod
    def _read(process: subprocess.Popen[bytes], seconds: float) -> str:
        """The worker's next answer: a line of a few bytes, written at once."""
        stdout = cast(IO[bytes], process.stdout)
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise _Late
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise _Dead
        return line.decode().strip()


def _fraction(answer: str) -> Fraction | None:
    try:
        return Fraction(answer)
    except (ValueError, ZeroDivisionError):
        return None


@functools.cache
def shared() -> Pool:
    """The process's pool, closed at exit."""
    pool = Pool()
    atexit.register(pool.close)
    return pool
