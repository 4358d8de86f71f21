"""One frame at a time: MLPerf's single-stream, where the next query is issued when the one before is answered."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ..pipeline.endpoint import Outbound
from ..pipeline.packet import Array, Packet, TensorSpec


class Turnstile:
    """Stands between a source and the sink beside it, in one process: `enter` before a frame is captured, `leave` at its end."""

    def __init__(self) -> None:
        self._free = threading.Event()
        self._free.set()
        self._is_open = False

    def enter(self) -> None:
        """Wait until the frame before has left."""
        self._free.wait()
        self._free.clear()
        if self._is_open:  # looked at last, so that an `open` in between is not undone
            self._free.set()

    def leave(self) -> None:
        """The frame has ended, whatever its fate."""
        self._free.set()

    def open(self) -> None:
        """From any thread: let everybody through from now on, because the run ends."""
        self._is_open = True
        self._free.set()


class TurnstileSink:
    """An outbound that lets the next frame in when one has come to `sink`."""

    def __init__(self, sink: Outbound, turnstile: Turnstile) -> None:
        self._sink = sink
        self._turnstile = turnstile

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        return self._sink.reserve(packet, specs)

    def send(self, packet: Packet) -> None:
        self._sink.send(packet)
        self._turnstile.leave()

    def close(self) -> None:
        self._sink.close()
