"""Whether something has been so for a while without a break."""

from __future__ import annotations


class Hold:
    """Told at every look, answers whether it has held for long enough."""

    def __init__(self, hold_ns: int) -> None:
        self._hold_ns = hold_ns
        self._since_ns: int | None = None

    def look(self, is_so: bool, time_ns: int) -> bool:
        """Whether it is so now, and was at every look of the last `hold_ns`."""
        if not is_so:
            self._since_ns = None
            return False
        if self._since_ns is None:
            self._since_ns = time_ns
        return time_ns - self._since_ns >= self._hold_ns

    def reset(self) -> None:
        """From now on anew."""
        self._since_ns = None
