"""A hook that counts what a command writes below a folder, and does something at the n-th time.

A write is: a file opened to be written, renamed, deleted or cut, a folder made or deleted, and what was written brought
to the disk. The hook runs before it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"})


def watch(root: Path, act: Callable[[int, str], None]) -> None:
    """From now on, call `act(number, what)` before each write below `root` in this process."""
    count = [0]
    head = str(root.resolve())
    busy = [False]

    def wrote(what: str) -> None:
        if busy[0]:
            return
        busy[0] = True
        try:
            count[0] += 1
            act(count[0], what)
        finally:
            busy[0] = False

    def inside(path: Any) -> bool:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(head)  # noqa: PTH100 - without links

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and inside(path):
                wrote(f"open {path}")
        elif event in _EVENTS and inside(arguments[0]):
            wrote(f"{event} {arguments[0]}")

    sync = os.fsync

    def counted(handle: int) -> None:
        wrote("fsync")
        sync(handle)

    os.fsync = counted
    sys.addaudithook(audit)
