"""Keeps an engine alive: a dead one is restarted and its requests are asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from curate.engines.base import Engine, EngineDead, Request, RequestRejected, Sample
from curate.errors import RowError

MAX_RESTARTS = 3


class Keeper:
    """An engine that survives its own death `MAX_RESTARTS` times; a request is then asked again with its own seed."""

    def __init__(self, make: Callable[[], Engine], note: Callable[[str], None]) -> None:
        self._make, self._note = make, note
        self._engine: Engine | None = None
        self._lives = 0
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
            if self._lives >= MAX_RESTARTS:
                raise RowError("engine-dead", f"the engine died {self._lives + 1} times: {cause}")
            self._lives += 1
            self._note(f"The engine died ({cause}); starting it again ({self._lives} of {MAX_RESTARTS}).")
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
