"""What the user sees while a stage runs: a rich bar on a terminal, plain lines elsewhere, nothing when asked for none.

Everything goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from curate.errors import printable, redacted, said
from curate.runtime.reporter import Reporter, Silent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

PLAIN_SECONDS = 10.0
# A table needs room; where standard output is no terminal there is no width to respect.
PLAIN_WIDTH = 120


def console(to_errors: bool = False) -> Console:
    """Standard output for results, or standard error.

    What data says is shown and never obeyed: no markup of rich, no control characters.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *given: Any, **more: Any) -> Iterable[Segment]:
            for segment in super().render(*given, **more):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    stream = sys.stderr if to_errors else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Plain(stderr=to_errors, width=width, markup=False, emoji=False)


def reporter(quiet: bool = False) -> Reporter:
    """The reporter that fits where standard error goes."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else PlainProgress()


class PlainProgress:
    """One plain line at the start, every ten seconds and at the end."""

    def __init__(self) -> None:
        self._stage, self._unit, self._total, self._done = "", "", 0, 0
        self._began = self._said = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._unit, self._total, self._done = stage, unit, total, 0
        self._began = self._said = time.monotonic()
        self._write(f"{stage}: {total:,} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= PLAIN_SECONDS:
            self._said = now
            self._write(self._line(now - self._began) + (f", {note}" if note else ""))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds if seconds else 0.0
        left = f"{(self._total - self._done) / rate:,.0f} s left" if rate else "unknown time left"
        share = self._done / self._total if self._total else 1.0
        return f"{self._stage}: {self._done:,} of {self._total:,} {self._unit} ({share:.0%}), {rate:,.1f}/s, {left}"

    def note(self, text: str) -> None:
        self._write(text)

    def finish(self) -> None:
        seconds = time.monotonic() - self._began
        self._write(f"{self._stage}: {self._done:,} {self._unit} in {seconds:,.1f} s")

    def done(self, stage: str, account: str) -> None:
        sys.stdout.write(f"{stage}: {account}\n")
        sys.stdout.flush()

    def show(self, result: object) -> None:
        console().print(result)

    def _write(self, text: str) -> None:
        sys.stderr.write(said(text) + "\n")
        sys.stderr.flush()


class Bar:
    """A rich progress bar with rate and time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console(to_errors=True)
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self._console,
        )
        self._task: TaskID | None = None

    def start(self, stage: str, total: int, unit: str) -> None:
        self._progress.start()
        self._task = self._progress.add_task(stage, total=total, unit=unit, rate="", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        if self._task is None:
            return
        task = self._progress.tasks[self._task]
        rate = f"{task.speed:,.1f}/s" if task.speed else ""
        self._progress.update(self._task, advance=count, rate=rate, note=note or task.fields["note"])

    def note(self, text: str) -> None:
        self._console.print(redacted(text), style="dim", highlight=False)

    def finish(self) -> None:
        self._progress.stop()
        self._task = None

    def done(self, stage: str, account: str) -> None:
        sys.stdout.write(f"{stage}: {account}\n")
        sys.stdout.flush()

    def show(self, result: object) -> None:
        console().print(result)
