"""Runs in every process that vLLM starts, early: mends torch's companions, and ends the process with its owner.

Registered as a `vllm.platform_plugins` entry point that claims no platform. Those run before vLLM's imports reach
torchvision, while general plugins come too late for the process that inspects models. It imports nothing of vLLM.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

from curate.engines import torch_companions

OWNER = "CURATE_VLLM_OWNER"
_GRACE_SECONDS = 15.0


def prepare() -> None:
    """Mend torch's companions; in an engine process whose owner is gone, stop. Safe to repeat."""
    torch_companions.mend()
    owner = multiprocessing.parent_process()
    if owner is None or os.environ.get(OWNER) != str(owner.pid):
        return
    if not any(thread.name == OWNER for thread in threading.enumerate()):
        threading.Thread(target=_follow, name=OWNER, daemon=True).start()


def _follow() -> None:
    """vLLM's engine process does not notice that its owner was killed; it would keep its memory for ever.

    Not the kernel's parent-death signal: that one also comes when only the thread that started the process ends.
    """
    owner = multiprocessing.parent_process()
    if owner is not None:
        owner.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)
