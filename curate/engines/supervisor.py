"""Keeps an engine alive: one that died or hangs is restarted, its requests are asked again, the next stage finds it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from curate.engines import build
from curate.engines.base import Engine, EngineDead, Request, RequestRejected, Sample
from curate.engines.watchdog import watched
from curate.errors import RowError, StalledError
from curate.recipe.sections import EngineConfig

MAX_RESTARTS = 3
# An engine that hangs may not stop either.
_STOP_SECONDS = 30.0
# Objects made before the collector looks for cycles among them, instead of 700: requests under way are many and short.
_YOUNG = 10_000
Result = TypeVar("Result")


@contextmanager
def _heap_left_alone() -> Iterator[None]:
    """What exists now is not searched for garbage meanwhile: vLLM, torch and transformers are a million objects, and
    each look at them stops the loop for half a second, a tenth of a stage's time altogether.
    """
    before = gc.get_threshold()
    gc.set_threshold(_YOUNG, *before[1:])
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


class Supervisor:
    """An engine that survives its own death `MAX_RESTARTS` times; a request is then asked again with its own seed."""

    def __init__(self, make: Callable[[], Engine], note: Callable[[str], None]) -> None:
        self._make, self._note = make, note
        self._engine: Engine | None = None
        self.restarts = 0
        """Restarts so far; set to 0 to grant them again."""
        self.answered = 0
        """Requests that got their samples, or their refusal."""
        self.moved = time.monotonic()
        """When the last of them did, or since when there are any to answer."""
        self.under_way: dict[asyncio.Task[list[Sample]], tuple[Request, float]] = {}
        """What the engine is asked for now, and since when."""
        self._hung: dict[asyncio.Task[list[Sample]], str] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Supervisor:
        self._engine = await self._make().__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._engine is not None:
            await self._engine.__aexit__(*error)

    def versions(self) -> dict[str, str]:
        """Versions of the engine at hand."""
        return self._engine.versions() if self._engine is not None else {}

    async def _revive(self, dead: Engine | None, cause: EngineDead) -> None:
        async with self._lock:
            if self._engine is not dead:
                return  # somebody else has done it
            if self.restarts >= MAX_RESTARTS:
                raise RowError("engine-dead", f"the engine died {self.restarts + 1} times: {cause}")
            self.restarts += 1
            self._note(f"The engine died ({cause}); starting it again ({self.restarts} of {MAX_RESTARTS}).")
            if dead is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_SECONDS):
                        await dead.__aexit__(type(cause), cause, None)
            self._engine = await self._make().__aenter__()
            self.moved = time.monotonic()

    def hung(self, why: str) -> None:
        """Give up what the engine is asked for now: it counts as dead, is started again and asked again."""
        for task in list(self.under_way):
            self._hung[task] = why
            task.cancel()

    async def _ask(self, engine: Engine, request: Request) -> list[Sample]:
        """The engine's answer; EngineDead also when it was given up meanwhile."""
        if not self.under_way:
            self.moved = time.monotonic()
        task = asyncio.ensure_future(engine.generate(request))
        self.under_way[task] = request, time.monotonic()
        try:
            samples = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task in self._hung and current is not None and not current.cancelling():
                raise EngineDead(self._hung[task]) from None
            raise
        except RequestRejected:
            self._count()
            raise
        else:
            self._count()
            return samples
        finally:
            del self.under_way[task]
            self._hung.pop(task, None)

    def _count(self) -> None:
        self.answered += 1
        self.moved = time.monotonic()

    async def generate(self, request: Request) -> list[Sample]:
        """Samples of one request; RowError when it cannot be served, or when any of its samples is missing."""
        while True:
            engine = self._engine
            if engine is None:
                raise RuntimeError("the supervisor is used outside `async with`")
            try:
                samples = await self._ask(engine, request)
            except RequestRejected as error:
                raise RowError("request-rejected", str(error)) from None
            except EngineDead as error:
                await self._revive(engine, error)
            else:
                broken = [sample.error or "unknown" for sample in samples if sample.finish == "error"]
                if broken:
                    raise RowError("engine-error", broken[0])
                return samples


def _close(runner: asyncio.Runner, error: BaseException | None = None) -> None:
    """Close the loop, but after Ctrl+C: that would wait for threads, one of which may be starting an engine."""
    if not isinstance(error, KeyboardInterrupt):
        runner.close()


class Engines:
    """The engine that stages of one run share, and the event loop it lives on.

    Starting vLLM takes from half a minute to many; a stage that asks for what the stage before it used gets that. One
    engine lives at a time, so two models never compete for a GPU's memory. The state of a stage that was given up goes
    to `folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._running: tuple[EngineConfig, asyncio.Runner, Supervisor] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        config: EngineConfig,
        note: Callable[[str], None],
        work: Callable[[Supervisor], Coroutine[Any, Any, Result]],
    ) -> Result:
        """`work` on an engine of this configuration, started when it is not the one at hand; notes go to `note`.

        StalledError when nothing was answered for `config.stall_minutes`, twice, see `curate.engines.watchdog`.
        """
        if self._running is None or self._running[0] != config:
            self.close()
            self._running = self._start(config, note)
        _, runner, supervisor = self._running
        supervisor.restarts = 0
        try:
            with _heap_left_alone():
                return runner.run(watched(supervisor, work(supervisor), config.stall_minutes, self._folder))
        except StalledError:
            self._abandon(runner, supervisor)
            raise

    def _start(
        self, config: EngineConfig, note: Callable[[str], None]
    ) -> tuple[EngineConfig, asyncio.Runner, Supervisor]:
        runner, supervisor = asyncio.Runner(), Supervisor(partial(build, config, note), note)
        try:
            runner.run(supervisor.__aenter__())
        except BaseException as error:
            _close(runner, error)
            raise
        return config, runner, supervisor

    def _abandon(self, runner: asyncio.Runner, supervisor: Supervisor) -> None:
        """Stop an engine that hangs as far as it can be stopped. The loop stays open: closing it waits for threads."""
        self._running = None

        async def stop() -> None:
            await asyncio.wait({asyncio.ensure_future(supervisor.__aexit__())}, timeout=_STOP_SECONDS)

        runner.run(stop())

    def close(self) -> None:
        """Stop the engine, if one runs, and its loop."""
        if self._running is not None:
            (_, runner, supervisor), self._running = self._running, None
            try:
                runner.run(supervisor.__aexit__())
            except BaseException as error:
                _close(runner, error)
                raise
            _close(runner)
