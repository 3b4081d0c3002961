"""How things go wrong: a user's mistake, a bad row, or a bug. The three fates never mix.

- `UserError`: one sentence with the cure; the command prints it and exits 2.
- `RowError`: one input row or one request is bad; it becomes a row of the `rejects` table and the run goes on.
- anything else is a bug: it keeps its traceback and the command exits 1.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NoReturn

_MAX_DETAIL = 2000
# Characters of a user's word that are held against known words.
_SHOWN = 100


class ExitCode(IntEnum):
    """What a command tells its shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130
    TERMINATED = 143


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and the cure."""


class RowError(Exception):
    """A row that cannot be used. `reason` is a short fixed word for counting, `detail` says what was seen.

    Details quote what a row held or a server said: long ones are cut, halves of surrogate pairs become question marks,
    and secrets are left out.
    """

    def __init__(self, reason: str, detail: str) -> None:
        detail = redacted(detail[:_MAX_DETAIL]).encode("utf-8", "replace").decode()
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        """So that it comes back from another process."""
        return RowError, (self.reason, self.detail)


class BudgetError(Exception):
    """More failures than the recipe's error budget allows; what is done is kept and the command exits 1."""


class StalledError(Exception):
    """A stage that came to a stand and was given up; what is done is kept and the command exits 1."""


class Interrupted(Exception):
    """Ctrl+C or SIGTERM, after the work in flight was drained and committed; the command exits 130 or 143."""


# Faults of the machine and not of the program, with what helps.
_OUTSIDE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EIO: "check the disk",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give a folder that may be written and files that may be read",
    errno.EPERM: "give a folder that may be written and files that may be read",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or close other programs",
    errno.ESTALE: "mount the folder again",
}


def outside(error: OSError) -> str:
    """The sentence for a fault of the machine."""
    cure = _OUTSIDE.get(error.errno or 0, "check the machine")
    what = "The disk is full" if error.errno == errno.ENOSPC else (error.strerror or "A fault of the machine")
    return f"{what} ({error.filename or 'while reading or writing'}); {cure} and run again: what was finished is kept."


# Control characters, which a terminal would obey, and marks that turn the direction of writing round.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
for _code in map(ord, "\n\t"):
    del _CONTROLS[_code]


# Passwords in addresses, keys in their queries and in headers, tokens of the hub and of OpenAI's kind.
_SECRETS = re.compile(
    r"(?P<kept>://)[^/\s@'\"\\]+(?=@)"
    r"|(?P<name>[?&](?:[a-z_-]*key|[a-z_-]*token|sig|signature|secret|password)=)[^&\s'\"\\]+"
    r"|(?P<word>\bbearer\s+)[^\s'\",}\\]+"
    r"|\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}",
    re.IGNORECASE,
)
_NAMES = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
# A shorter value, or one of small letters alone, may be a word that stands everywhere.
_SHORTEST = 12
_WORD = re.compile(r"[a-z_./-]+")
HIDDEN = "***"


def redacted(text: str) -> str:
    """The text without passwords, keys and tokens: those that look like some, and those of this environment."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES.search(name) and not _WORD.fullmatch(value) and value in text:
            text = text.replace(value, HIDDEN)
    return _SECRETS.sub(lambda found: (found["kept"] or found["name"] or found["word"] or "") + HIDDEN, text)


def said(text: str) -> str:
    """The text as a command may say it: `redacted` and `printable`."""
    return printable(redacted(text))


def printable(text: str) -> str:
    """The text for a terminal, whoever wrote it: control characters do nothing but show that they are there."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode()


# Signals that asked this process to end.
_asked: list[int] = []


def asked(number: int) -> None:
    """Note that this signal asked the command to end: its exit code tells which one did."""
    _asked.append(number)


def _terminate(number: int, _: object) -> None:
    """SIGTERM ends a command as Ctrl+C does, which asyncio and the stages know how to take."""
    asked(number)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a shell's background.
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _leave(number: int, _: object) -> NoReturn:
    # All is said; whoever is impatient need not wait for threads and engines to end.
    os._exit(128 + number)


def _signals(handler: Callable[[int, Any], object], *numbers: int) -> None:
    with contextlib.suppress(ValueError):
        # Elsewhere than in the main thread, whoever runs us there handles signals.
        for number in numbers:
            signal.signal(number, handler)


def _threads_left() -> bool:
    """Whether there are threads that the interpreter would wait for."""
    return any(not each.daemon for each in threading.enumerate() if each is not threading.main_thread())


def guarded(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave with its exit code: the one place where the fates become codes.

    A `UserError` is printed as its sentence alone; a bug keeps its traceback (Python's own exit code 1).
    """
    _signals(_terminate, signal.SIGTERM)
    # Imports make many objects and no garbage; looking for it after every 700 takes a tenth of their time.
    gc.set_threshold(20_000)
    try:
        command()
    except UserError as error:
        sys.stderr.write(said(f"Error: {error}\n"))
        sys.exit(ExitCode.USAGE)
    except BudgetError as error:
        sys.stderr.write(said(f"Failed: {error}\n"))
        sys.exit(ExitCode.FAILED)
    except StalledError as error:
        sys.stderr.write(said(f"Failed: {error}\n"))
        sys.stderr.flush()
        sys.stdout.flush()
        # What hangs in a thread would keep the process from its end.
        os._exit(ExitCode.FAILED)
    except (Interrupted, KeyboardInterrupt, SystemExit) as end:
        # typer leaves with a code of its own where it sees a KeyboardInterrupt.
        cause = getattr(end.__context__, "__cause__", None) if isinstance(end, SystemExit) else end
        if not isinstance(cause, Interrupted | KeyboardInterrupt):
            raise
        _signals(_leave, signal.SIGINT, signal.SIGTERM)
        sys.stderr.write("Interrupted; what was finished is kept, the same command goes on from there.\n")
        code = ExitCode.TERMINATED if _asked[:1] == [signal.SIGTERM] else ExitCode.INTERRUPTED
        if isinstance(cause, KeyboardInterrupt) and _threads_left():
            # What still runs in a thread, such as the start of an engine, would keep the process from its end.
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)
        sys.exit(code)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        sys.stderr.write(said(f"Error: {outside(error)}\n"))
        sys.exit(ExitCode.USAGE)
    except (MemoryError, RuntimeError) as error:
        # Threads have their stacks in memory, too.
        if not isinstance(error, MemoryError) and "start new thread" not in str(error):
            raise
        sys.stderr.write(
            "Error: There is not enough memory; close other programs, or lower what is in memory at once (in_flight, "
            "batch_rows, micro_rows), and run again: what was finished is kept.\n"
        )
        sys.exit(ExitCode.USAGE)
    sys.exit(ExitCode.DONE)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Say '; did you mean "x"?' for the nearest known word, else list the known words."""
    near = difflib.get_close_matches(word[:_SHOWN], known, n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(sorted(known))}"
