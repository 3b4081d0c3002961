"""Servers on loopback: one that answers chat completions, hostilely now and then, and `prm serve` under requests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import fork
import generators
from bed import WORKSPACE, Case

_PATIENCE = 30.0
# So long a server may think about a request that is not whole, before it is told that nothing more comes.
_WAITS = 2.0
_STARTING = 120.0


class Answering:
    """A server in a process of its own; the file `share` in its folder says how many of its answers are hostile."""

    def __init__(self, folder: Path, seed: float) -> None:
        self._folder, self._seed, self._pid = folder, seed, 0

    def __enter__(self) -> str:
        self._folder.mkdir()
        (self._folder / "share").write_text("0")
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._pid = os.fork()
        if not self._pid:
            try:
                server.serve_forever()
            finally:
                os._exit(0)
        server.socket.close()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    def __exit__(self, *error: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        share, draw = self._folder / "share", random.Random(self._seed)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = 200, json.dumps(good := _good(asked)).encode()
                if draw.random() < float(share.read_text()):
                    status, body = generators.answer(draw, good)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        return Handler


def _good(asked: dict[str, Any]) -> dict[str, Any]:
    """Chains that the request alone decides."""
    content = asked["messages"][0]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    choices = []
    for index in range(asked.get("n", 1)):
        drawn = hashlib.sha256(f"{text} {asked['seed'] + index}".encode()).hexdigest()
        gold = re.search(r"\[gold=(\d+)\]", text)
        said = gold[1] if gold and int(drawn[0], 16) < 9 else str(int(drawn[:3], 16))
        answer = f"Step 1: I look at {drawn[:5]}.\nStep 2: I count.\nFinal answer: {said}"
        choices.append({"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}})
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": {"prompt_tokens": 12}}


class Scoring:
    """`prm serve` on the PRM of a bed; none where there is no such case."""

    def __init__(self, case: Case | None, folder: Path) -> None:
        self._case, self._folder, self._port = case, folder, 0
        self._running: fork.Running | None = None
        self._score: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._running is not None:
            self._running.end()

    def _start(self) -> None:
        assert self._case is not None
        live = shutil.copytree(self._case.before, self._folder / "served", dirs_exist_ok=True)
        words = ["prm", "serve", "seed-0", "-w", WORKSPACE, "--port", "0", "--max-megabytes", "1"]
        self._running = fork.start(words, live, self._folder / "serving")
        end = time.monotonic() + _STARTING
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self._running.said())):
            if time.monotonic() > end or self._running.poll() is not None:
                raise RuntimeError(f"prm serve does not start: {self._running.said()[-900:]}")
            time.sleep(0.05)
        self._port = int(found[1])
        self._score = self._sane()
        if self._score[0] != b"HTTP/1.1 200":
            raise RuntimeError(f"prm serve does not score: {self._score}")

    def meets(self, request: bytes) -> tuple[str, str]:
        """What the server answered to these bytes, in a word; and what was wrong with that, or with it afterwards."""
        if self._running is None or self._running.poll() is not None:
            self._start()
        try:
            answer = self._say(request)
        except TimeoutError:
            return "no answer", f"no answer in {_PATIENCE:g} s to {request[:300]!r}"
        head, _, body = answer.partition(b"\r\n\r\n")
        fault = ""
        if b"Traceback" in body or head.startswith(b"HTTP/1.1 500"):
            fault = f"{head[:40]!r} {body[:300]!r} to {request[:300]!r}"
        if not fault and self._sane() != self._score:
            fault = f"another score after {request[:300]!r}"
        word = head[:12].decode("latin-1") if head else "closed"
        return f"answered {word[9:10]}xx" if head else "closed", fault

    def _say(self, data: bytes, whole: bool = False) -> bytes:
        """The answer to these bytes; unless they are whole, a server that waits is told that there are no more."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE) as talk:
            found = b""
            try:
                talk.sendall(data)
                if not whole and not select.select([talk], [], [], _WAITS)[0]:
                    # Not before: what was asked by a client that is gone is not answered.
                    talk.shutdown(socket.SHUT_WR)
                while piece := talk.recv(2**16):
                    found += piece
            except (ConnectionError, BrokenPipeError):
                # It had seen enough.
                pass
            return found

    def _sane(self) -> Any:
        body = json.dumps({"question": "How many?", "steps": ["One.\n", "Two."]}).encode()
        head = (
            f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        status, _, found = self._say(head.encode() + body, whole=True).partition(b"\r\n\r\n")
        return status[:12], json.loads(found or b"null")
