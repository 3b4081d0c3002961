"""Runs in every process that vLLM starts, early: mends torch's companions, and ends the process with its owner.

Registered as a `vllm.platform_plugins` entry point that claims no platform. Those run before vLLM's imports reach
torchvision, while general plugins come too late for the process that inspects models. It imports nothing of vLLM.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from curate.models import torch_companions

OWNER = "CURATE_VLLM_OWNER"
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 15.0


def prepare() -> None:
    """Mend torch's companions; in an engine process, stop when its owner is gone. Safe to repeat."""
    torch_companions.mend()
    if os.environ.get(OWNER) != str(os.getppid()):
        return
    if not any(thread.name == OWNER for thread in threading.enumerate()):
        threading.Thread(target=_follow, args=(os.getppid(),), name=OWNER, daemon=True).start()


def _follow(owner: int) -> None:
    """An engine process does not notice that its owner was killed, and would keep its memory for ever.

    Looking at the parent's id, because this runs before `multiprocessing` knows its parent, and because the kernel's
    parent-death signal also comes when only the thread that started the process ends.
    """
    while os.getppid() == owner:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
