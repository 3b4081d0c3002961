"""Processes that are started here and do not hear of Ctrl+C, which a terminal sends to all of a command's processes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Processes started meanwhile inherit a mask that holds Ctrl+C off, from their first instruction on.

    What it means is for this process to say; a child that was just starting would end with a traceback. This process
    gets afterwards what came meanwhile. Python's resource tracker lifts the mask when it starts, so it goes first.
    """
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
