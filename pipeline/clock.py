"""The one clock all times are read from."""

from __future__ import annotations

from time import monotonic_ns


def now_ns() -> int:
    """This host's monotonic clock, ns. Its zero differs between hosts: never subtract times of two hosts."""
    return monotonic_ns()
