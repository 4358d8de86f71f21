"""The wish to end a run well: SIGUSR1 from mpirun, or SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class StopRequest:
    """Made before anything slow is imported, because a signal without a handler ends the rank at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._listener: Callable[[], None] | None = None
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at the signal, at once when it has come already."""
        self._listener = listener
        if self.is_set:
            listener()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        if self._listener is not None:
            self._listener()
