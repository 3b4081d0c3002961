"""One writer at a time: a command that writes to a workspace holds a lock on it until it ends.

The lock is `flock` on `writer.lock` in the workspace, so the kernel gives it back when the command ends, however it
ends. Who holds it stands in that file. Whoever only reads does not lock and never waits.

A process that a command starts does not hold the lock, so that an engine which outlives its killed command keeps nobody
out. One that writes itself takes a `Share` of it: then the lock is free when the last of them has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curate.errors import UserError, redacted

FILE = "writer.lock"
# What a killed command's own processes take at most to see that it is gone.
_ENDING_SECONDS = 2.0
_LOOK_SECONDS = 0.1
# What a kernel or a network file system says where it has no such locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@dataclass
class _HeldLock:
    """A lock of this process: its descriptor (null where the file system has no locks) and how many blocks hold it."""

    descriptor: int | None
    count: int = 1


_held: dict[Path, _HeldLock] = {}


def _forget() -> None:
    """In a forked child: the lock is its parent's."""
    for held in _held.values():
        if held.descriptor is not None:
            os.close(held.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Around everything that writes to the workspace at `root`, whose folder is there; may be nested.

    UserError at once when another command writes to it: who that is, since when, and what to do.
    """
    place = root.resolve()
    held = _held.get(place)
    if held is None:
        held = _held[place] = _HeldLock(_taken(place), 0)
    held.count += 1
    try:
        yield
    finally:
        held.count -= 1
        # In a forked child it is another process's by now.
        if held.count == 0 and _held.get(place) is held:
            del _held[place]
            if held.descriptor is not None:
                os.close(held.descriptor)


def holds(root: Path) -> bool:
    """Whether this process holds the lock of the workspace at `root`, or would if there were locks."""
    return root.resolve() in _held


class Share:
    """The lock of this process, for one that it starts by `multiprocessing` and that writes, too."""

    def __init__(self, root: Path) -> None:
        held = _held.get(root.resolve())
        self._root, self._passed = root, None if held is None else held.descriptor

    def __getstate__(self) -> dict[str, Any]:
        from multiprocessing.reduction import DupFd

        return {"_root": self._root, "_passed": None if self._passed is None else DupFd(self._passed)}

    def take(self) -> None:
        """In the process that was started: hold the lock until it ends."""
        descriptor = None if self._passed is None else self._passed.detach()  # type: ignore[attr-defined]
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
        _held[self._root.resolve()] = _HeldLock(descriptor)


def _taken(root: Path) -> int | None:
    """The descriptor of a lock that is held now; null, said aloud, where the file system has no locks."""
    path, end = root / FILE, time.monotonic() + _ENDING_SECONDS
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BlockingIOError:
            who = _holder(descriptor)
            if not _gone(who) or time.monotonic() > end:
                os.close(descriptor)
                raise UserError(_refusal(root, who)) from None
            time.sleep(_LOOK_SECONDS)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise UserError(f"{path} cannot be locked ({error.strerror}); choose another --workspace.") from None
            sys.stderr.write(
                f"The file system of {root} has no locks (flock: {error.strerror}), so nothing keeps two commands from "
                "writing to this workspace at once; run one at a time.\n"
            )
            return None
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free some space, or choose another --workspace, and run "
            "again."
        ) from None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file is still the one at this path: somebody may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write down who holds the lock."""
    try:
        who = {
            "command": redacted(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
            "pid": os.getpid(),
            "user": _user(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
    except OSError:
        # On a full disk the lock holds without a name, and what comes next says that the disk is full.
        return


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that has no name.
        return str(os.getuid())


def _holder(descriptor: int) -> dict[str, Any]:
    """What the holder wrote down; empty where it has not come to that."""
    try:
        who = json.loads(os.pread(descriptor, 2**16, 0))
    except ValueError:
        return {}
    return who if isinstance(who, dict) else {}


def _gone(who: dict[str, Any]) -> bool:
    """Whether the command that took the lock has ended, so that only processes of it are left."""
    pid = who.get("pid")
    if who.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        # Not written yet, or not to be seen from here.
        return not who
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _refusal(root: Path, who: dict[str, Any]) -> str:
    if not who:
        return f"Another command is writing to {root}; wait until it ends, or choose another --workspace."
    ended = "that one was ended, but a process that it started still writes: " if _gone(who) else ""
    return (
        f"{root} is being written by `{who.get('command')}` (process {who.get('pid')} of {who.get('user')} on "
        f"{who.get('host')}, since {who.get('since')}); {ended}wait until it ends, or choose another --workspace."
    )
