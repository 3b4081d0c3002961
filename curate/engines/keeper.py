"""Keeps an engine alive: a dead one is restarted, its requests are asked again, and the next stage finds it running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeVar

from curate.engines import build
from curate.engines.base import Engine, EngineDead, Request, RequestRejected, Sample
from curate.errors import RowError
from curate.sections import EngineConfig

MAX_RESTARTS = 3
Result = TypeVar("Result")


class Keeper:
    """An engine that survives its own death `MAX_RESTARTS` times; a request is then asked again with its own seed."""

    def __init__(self, make: Callable[[], Engine], note: Callable[[str], None]) -> None:
        self._make, self._note = make, note
        self._engine: Engine | None = None
        self.restarts = 0
        """Restarts so far; set to 0 to grant them again."""
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Keeper:
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
                await dead.__aexit__(type(cause), cause, None)
            self._engine = await self._make().__aenter__()

    async def generate(self, request: Request) -> list[Sample]:
        """Samples of one request; RowError when it cannot be served, or when any of its samples is missing."""
        while True:
            engine = self._engine
            if engine is None:
                raise RuntimeError("the keeper is used outside `async with`")
            try:
                samples = await engine.generate(request)
            except RequestRejected as error:
                raise RowError("request-rejected", str(error)) from None
            except EngineDead as error:
                await self._revive(engine, error)
            else:
                broken = [sample.error or "unknown" for sample in samples if sample.finish == "error"]
                if broken:
                    raise RowError("engine-error", broken[0])
                return samples


class Engines:
    """The engine that stages of one run share, and the event loop it lives on.

    Starting vLLM takes from half a minute to many; a stage that asks for what the stage before it used gets that. One
    engine lives at a time, so two models never compete for a GPU's memory.
    """

    def __init__(self) -> None:
        self._running: tuple[EngineConfig, asyncio.Runner, Keeper] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        config: EngineConfig,
        note: Callable[[str], None],
        work: Callable[[Keeper], Coroutine[Any, Any, Result]],
    ) -> Result:
        """`work` on an engine of this configuration, started when it is not the one at hand; notes go to `note`."""
        if self._running is None or self._running[0] != config:
            self.close()
            self._running = self._start(config, note)
        _, runner, keeper = self._running
        keeper.restarts = 0
        return runner.run(work(keeper))

    def _start(self, config: EngineConfig, note: Callable[[str], None]) -> tuple[EngineConfig, asyncio.Runner, Keeper]:
        with ExitStack() as unless_started:
            runner = unless_started.enter_context(asyncio.Runner())
            keeper = Keeper(partial(build, config, note), note)
            runner.run(keeper.__aenter__())
            unless_started.pop_all()
        return config, runner, keeper

    def close(self) -> None:
        """Stop the engine, if one runs, and its loop."""
        if self._running is not None:
            (_, runner, keeper), self._running = self._running, None
            with runner:
                runner.run(keeper.__aexit__())
