"""A command's output and the peak memory of its processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def peak(pid: int) -> int:
    """Peak resident memory of a process and its children now alive, in bytes."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.split("VmHWM:")[1].split()[0]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(peak(int(child)) for child in (task / "children").read_text().split())
    except (OSError, IndexError):
        pass
    return total


def run(command: Sequence[str]) -> tuple[str, int]:
    """What a command prints, and the peak of its process tree in bytes; CalledProcessError when it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    maximum = 0
    while process.poll() is None:
        maximum = max(maximum, peak(process.pid))
        time.sleep(0.05)
    assert process.stdout is not None
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return process.stdout.read(), maximum
