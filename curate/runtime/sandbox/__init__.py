"""Templates of users' own, rendered in a process of their own, which can be killed and has little memory.

Jinja2's sandbox keeps a template from files and from Python's inside, but not from taking time and memory without end.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

# Wall clock for what a worker has two seconds of processor time for, and for its start, on a machine however busy.
_SECONDS = 120.0


class TemplateError(Exception):
    """A template cannot be used: what it failed with, and the line where that is known."""

    def __init__(self, said: str, line: int | None) -> None:
        super().__init__(said)
        self.line = line


class Renderer:
    """One worker, started when first asked, and again after one that was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def used(self, text: str) -> dict[str, int]:
        """The outer variables that a template uses, with the line of their first use; TemplateError otherwise."""
        return dict(self._answer(text, None)["used"])

    def render(self, text: str, values: Mapping[str, Any]) -> str:
        """The template with these values; TemplateError when it fails, takes too long, or needs too much memory."""
        return str(self._answer(text, dict(values))["text"])

    def close(self) -> None:
        """End the worker; the next template starts another."""
        with self._lock:
            self._end()

    def _answer(self, text: str, values: dict[str, Any] | None) -> dict[str, Any]:
        question = json.dumps([text, values]).encode() + b"\n"
        with self._lock:
            found = self._ask(question)
            if found is None:
                # It may have been ended while it had nothing to do; the template is not to blame the first time.
                found = self._ask(question)
        if found is None:
            raise TemplateError("it ended the program that renders it", None)
        if "error" in found:
            raise TemplateError(found["error"], found["line"])
        return found

    def _ask(self, question: bytes) -> dict[str, Any] | None:
        """The worker's answer; null when it ended without one. TemplateError when it took too long."""
        try:
            process = self._process or self._start()
            stdin = cast(IO[bytes], process.stdin)
            stdin.write(question)
            stdin.flush()
            return cast(dict[str, Any], json.loads(self._read(process)))
        except (OSError, ValueError):
            # ValueError: half an answer.
            if self._end() == -signal.SIGPROF:
                raise TemplateError("it takes too long", None) from None
            return None
        except BaseException:
            # Ctrl+C and silence: an answer that comes later would be taken for that of the next template.
            self._end()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        # -P keeps this folder out of the worker's import path.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._read(self._process)
        return self._process

    @staticmethod
    def _read(process: subprocess.Popen[bytes]) -> bytes:
        """The worker's next line; OSError when it ends, TemplateError when it is silent."""
        stdout = cast(IO[bytes], process.stdout)
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        if not poll.poll(_SECONDS * 1000):
            raise TemplateError("it takes too long", None)
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise OSError("the worker ended")
        return line

    def _end(self) -> int | None:
        """End the worker; gives how it ended."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(OSError):
            cast(IO[bytes], process.stdin).close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        cast(IO[bytes], process.stdout).close()
        return process.returncode


@functools.cache
def shared() -> Renderer:
    """The process's renderer, closed at exit."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer
