"""The HTTP face: POST /score, GET /health, GET /info. Answers are JSON; a refusal is {"error": one sentence}."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.errors import RowError
from prm.serving.rows import Limits, RequestRefused, ServedRollout, read
from prm.serving.scorer import Batcher, Busy, RolloutScores
from prm.serving.visitors import refusal

# In which a client must have sent its body, and in which some more of it must come.
_BODY_SECONDS = 60.0
_PART_SECONDS = 10.0
# Bodies that are held at once, in largest ones.
_BODIES = 4
_RETRY = {"Retry-After": "1"}


class Service:
    """Answers with what `batcher` scores; `info` is what /info tells, of which every row repeats some."""

    def __init__(self, batcher: Batcher, info: Mapping[str, Any], limits: Limits) -> None:
        self._batcher, self._info, self._limits = batcher, dict(info), limits
        self._about = {"aggregation": info["aggregation"], "model": info["model"]}
        self._room = _BODIES * limits.body_bytes

    def app(self) -> Starlette:
        """The application; it starts the batcher and closes it in the end."""
        made = Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/health", self.health),
                Route("/info", self.tell),
            ],
            exception_handlers={RequestRefused: _refusal, HTTPException: _plain, Exception: _broken},
            lifespan=self._life,
        )
        # Else another spelling of a path would be answered by a redirect without a sentence.
        made.router.redirect_slashes = False
        return made

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.close()

    async def health(self, _: Request) -> Response:
        """200 while rows are being worked on."""
        alive = self._batcher.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def tell(self, _: Request) -> Response:
        """What is served, and the limits."""
        return JSONResponse(self._info | {"limits": vars(self._limits)})

    async def score(self, request: Request) -> Response:
        """An object gets an object, a list a list; of an object that cannot be scored the status says so."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # Which also keeps web pages of others from asking through a browser on this machine.
        if kind != "application/json":
            raise RequestRefused(415, "Send JSON, with the header Content-Type: application/json.")
        _check_length(request, self._limits.body_bytes)
        with self._holding() as hold:
            body = await _body(request, self._limits.body_bytes, hold)
            rows, many = await asyncio.to_thread(read, body, self._limits)
            del body
            scored = await self._scored(rows)
        answers = [_answer(one) | self._about for one in scored]
        if many:
            return JSONResponse(answers)
        return JSONResponse(answers[0], 500 if scored[0].failed else 422 if scored[0].error else 200)

    async def _scored(self, rows: list[ServedRollout | RowError]) -> list[RolloutScores]:
        """Scores of the rows that are sound, and the errors of the others, in order."""
        try:
            found = iter(await self._batcher.submit([row for row in rows if isinstance(row, ServedRollout)]))
        except Busy:
            raise RequestRefused(503, "Too many rows are waiting; try again in a second.") from None
        return [RolloutScores(None, None, str(row)) if isinstance(row, RowError) else next(found) for row in rows]

    @contextlib.contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Room for a body while its request is answered, taken as its bytes come; Refused when there is no more.

        Taken at once, by what a client says that it will send, it could be held by sending nothing.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size > self._room:
                raise RequestRefused(503, "Too much is being read; try again in a second.")
            self._room -= size
            held += size

        try:
            yield hold
        finally:
            self._room += held


class Door:
    """Lets requests in to `app` that ask for this server by one of its `names`, and are not of other sites' pages."""

    def __init__(self, app: Any, names: Collection[str], addresses: bool) -> None:
        self._app, self._names, self._addresses = app, frozenset(names), addresses

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one connection, as ASGI defines it."""
        if scope["type"] == "http":
            why = refusal(Headers(scope=scope), self._names, self._addresses)
            if why is not None:
                await JSONResponse({"error": why}, 403, {"Connection": "close"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _answer(scored: RolloutScores) -> dict[str, Any]:
    return {"steps": scored.steps, "score": scored.score, "error": scored.error}


def _too_large(limit: int) -> RequestRefused:
    return RequestRefused(413, f"The body is larger than {limit:,} bytes; send fewer rows, or smaller images.")


def _check_length(request: Request, limit: int) -> None:
    """Refused when the body says that it has more bytes than it may."""
    told = request.headers.get("content-length", "")
    # So many digits no limit has, and Python would not read more than some thousand.
    if told.isdecimal() and (len(told) > 18 or int(told) > limit):
        raise _too_large(limit)


async def _body(request: Request, limit: int, hold: Callable[[int], None]) -> bytes:
    parts, size = [], 0
    loop = asyncio.get_running_loop()
    ends = loop.time() + _BODY_SECONDS
    try:
        async with asyncio.timeout(_PART_SECONDS) as patience:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                hold(len(part))
                parts.append(part)
                patience.reschedule(min(ends, loop.time() + _PART_SECONDS))
    except TimeoutError:
        raise RequestRefused(
            408, f"The body came too slowly: all within {_BODY_SECONDS:g} seconds, some every {_PART_SECONDS:g}."
        ) from None
    except ClientDisconnect:
        raise RequestRefused(400, "The connection ended within the body.") from None
    return b"".join(parts)


def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)  # noqa: S101 - Starlette's type is wider than what it gives
    headers = dict(_RETRY) if error.status == 503 else {}
    # What is left of a body that was not read must not be taken for the next request.
    headers |= {"Connection": "close"} if error.status in (408, 413, 415, 503) else {}
    return JSONResponse({"error": error.sentence}, error.status, headers)


def _plain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    known = "POST /score, GET /health and GET /info"
    return JSONResponse({"error": f"{error.detail}; there are {known}."}, error.status_code, error.headers)


def _broken(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "The server failed; its log says why."}, 500)
