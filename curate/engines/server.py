"""Any OpenAI-compatible endpoint, through chat completions; several servers share the load.

Pictures go as data URIs before the text, with the pixels that a model in process is shown. A prefix goes as the
beginning of the assistant's message, as text: the server renders and tokenises it anew, and nothing it returns shows
how, so here, unlike in the other engines, "continues exactly" is the server's word (vLLM's `continue_final_message`). A
chat template that trims or rewrites an assistant's message makes labels off-policy; where that matters, use an engine
in process.

Answers come as streams, because a stream shows progress: when none of a server's requests has brought a token for
`stall` seconds, the server is taken for failed, and its requests are asked again, elsewhere if there is another. One
that waits in a long queue is not in danger meanwhile. A count of tokens at `/metrics` would show the same, but only
some servers have it, and not behind every proxy. A stream has the same token ids and log-probabilities as a whole
answer. It costs the server some work per token; `stream: false` saves that, and then only `timeout` ends a request that
hangs.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from curate.config import did_you_mean
from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.chat_answer import Answer, Unusable
from curate.engines.endpoints import Endpoint, Endpoints, retry_after
from curate.engines.pictures import Sent
from curate.errors import UserError
from curate.sections import EngineConfig

_DEFAULTS: dict[str, Any] = {
    "retries": 6, "backoff": 1.0, "timeout": 600.0, "stall": 180.0, "rest": 30.0, "stream": True, "token_ids": True,
    "logprobs": True,
}  # fmt: skip
_MAX_WAIT = 60.0
_CONNECT_SECONDS = 10.0
# About this server, not about this request; with several servers another one may be right.
_ELSEWHERE = (401, 403, 404)


class _Failure(Exception):
    """One try that came to nothing; `strike` when it speaks against the server."""

    def __init__(self, why: str, strike: bool = True) -> None:
        super().__init__(why)
        self.strike = strike


class ServerEngine:
    """An engine on `config.urls`; the one with the fewest requests under way is asked next.

    A server that fails three times in a row is set aside for `rest` seconds (30, doubled each time), then tried again
    by one request. `config.args` besides: `retries` after the first try (6), `backoff` seconds before the first of them
    (1.0, doubled each time, with jitter; a server's `Retry-After` goes before it), `timeout` of one try in seconds
    (600), `stall` seconds without any token after which a server counts as failed (180), `stream` (true), `token_ids`
    and `logprobs`, whether to ask for them (both true; set false for servers that refuse the fields). The key is the
    environment variable OPENAI_API_KEY.
    """

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        for name in config.args:
            if name not in _DEFAULTS:
                raise UserError(f'The server engine has no argument "{name}"{did_you_mean(name, list(_DEFAULTS))}')
        if not config.urls:
            raise UserError("The server engine needs `engine.urls`, such as [http://localhost:8000/v1].")
        self._config, self._note = config, on_note
        self._args, self._sent = _DEFAULTS | config.args, Sent(config.max_pixels)
        if "stall" in config.args and not self._args["stream"]:
            raise UserError("engine.args.stall has no effect with stream: false; leave one of them out.")
        self._servers: Endpoints | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ServerEngine:
        """Make ready to connect; UserError when the client is not installed."""
        try:
            from openai import AsyncOpenAI, Timeout
        except ImportError:
            raise UserError("The server engine needs the package openai; install curate-prm[server].") from None
        key = os.environ.get("OPENAI_API_KEY") or "EMPTY"
        seconds = float(self._args["timeout"])
        timeout = Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        # Retries are made here, where their waits are drawn from the request's seed.
        places = [
            Endpoint(url, AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0))
            for url in self._config.urls
        ]
        self._servers = Endpoints(places, float(self._args["rest"]), self._note)
        if self._args["stream"]:
            self._watch = asyncio.create_task(self._servers.watch(float(self._args["stall"])))
        self._note(f"Engine: {self._config.model} at {', '.join(self._config.urls)}.")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        (servers, self._servers), (watch, self._watch) = (self._servers, None), (self._watch, None)
        if watch is not None:
            watch.cancel()
        for place in servers.every if servers is not None else ():
            await place.client.close()

    def versions(self) -> dict[str, str]:
        """Version of the client, and the model's name as the server knows it; the server's own version is unknown."""
        return {"openai": importlib.metadata.version("openai"), "model": self._config.model}

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order.

        RequestRejected when the server refuses this request, or still fails after the last retry. `token_ids` and
        `token_ends` are empty where the server does not return them, `mean_logprob` is null then.
        """
        if request.prefix_ids and not request.prefix_text:
            raise RequestRejected("a server continues from text, and the request has its prefix as token ids only")
        if self._servers is None:
            raise EngineDead("the connections are closed")
        return await self._persist(self._servers, request, self._body(request))

    async def _persist(self, servers: Endpoints, request: Request, body: dict[str, Any]) -> list[Sample]:
        """Ask, and ask again while the failure is one that passes: 429, 5xx, time-out, stall, a broken connection."""
        jitter = random.Random(request.seed)
        place, failure, tries = None, "", int(self._args["retries"]) + 1
        for attempt in range(tries):
            if attempt:
                wait = min(_MAX_WAIT, float(self._args["backoff"]) * 2 ** (attempt - 1))
                await asyncio.sleep(wait * (0.5 + jitter.random()))
            place = await servers.pick(place)
            try:
                samples = await self._try(place, request, body, len(servers.every) > 1)
            except _Failure as error:
                failure = str(error)
                if error.strike:
                    servers.failed(place, failure)
            else:
                servers.answered(place)
                return samples
        raise RequestRejected(f"the server failed {tries} times: {failure}"[:500])

    async def _try(self, place: Endpoint, request: Request, body: dict[str, Any], others: bool) -> list[Sample]:
        """One try at one server; _Failure or RequestRejected."""
        from openai import APIConnectionError, APIStatusError

        deadline = asyncio.timeout(float(self._args["timeout"]))
        begun = time.monotonic()
        try:
            async with deadline:
                place.begin(deadline)
                answer, streamed = await self._answer(place, body)
                samples = answer.samples(request.n)
                place.streams = streamed
                return samples
        except Unusable as error:
            raise _Failure(f"its answer cannot be used: {error}") from None
        except TimeoutError:
            if place.stalled >= begun:
                raise _Failure(f"it brought no token for {self._args['stall']:g} s", strike=False) from None
            raise _Failure(f"it took longer than {self._args['timeout']:g} s") from None
        except APIStatusError as error:
            status, failure = error.status_code, f"HTTP {error.status_code}: {error.message}"
            if status not in (408, 409, 429) and status < 500 and not (others and status in _ELSEWHERE):
                raise RequestRejected(f"the server refused: {failure}"[:500]) from error
            wait = retry_after(error.response.headers)
            if wait is not None:
                place.rest_for(wait)
            # One that says when to come back, or that it has too much to do, is well.
            raise _Failure(failure, strike=wait is None and status != 429) from error
        except APIConnectionError as error:
            raise _Failure(str(error) or type(error).__name__) from error
        finally:
            place.tries.discard(deadline)

    async def _answer(self, place: Endpoint, body: dict[str, Any]) -> tuple[Answer, bool]:
        """What came, and whether it came as a stream."""
        answer = Answer()
        # The raw lines: the client's own parsing of every token's chunk takes several times as long.
        async with place.client.chat.completions.with_streaming_response.create(**body) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                answer.add("\n".join([line async for line in _lines(response)]))
                return answer, False
            async for line in _lines(response):
                if answer.line(line):
                    place.moved = time.monotonic()
        return answer, True

    def _body(self, request: Request) -> dict[str, Any]:
        given, extra = request.sampling, dict[str, Any]()
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": self._sent(image)}} for image in request.images
        ]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [*parts, {"type": "text", "text": request.prompt}]},
        ]
        if request.prefix_text:
            messages.append({"role": "assistant", "content": request.prefix_text})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        # Only where they say something: other servers refuse what they do not know.
        if given.top_k:
            extra["top_k"] = given.top_k
        if given.repetition_penalty != 1.0:
            extra["repetition_penalty"] = given.repetition_penalty
        if self._args["token_ids"]:
            extra["return_token_ids"] = True
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "n": request.n,
            "seed": request.seed,
            "temperature": given.temperature,
            "top_p": given.top_p,
            "max_tokens": given.max_tokens,
            "extra_body": extra,
        }
        if self._args["stream"]:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body | ({"logprobs": True} if self._args["logprobs"] else {})


async def _lines(response: Any) -> AsyncIterator[str]:
    """The lines of a body; _Failure when the connection breaks."""
    lines = response.iter_lines()
    while True:
        try:
            line = await anext(lines)
        except StopAsyncIteration:
            return
        except Exception as error:  # of the HTTP library below the client, which is not the same in every version
            raise _Failure(str(error) or type(error).__name__) from error
        yield line
