"""Servers on loopback that answer each chat completion by a script, and the server engine against them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from curate.engines import build
from curate.engines.base import Request, Sampling
from curate.recipe.sections import EngineConfig

Fault = Callable[["Call"], None]


class Call:
    """One request to a server: its number there, its body, and ways to answer it."""

    def __init__(
        self, handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any], over: threading.Event
    ) -> None:
        self.handler, self.number, self.body, self.over = handler, number, body, over

    def head(self, status: int = 200, kind: str = "text/event-stream", **headers: object) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), str(value))
        self.handler.end_headers()

    def send(self, *chunks: dict[str, Any]) -> None:
        for chunk in chunks:
            self.handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.handler.wfile.flush()

    def fail(self, status: int, **headers: object) -> None:
        data = json.dumps({"error": {"message": "no"}}).encode()
        self.head(status, "application/json", Content_Length=len(data), **headers)
        self.handler.wfile.write(data)

    def whole(self, answer: object) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.head(200, "application/json", Content_Length=len(data))
        self.handler.wfile.write(data)

    def hang(self) -> None:
        self.over.wait(30)


def text_of(seed: int) -> str:
    return f"Step 1: é{seed}.\nFinal answer: {seed % 10}"


def piece(index: int, text: str = "", ids: list[int] | None = None, finish: str | None = None) -> dict[str, Any]:
    entries = [
        {"token": letter, "logprob": -0.25, "bytes": list(letter.encode()), "top_logprobs": []} for letter in text
    ] or [{"token": "<end>", "logprob": -0.25, "bytes": [], "top_logprobs": []}] * len(ids or ())
    return {
        "index": index,
        "delta": {"content": text},
        "token_ids": [ord(letter) for letter in text] or ids,
        "logprobs": {"content": entries},
        "finish_reason": finish,
    }


def chunks(body: dict[str, Any], n: int | None = None) -> list[dict[str, Any]]:
    """All pieces of the right answer, the samples' taking turns, as a server sends them."""
    count = body["n"] if n is None else n
    texts = [text_of(body["seed"] + index) for index in range(count)]
    found: list[dict[str, Any]] = [
        {"choices": [{"index": i, "delta": {"role": "assistant", "content": ""}} for i in range(count)]}
    ]
    for place in range(max(map(len, texts), default=0)):
        found += [{"choices": [piece(i, text[place])]} for i, text in enumerate(texts) if place < len(text)]
    found += [{"choices": [piece(i, ids=[2], finish="stop")]} for i in range(count)]
    return [*found, {"choices": [], "usage": {"prompt_tokens": 9}}]


def right(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body))
    call.handler.wfile.write(b": a comment\n\ndata: [DONE]\n\n")


class Server:
    """A server on loopback that answers each call by `script`."""

    def __init__(self, script: Fault) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.over = threading.Event()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.times.append(time.monotonic())
                    number = len(outer.bodies)
                with contextlib.suppress(OSError):  # the client has gone
                    script(Call(self, number, body, outer.over))

            def log_message(self, *_: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None: ...

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def ask(number: int, n: int = 3) -> Request:
    return Request(f"{number}", "Why?", (), (), n, 256 * number, Sampling(1.0, 1.0, 0, 50))


def served(urls: list[str], requests: list[Request], notes: list[str] | None = None, **args: Any) -> list[Any]:
    quick = {"backoff": 0.01, "stall": 0.5, "rest": 0.3}
    in_flight = args.pop("in_flight", 128)
    config = EngineConfig(kind="server", model="m", urls=tuple(urls), args=quick | args, in_flight=in_flight)

    async def run() -> list[Any]:
        async with build(config, (notes if notes is not None else []).append) as engine:
            return await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)

    return asyncio.run(run())


def expected(request: Request) -> list[str]:
    return [text_of(request.seed + index) for index in range(request.n)]


def texts(answer: Any) -> list[str]:
    assert isinstance(answer, list), answer
    return [sample.text for sample in answer]
