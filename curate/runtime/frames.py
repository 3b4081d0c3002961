"""polars, for every module that uses it: whoever imports it by itself makes waits deaf to Ctrl+C."""

from __future__ import annotations

import signal

import polars as pl

__all__ = ["pl"]

# Its handler makes the system start interrupted calls again, so that waiting for a lock, a pipe or a child without a
# time limit would go on as if nobody had pressed the key.
signal.siginterrupt(signal.SIGINT, True)
