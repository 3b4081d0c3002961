"""Worker processes for math-verify: a parse that hangs is killed with its worker and never stops a run.

math-verify's own time limit works with a signal, so only in a main thread and not inside long C calls. A process that
can be killed has neither limit, and works the same from threads and from asyncio.
"""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import threading
from multiprocessing.connection import Connection
from typing import Any

from curate.answers.base import Grade

SECONDS = 10.0
# Importing sympy takes a few seconds on a busy machine.
START_SECONDS = 120.0
# Sympy caches without bound.
TASKS_PER_WORKER = 500


def _serve(pipe: Connection) -> None:
    """The worker's loop: (response, gold) in, right or wrong or an error's text out."""
    import signal

    from math_verify import parse, verify

    # Ctrl+C is the parent's business; it ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    pipe.send("ready")
    while True:
        try:
            response, gold = pipe.recv()
        except EOFError:
            return
        try:
            wanted = parse(f"${gold.strip('$ ')}$", parsing_timeout=None)
            given = parse(f"${response.strip('$ ')}$", parsing_timeout=None)
            answer: bool | str = bool(verify(wanted, given, timeout_seconds=None)) if wanted and given else "unparsed"
        except Exception as error:  # sympy raises anything; the grade is then undecided, by its name
            answer = type(error).__name__
        pipe.send(answer)


class Pool:
    """One worker, started when first asked, replaced when it hangs, dies or has done `TASKS_PER_WORKER`."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._done = 0

    def _start(self) -> Connection:
        # Spawn, because the parent may hold threads and locks of an engine.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        if not here.poll(START_SECONDS):
            raise TimeoutError(f"the grading worker did not start within {START_SECONDS:.0f} s")
        here.recv()
        self._pipe, self._done = here, 0
        return here

    def close(self) -> None:
        """Kill the worker; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def verify(self, response: str, gold: str) -> Grade:
        """Are the two expressions equivalent? Undecided when the worker hangs, dies or cannot parse the gold."""
        with self._lock:
            try:
                pipe = self._pipe or self._start()
                pipe.send((response, gold))
                if not pipe.poll(self._seconds):
                    self.close()
                    return Grade(None, "expression-timeout")
                answer = pipe.recv()
            except (EOFError, OSError):
                self.close()
                return Grade(None, "expression-worker-died")
            self._done += 1
            if self._done >= TASKS_PER_WORKER:
                self.close()
        if answer == "unparsed":
            return Grade(False, "expression-unparsed")
        if isinstance(answer, str):
            return Grade(None, f"expression-error-{answer}")
        return Grade(answer, "expression-equivalent")


@functools.cache
def shared() -> Pool:
    """The process's pool, closed at exit."""
    pool = Pool()
    atexit.register(pool.close)
    return pool
