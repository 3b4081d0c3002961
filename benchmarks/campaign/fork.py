"""Commands as forks of this process, which has everything imported: a real process each, started in milliseconds.

This process never reads a table itself, as libraries with threads of their own do not survive a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What still runs then hangs.
HANG_SECONDS = 120.0
_LOOK_SECONDS = 0.002


# What commands import on their way. The first of `prm` mends what torch's companions lack; transformers comes later.
_CURATE = (
    "openai", "PIL.Image", "curate.tables.catalog", "curate.cli.app", "curate.engines.simulated",
    "curate.stages.ingest.imports", "curate.stages.ingest.ingest", "curate.stages.judge.judge",
    "curate.stages.label.label", "curate.stages.overlap", "curate.inspect.plan", "curate.stages.rollout",
    "curate.stages.shard", "curate.exports.run", "prm.cli.app", "prm.stages",
)  # fmt: skip
_PRM = (
    "prm.scoring.score",
    "plotly.graph_objects",
    "prm.bench.entry",
    "prm.reporting.compare",
    "prm.serving.export",
    "prm.reporting.build",
    "prm.training.train",
)


def preload(prm: bool) -> None:
    """Import what commands import; with torch where commands of `prm` are wanted."""
    for name in (*_CURATE, *(_PRM if prm else ())):
        importlib.import_module(name)
    if prm:
        import torch

        torch.set_num_threads(1)


@dataclass
class Running:
    """A command under way; what it prints goes to a file."""

    pid: int
    output: Path
    code: int | None = None
    """Its exit code, minus the signal that ended it; null while it runs."""

    def poll(self) -> int | None:
        """`code`, looked up now."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = HANG_SECONDS) -> int | None:
        """Wait for its end so long; null where it did not come."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return self.code

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to all processes that it started, too."""
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)

    def end(self) -> None:
        """Kill what is left of it and of what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def start(words: Sequence[str], folder: Path, output: Path, hook: Callable[[], None] | None = None) -> Running:
    """Begin a command, `curate ...` or `prm ...`, in a folder; `hook` runs in its process first."""
    pid = os.fork()
    if pid:
        return Running(pid, output)
    code = 70
    try:
        os.setsid()
        _redirect(output)
        os.chdir(folder)
        # A process that it starts must not come back to the campaign's own main module.
        sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = list(words)
        if hook is not None:
            hook()
        code = _main(words[0])
    finally:
        os._exit(code)


def _redirect(output: Path) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _main(program: str) -> int:
    from curate.cli.app import main as curate
    from prm.cli.app import main as prm

    code = 1
    try:
        {"curate": curate, "prm": prm}[program]()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    return code


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, from a process of its own, through JSON; RuntimeError with its traceback."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            try:
                found = [function(*arguments), None]
            except BaseException as error:
                found = [None, [type(error).__name__, str(error), traceback.format_exc()]]
            with os.fdopen(writing, "w") as pipe:
                json.dump(found, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    if not text:
        raise RuntimeError(f"{function.__name__} ended without a word")
    result, error = json.loads(text)
    if error is not None:
        raise Failed(*error)
    return result


class Failed(RuntimeError):
    """A function that `call` ran raised; `kind` is the error's type and `sentence` its text."""

    def __init__(self, kind: str, sentence: str, trace: str) -> None:
        super().__init__(trace)
        self.kind, self.sentence = kind, sentence


def below(pid: int) -> list[int]:
    """All processes that a process started, and those that these started."""
    found = []
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *below(child)]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
