"""Any OpenAI-compatible endpoint, through chat completions; several servers share the load.

Images go as data URIs before the text, with the pixels that a model in process is shown. A prefix goes as the
beginning of the assistant's message, as text: the server renders and tokenises it anew, and nothing it returns shows
how. That it goes on from there at all is found out before the first prefix (`curate.engines.server.continuing`); that
it "continues exactly", as the other engines do, is its word (vLLM's `continue_final_message`). A chat template that
trims or rewrites an assistant's message makes labels off-policy; where that matters, use an engine in process.

Answers come as streams, because a stream shows progress: when none of a server's requests has brought a token for
`stall` seconds, the server is taken for failed, and its requests are asked again, elsewhere if there is another. One
that waits in a long queue is not in danger meanwhile. A count of tokens at `/metrics` would show the same, but only
some servers have it, and not behind every proxy. A stream has the same token ids and log-probabilities as a whole
answer. It costs the server some work per token; `stream: false` saves that, and then only `timeout` ends a request that
hangs.

What a server takes is learned from its refusals, for each server on its own (`curate.engines.server.request`). One that
gives fewer samples than it is asked for is asked again for the others, each from its own seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.images import Sent
from curate.engines.server.answer import AnswerRefused, ChatAnswer, Unusable
from curate.engines.server.continuing import Verdict, find_out
from curate.engines.server.endpoints import Endpoint, Endpoints, retry_after
from curate.engines.server.refusals import read, without
from curate.engines.server.request import Dialect
from curate.errors import UserError, did_you_mean
from curate.recipe.sections import EngineConfig
from curate.runtime import installed

_DEFAULTS: dict[str, Any] = {
    "retries": 6, "backoff": 1.0, "timeout": 600.0, "stall": 180.0, "rest": 30.0, "stream": True, "token_ids": True,
    "logprobs": True, "seed": True, "continues": False,
}  # fmt: skip
# Settings that keep a parameter from being sent.
_LEFT_OUT = {"stream": "stream", "token_ids": "return_token_ids", "logprobs": "logprobs", "seed": "seed"}
_MAX_WAIT = 60.0
_CONNECT_SECONDS = 10.0
# Of an error, as much is read.
_MAX_ERROR = 2**16
# About this server, not about this request; with several servers another one may be right.
_REDIRECTS = (301, 302, 303, 307, 308)
_ELSEWHERE = (*_REDIRECTS, 401, 402, 403, 404)
_ODD = {
    "reasoning": "gives answers that are nothing but thoughts; they are taken for the answers themselves",
    "token_ids": "gives token ids that are none; they are left out",
    "logprobs": "gives log-probabilities that are none; they are left out",
    "prompt_tokens": "gives counts of prompt tokens that cannot be right; they are left out",
    "completion_tokens": "gives counts of tokens that cannot be right; they are left out",
}


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
    and `logprobs`, whether to ask for them (both true; left out by itself for servers that refuse them), `seed` (true;
    false for servers that take none: samples cannot be drawn again then), `continues` (false; true for servers that are
    known to go on from the beginning of an answer, where that cannot be found out). The key is the environment variable
    OPENAI_API_KEY; it is sent to no other address than these, so redirects are not followed.
    """

    uses = frozenset({"urls", "max_pixels"})

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
        # One request that becomes several must not be more than the server is to have at once.
        self._gate = asyncio.Semaphore(config.in_flight)
        self._key = ""

    async def __aenter__(self) -> ServerEngine:
        """Make ready to connect; UserError when the client is not installed."""
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
        except ImportError:
            raise UserError("The server engine needs the package openai; install curate-prm[server].") from None
        self._key = os.environ.get("OPENAI_API_KEY") or ""
        seconds = float(self._args["timeout"])
        timeout = Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        left_out = {name for setting, name in _LEFT_OUT.items() if not self._args[setting]}
        # Retries are made here, where their waits are drawn from the request's seed.
        places = [
            Endpoint(
                url,
                AsyncOpenAI(
                    base_url=url,
                    api_key=self._key or "EMPTY",
                    timeout=timeout,
                    max_retries=0,
                    http_client=DefaultAsyncHttpxClient(
                        follow_redirects=False, timeout=timeout, event_hooks={"response": [_stop_at_errors]}
                    ),
                ),
                dialect=Dialect(set(left_out)),
                goes_on=bool(self._args["continues"]),
            )
            for url in self._config.urls
        ]
        self._servers = Endpoints(places, float(self._args["rest"]), self._note)
        if self._args["stream"]:
            self._watch = asyncio.create_task(self._servers.watch(float(self._args["stall"])))
        self._note(f"Engine: {self._config.model} at {', '.join(place.name for place in places)}.")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        (servers, self._servers), (watch, self._watch) = (self._servers, None), (self._watch, None)
        if watch is not None:
            watch.cancel()
        for place in servers.every if servers is not None else ():
            await place.client.close()

    def versions(self) -> dict[str, str]:
        """Version of the client, the model's name as the server knows it, and the parameters that it was not sent.

        The server's own version is unknown.
        """
        places = self._servers.every if self._servers is not None else ()
        left_out = sorted({name for place in places for name in place.dialect.left_out})
        known = {"openai": installed.version("openai") or "none", "model": self._config.model}
        return known | ({"not sent": ", ".join(left_out)} if left_out else {})

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order.

        RequestRejected when the server refuses this request, or still fails after the last retry; UserError when it
        takes no such requests at all. `token_ids` and `token_ends` are empty where the server does not return them,
        `mean_logprob`, `prompt_tokens` and the count of tokens are null then.
        """
        if request.prefix_ids and not request.prefix_text:
            raise RequestRejected("a server continues from text, and the request has its prefix as token ids only")
        if self._servers is None:
            raise EngineDead("the connections are closed")
        return await self._draw(self._servers, request, 0, request.n)

    async def _draw(self, servers: Endpoints, request: Request, first: int, count: int) -> list[Sample]:
        """`count` samples from the `first` on: as many by one answer as it brings, the others by further ones."""
        maximum = max(place.dialect.maximum for place in servers.every)
        came = await self._persist(servers, request, first, count) if count <= maximum else []
        size, end = min(maximum, len(came) or maximum), first + count
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._draw(servers, request, at, min(size, end - at)))
                    for at in range(first + len(came), end, size)
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [*came, *(sample for task in tasks for sample in task.result())]

    async def _persist(self, servers: Endpoints, request: Request, first: int, count: int) -> list[Sample]:
        """Ask, and ask again while the failure is one that passes: 429, 5xx, time-out, stall, a broken connection."""
        jitter = random.Random(request.seed + first)
        place, failure, tries = None, "", int(self._args["retries"]) + 1
        for attempt in range(tries):
            if attempt:
                wait = min(_MAX_WAIT, float(self._args["backoff"]) * 2 ** (attempt - 1))
                await asyncio.sleep(wait * (0.5 + jitter.random()))
            place = await servers.pick(place)
            try:
                if request.prefix_text and not place.goes_on:
                    await self._see_whether_it_goes_on(servers, place, request)
                samples = await self._ask(servers, place, request, first, count)
            except _Failure as error:
                failure = without(str(error), self._key)
                if error.strike:
                    servers.failed(place, failure)
            else:
                servers.answered(place)
                return [_without_beginning(each, request) for each in samples] if place.repeats else samples
        raise RequestRejected(f"the server failed {tries} times: {failure}"[:500])

    async def _see_whether_it_goes_on(self, servers: Endpoints, place: Endpoint, request: Request) -> None:
        """UserError unless a server was seen to go on from a given beginning."""

        async def draw(asked: Request) -> Sample:
            try:
                return (await self._ask(servers, place, asked, 0, 1))[0]
            except UserError as error:
                # It does not take greedy sampling.
                raise RequestRejected(str(error)) from None

        async with place.lock:
            if place.goes_on:
                return
            verdict, words = await find_out(draw, request)
            if verdict not in (Verdict.GOES_ON, Verdict.REPEATS):
                sure = ", or set engine.args.continues: true if you know that it goes on"
                raise UserError(
                    f"The server {place.name} was given the beginning of an answer and {verdict.value} "
                    f'("{words}"), so labels of steps from it would be wrong; use an engine in process or a server '
                    f"that takes continue_final_message{sure if verdict is Verdict.UNKNOWN else ''}."
                )
            place.goes_on, place.repeats = True, verdict is Verdict.REPEATS

    async def _ask(
        self, servers: Endpoints, place: Endpoint, request: Request, first: int, maximum: int
    ) -> list[Sample]:
        """Ask a server for `most` samples in the form that it takes, and learn that form from what it refuses.

        _Failure, RequestRejected, or UserError. Each round leaves something out, so there are few.
        """
        dialect, images = place.dialect, [self._sent(image) for image in request.images]
        while True:
            count = min(maximum, dialect.maximum)
            body = dialect.body(self._config.model, request, first, count, images)
            answer = ChatAnswer(count, request.sampling.max_tokens)
            try:
                await self._try(place, body, answer)
                if answer.mixed:
                    dialect.maximum = 1
                    servers.tell(
                        place, "does not say which samples are which; each is asked for by a request of its own"
                    )
                    continue
                samples = answer.samples(dialect.seeds(request, first, count))
            except Unusable as error:
                raise _Failure(f"its answer cannot be used: {error}") from None
            except AnswerRefused as error:
                self._learn_from(servers, place, error, body)
                continue
            place.streams = answer.streamed
            for name in answer.odd:
                servers.tell(place, _ODD[name])
            if len(samples) < count:
                dialect.maximum = min(dialect.maximum, len(samples))
                servers.tell(place, f"gives {len(samples)} of {count} samples; the others are asked for one by one")
            return samples

    def _learn_from(self, servers: Endpoints, place: Endpoint, error: AnswerRefused, body: dict[str, Any]) -> None:
        """Learn from a refusal. Where there is nothing to learn: _Failure if it passes, RequestRejected, UserError."""
        refusal = read(error.status, error.tree, self._key)
        if refusal.of_parameters:
            learned = place.dialect.learn(refusal, body)
            for each in learned:
                servers.tell(place, each, f" ({refusal.sentence})")
            if learned:
                return
        failure = refusal.sentence if not refusal.status else f"HTTP {refusal.status}: {refusal.sentence}"
        if refusal.status in _REDIRECTS:
            failure += "; redirects are not followed, engine.urls needs the address itself"
        if refusal.status == 404 and "model" not in refusal.text.lower():
            failure += "; engine.urls are base URLs, such as http://localhost:8000/v1"
        elsewhere = len(servers.every) > 1 and refusal.status in _ELSEWHERE
        if refusal.passes or elsewhere:
            wait = retry_after(error.headers)
            if wait is not None:
                place.rest_for(wait)
            # One that says when to come back, or that it has too much to do, is well.
            raise _Failure(failure, strike=wait is None and refusal.status != 429)
        cure = place.dialect.needed(refusal, body)
        if cure and not place.proven:
            raise UserError(
                f"The server {place.name} refuses a setting ({refusal.sentence}), and without it other samples would "
                f"be drawn; {cure}."
            )
        raise RequestRejected(f"the server refused: {failure}"[:500])

    async def _try(self, place: Endpoint, body: dict[str, Any], answer: ChatAnswer) -> None:
        """Send one request and take in its answer; _Failure, Unusable, or Refused."""
        from openai import APIConnectionError

        async with self._gate:
            deadline = asyncio.timeout(float(self._args["timeout"]))
            begun = time.monotonic()
            try:
                async with deadline:
                    place.begin(deadline)
                    await self._take_in(place, body, answer)
            except TimeoutError:
                if place.stalled >= begun:
                    raise _Failure(f"it brought no token for {self._args['stall']:g} s", strike=False) from None
                raise _Failure(f"it took longer than {self._args['timeout']:g} s") from None
            except APIConnectionError as error:
                if isinstance(error.__cause__, AnswerRefused):
                    raise error.__cause__ from None
                raise _Failure(str(error.__cause__ or error) or type(error).__name__) from None
            finally:
                place.tries.discard(deadline)

    async def _take_in(self, place: Endpoint, body: dict[str, Any], answer: ChatAnswer) -> None:
        # The raw bytes: the client's own parsing of every token's chunk takes several times as long.
        async with place.client.chat.completions.with_streaming_response.create(
            model=body["model"],
            messages=body["messages"],
            extra_body={name: value for name, value in body.items() if name not in ("model", "messages")},
        ) as response:
            async for data in _bytes(response):
                if answer.feed(data):
                    place.moved = time.monotonic()
            answer.close()


async def _stop_at_errors(response: Any) -> None:
    """Refused for an answer that is an error; the client would read all of it, however long it is."""
    if response.is_success:
        return
    said = b""
    async for piece in response.aiter_bytes():
        said += piece
        if len(said) > _MAX_ERROR:
            break
    raise AnswerRefused(said.decode(errors="replace"), response.status_code, response.headers)


async def _bytes(response: Any) -> AsyncIterator[bytes]:
    """The bytes of a body; _Failure when the connection breaks."""
    pieces = response.iter_bytes()
    while True:
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except Exception as error:  # of the HTTP library below the client, which is not the same in every version
            raise _Failure(str(error) or type(error).__name__) from error
        yield piece


def _without_beginning(sample: Sample, request: Request) -> Sample:
    """A sample of a server that says the beginning again, without it; its tokens are not known apart."""
    text = sample.text.lstrip()
    if not text.startswith(request.prefix_text.strip()):
        return sample
    rest = text[len(request.prefix_text) :] if text.startswith(request.prefix_text) else ""
    rest = rest or text[len(request.prefix_text.strip()) :].lstrip()
    return replace(sample, text=rest, token_ids=[], token_ends=[], tokens=sample.count())
