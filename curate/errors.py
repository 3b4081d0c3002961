"""How things go wrong: a user's mistake, a bad row, or a bug. The three fates never mix.

- `UserError`: one sentence with the cure; the command prints it and exits 2.
- `RowError`: one input row or one request is bad; it becomes a row of the `rejects` table and the run goes on.
- anything else is a bug: it keeps its traceback and the command exits 1.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn


class ExitCode(IntEnum):
    """What a command tells its shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and the cure."""


class RowError(Exception):
    """A row that cannot be used. `reason` is a short fixed word for counting, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
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
    """Ctrl+C, after the work in flight was drained and committed; the command exits 130."""


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


def guarded(command: Callable[[], object]) -> NoReturn:
    """Run a command and leave with its exit code: the one place where the fates become codes.

    A `UserError` is printed as its sentence alone; a bug keeps its traceback (Python's own exit code 1).
    """
    try:
        command()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(ExitCode.USAGE)
    except BudgetError as error:
        sys.stderr.write(f"Failed: {error}\n")
        sys.exit(ExitCode.FAILED)
    except StalledError as error:
        sys.stderr.write(f"Failed: {error}\n")
        sys.stderr.flush()
        sys.stdout.flush()
        # What hangs in a thread would keep the process from its end.
        os._exit(ExitCode.FAILED)
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("Interrupted; what was finished is kept, the same command goes on from there.\n")
        sys.exit(ExitCode.INTERRUPTED)
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        sys.stderr.write(f"Error: {outside(error)}\n")
        sys.exit(ExitCode.USAGE)
    except MemoryError:
        sys.stderr.write(
            "Error: There is not enough memory; close other programs, or lower what is in memory at once (in_flight, "
            "batch_rows, micro_rows), and run again: what was finished is kept.\n"
        )
        sys.exit(ExitCode.USAGE)
    sys.exit(ExitCode.DONE)
