"""Ctrl+C while a run is under way: the step is finished, the state saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from curate.errors import asked


class TrainingStop:
    """First Ctrl+C: stop after this step, with the state saved. Second: at once."""

    asked = False

    def __call__(self, number: int, *_: object) -> None:
        asked(number)
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stopping() -> Iterator[TrainingStop]:
    """SIGINT and SIGTERM ask this `TrainingStop` meanwhile."""
    stop = TrainingStop()
    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Not in the main thread: whoever runs us there handles signals.
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
