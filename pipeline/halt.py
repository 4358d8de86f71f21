"""The switch that ends all lanes of a rank: the first error is kept, every waiting lane sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .clock import now_ns
from .errors import PeerError

POLL_S = 0.05
"""How often a waiting lane looks at the switch, s."""


class Halt:
    """Shared by all lanes and the communication of one rank."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._listeners: list[Callable[[BaseException], None]] = []
        self.moved_ns = now_ns()
        """When a frame last moved through any lane of this rank, ns; the watchdog reads it."""

    @property
    def error(self) -> BaseException | None:
        """The first error, or None while all is well."""
        return self._error

    def moved(self) -> None:
        """A frame moved: the run is alive."""
        self.moved_ns = now_ns()

    def listen(self, listener: Callable[[BaseException], None]) -> None:
        """Call `listener` once, with the first error, before any lane sees it. It must not raise or wait."""
        self._listeners.append(listener)

    def stop(self, error: BaseException) -> None:
        """End all lanes. Only the first error counts."""
        with self._lock:
            if self._error is not None:
                return
            try:
                for listener in self._listeners:
                    listener(error)
            finally:
                self._error = error

    def check(self) -> None:
        """Raise PeerError when the run is over: the first error itself is reported once, by the rank's main thread."""
        if self._error is not None:
            raise PeerError("the run has ended") from self._error

    def wait_for(self, condition: threading.Condition, ready: Callable[[], bool]) -> None:
        """Wait on `condition` (which is held) until `ready`; raises PeerError when the run ends meanwhile."""
        while not ready():
            self.check()
            condition.wait(POLL_S)
