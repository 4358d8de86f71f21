"""The wish to end a run well: SIGUSR1 from mpirun, or SIGINT."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Made before anything slow is imported, because a signal without a handler ends the rank at once.

    The handler only notes the wish: whatever it called might need a lock that the interrupted code holds.
    """

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
