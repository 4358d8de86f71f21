"""The two ends of a lane: where packets come from and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .packet import Array, Packet, TensorSpec


class Inbound(Protocol):
    """Where a lane's packets come from: a source, another lane, another rank."""

    def receive(self) -> Packet | None:
        """The next packet in frame order, or None after the last one. Blocks."""

    def close(self) -> None:
        """Free what it holds; called once, by the lane's thread."""


class Outbound(Protocol):
    """Where a lane's packets go: a sink, another lane, another rank."""

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        """Wait until `packet` may be sent, before it is computed. Returns arrays to write the tensors of `specs` into,
        or None where there is nothing to write into."""

    def send(self, packet: Packet) -> None:
        """Take the packet over, of whatever kind. Blocks while the other side is full. Calls `packet.release` once its
        tensors are no longer needed."""

    def close(self) -> None:
        """No more packets: tell the other side, flush, free. Called once, by the lane's thread, also after an error
        elsewhere; what was written stays valid."""
