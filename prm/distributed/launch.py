"""Whether this process was started as one of several (by torchrun or the like), and how it ends then."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from curate import errors

_WORD_SECONDS = 1.0


def several() -> bool:
    """Whether RANK and WORLD_SIZE, as torchrun sets them, name more processes than this one."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def guarded(command: Callable[[], object]) -> NoReturn:
    """`curate.errors.guarded` for one of several processes: on its way out it waits for nobody.

    An interpreter that ends as usual tears its process group down, and on GPUs that may wait for operations whose other
    half failed. So the process ends at once; whoever started it sees the code and ends the others.
    """
    code: object = errors.ExitCode.FAILED
    try:
        errors.guarded(command)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if code and os.environ["RANK"] != "0":
        # The first has the word, and torchrun ends all the others as soon as one has ended.
        time.sleep(_WORD_SECONDS)
    os._exit(code if isinstance(code, int) else 0)
