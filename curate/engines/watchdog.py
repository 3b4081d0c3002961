"""No progress, no silence: a stage whose engine answers nothing for long is helped once, then ended with its state.

What counts is the last answer to a request, of whatever kind. When there was none for the engine's `stall_minutes`, the
engine is started again and asked again for all that is under way. When that brings no answer within the same time
either, or when nothing is under way that a new engine could help with, the stage is given up: a file says which
requests wait since when and where every task and thread stands. What is finished is journalled and stays.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from curate.engines.base import Request, Sample
from curate.errors import StalledError
from curate.tables.store import write_atomic

Result = TypeVar("Result")
# So long the work of a stage that is given up has for its clean end.
_END_SECONDS = 10.0
_FRAMES = 30


class Supervised(Protocol):
    """What can be watched: an engine with what is asked of it, see `curate.engines.supervisor.Supervisor`."""

    restarts: int
    answered: int
    moved: float
    under_way: dict[asyncio.Task[list[Sample]], tuple[Request, float]]

    def hung(self, why: str) -> None:
        """Give up what the engine is asked for now, start it anew and ask again."""


async def watched(
    supervisor: Supervised, work: Coroutine[Any, Any, Result], minutes: float, folder: Path | None = None
) -> Result:
    """The result of `work`, which uses the supervisor; StalledError when it was given up. The state goes to
    `folder`.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_until_stalled(supervisor, minutes))
    limit = None
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        limit = _END_SECONDS
        raise StalledError(_message(watch.result(), minutes, _dump(supervisor, folder)))
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=limit)
            if task.done() and not task.cancelled():
                task.exception()  # seen: the stall says more


async def _until_stalled(supervisor: Supervised, minutes: float) -> str:
    """Restart once when there is no answer; ends, with what was seen, when that did not help."""
    seconds = minutes * 60
    pause = min(5.0, seconds / 5)
    helped_at = -1
    supervisor.moved = time.monotonic()
    while True:
        before = time.monotonic()
        await asyncio.sleep(pause)
        now = time.monotonic()
        # This process stood still itself: answers may wait to be taken.
        late = now - before - pause
        supervisor.moved += late if late > pause else 0.0
        if now - supervisor.moved <= seconds:
            continue
        if not supervisor.under_way:
            return "no request was made"
        if helped_at == supervisor.answered:
            return "no request was answered, not by a new engine either"
        helped_at = supervisor.answered
        supervisor.hung(f"no request was answered for {minutes:.3g} minutes")


def _message(seen: str, minutes: float, path: Path | None) -> str:
    where = f" ({path} says what it was waiting for)" if path else ""
    return (
        f"For {minutes:.3g} minutes {seen}{where}; what is finished is kept, and the same command goes on from there. "
        "Where requests take that long, raise `engine.stall_minutes`."
    )


def _dump(supervisor: Supervised, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    path = folder / f"stall-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.txt"
    write_atomic(path, state(supervisor).encode())
    return path


def state(supervisor: Supervised) -> str:
    """Everything that tells where a run stands, for people: requests under way, tasks, threads."""
    now = time.monotonic()
    out = io.StringIO()
    out.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}\n")
    out.write(f"{supervisor.answered} requests answered, nothing for {now - supervisor.moved:.0f} s; ")
    out.write(f"{supervisor.restarts} restarts of the engine; {len(supervisor.under_way)} requests under way:\n")
    for request, since in sorted(supervisor.under_way.values(), key=lambda each: each[1]):
        out.write(f"  {request.request_id}: for {now - since:.0f} s, n={request.n}, seed {request.seed}, ")
        out.write(f"prefix of {len(request.prefix_ids)} tokens, up to {request.sampling.max_tokens} new ones\n")
    tasks = asyncio.all_tasks()
    out.write(f"\n{len(tasks)} tasks:\n")
    for task in sorted(tasks, key=lambda each: each.get_name()):
        task.print_stack(limit=_FRAMES, file=out)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        out.write(f"\nThread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame, _FRAMES))}")
    return out.getvalue()
